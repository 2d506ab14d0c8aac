"""Files and URLs that are served by the path of the request, without the application and its threads."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Sequence
from typing import Final

from twisted.logger import Logger

from graceful.config.values import Mapping
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import OpenFile, open_file
from graceful.downloads.headers import ApplicationHead, file_head
from graceful.downloads.reactor_answer import begin_or_drop, mark_download, start_soon
from graceful.downloads.relay_pool import RelayPool, UrlAnswer
from graceful.downloads.targets import File, RefusedPath, Url, log_refusal, resolve
from graceful.threads.disk import DiskThreads
from graceful.web.exchange import Exchange

log = Logger(namespace="graceful")


#: The methods that a file or a URL is served for.
ALLOWED: Final = ("GET", "HEAD")


class PublicPrefixes:
    """Answers requests below some prefixes; a route of :class:`graceful.web.prefix_routes.PrefixRoutes`.

    :param call: calls a function in the reactor thread, from any thread.
    :param disk: opens files.
    :param relays: answers with what upstream servers have.
    :param mappings: the prefixes, and what is there.
    """

    def __init__(
        self, call: Callable[..., object], disk: DiskThreads, relays: RelayPool, mappings: Sequence[Mapping]
    ) -> None:
        self._call = call
        self._disk = disk
        self._relays = relays
        self._mappings = mappings

    def answer(self, exchange: Exchange) -> bool:
        """Answer, now or later.  Any thread.

        :returns: False if nothing is mapped there.
        """
        site = exchange.connection.site
        path = exchange.target.decode("latin-1")
        try:
            target = resolve(self._mappings, path)
        except RefusedPath as refused:
            log_refusal(exchange, path, refused)
            site.answer(exchange, 404)
            return True
        if target is None:
            return False
        if exchange.method not in ALLOWED:
            site.answer(exchange, 405, f"Allow: {', '.join(ALLOWED)}\r\n")
        else:
            mark_download(exchange)
            start_soon(
                self._call,
                UrlAnswer(exchange, target.url, ApplicationHead(), self._relays)
                if isinstance(target, Url)
                else _FileAnswer(exchange, target, path, self._disk),
            )
        return True


class _FileAnswer:
    """An answer with a file that is yet to be opened, in a thread of the disk's.  Reactor thread.

    :param path: as the client has sent it.
    """

    def __init__(self, exchange: Exchange, target: File, path: str, disk: DiskThreads) -> None:
        self.exchange = exchange
        self._target = target
        self._path = path
        self._disk = disk
        self._file: OpenFile | None = None

    def begin(self) -> None:
        """Open the file."""
        self._disk.do(self._open, self._opened)

    def drop(self) -> None:
        """Do nothing: the file is not open yet."""

    def _open(self) -> None:
        self._file = open_file(self._target)

    def _opened(self, error: BaseException | None) -> None:
        exchange, path = self.exchange, self._path
        if isinstance(error, RefusedPath):
            log_refusal(exchange, path, error)
            exchange.connection.site.answer(exchange, 404)
        elif error is not None:
            log.error("{exchange}: {path!r} cannot be opened: {error}", exchange=exchange, path=path, error=error)
            exchange.connection.site.answer(exchange, 500)
        else:
            assert self._file is not None
            guess = mimetypes.guess_type(os.fsdecode(self._target.path))[0] or "application/octet-stream"
            begin_or_drop(_OpenFileAnswer(exchange, self._file, guess, self._disk))


class _OpenFileAnswer:
    """An answer with an open file.  Reactor thread.

    :param guess: the file's media type.
    """

    def __init__(self, exchange: Exchange, file: OpenFile, guess: str, disk: DiskThreads) -> None:
        self.exchange = exchange
        self._file = file
        self._guess = guess
        self._disk = disk

    def begin(self) -> None:
        """Start the answer, and send what the request wants of the file."""
        status, fields, selection = file_head(self.exchange, ApplicationHead(), self._file, self._guess)
        self.exchange.start(status, fields)
        FileSender(self.exchange, self._file, selection.first, selection.end, self._disk).begin()

    def drop(self) -> None:
        """Close the file."""
        self._file.close()
