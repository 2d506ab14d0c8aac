"""Files and URLs that are served by the path of the request, without the application and its threads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from twisted.logger import Logger
from zope.interface import implementer

from graceful.config.values import Mapping
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import OpenFile
from graceful.downloads.headers import ApplicationHead, file_head
from graceful.downloads.media_types import media_type
from graceful.downloads.precompressed import accepted, open_best
from graceful.downloads.reactor_answer import begin_or_drop, mark_download, run_or_fail, start_soon
from graceful.downloads.relay_pool import RelayPool, UrlAnswer
from graceful.downloads.targets import File, RefusedPath, Url, log_refusal, resolve
from graceful.threads.disk import DiskThreads
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IAnswerer

log = Logger(namespace="graceful")


#: For a year, which is as good as ever (RFC 9111 §5.2.2, RFC 8246).
FOR_EVER: Final = "public, max-age=31536000, immutable"

#: The methods that a file or a URL is served for.
ALLOWED: Final = ("GET", "HEAD")


class PublicPrefixes:
    """Answers requests below some prefixes; a route of :class:`graceful.web.prefix_routes.PrefixRoutes`.

    :param call: calls a function in the reactor thread, from any thread.
    :param disk: opens files.
    :param relays: answers with what upstream servers have.
    :param mappings: the prefixes, and what is there.
    :param immutable: matches in the paths of files that never change; None if all may.
    """

    def __init__(
        self,
        call: Callable[..., object],
        disk: DiskThreads,
        relays: RelayPool,
        mappings: Sequence[Mapping],
        immutable: re.Pattern[str] | None = None,
    ) -> None:
        self._immutable = immutable
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
                else _FileAnswer(exchange, target, path, self._disk, self._never_changes(path)),
            )
        return True

    def _never_changes(self, path: str) -> bool:
        return self._immutable is not None and self._immutable.search(path.partition("?")[0]) is not None


@implementer(IAnswerer)
class _FileAnswer:
    """An answer with a file that is yet to be opened, in a thread of the disk's.  Reactor thread.

    :param path: as the client has sent it.
    :param immutable: what is there never changes.
    """

    def __init__(self, exchange: Exchange, target: File, path: str, disk: DiskThreads, immutable: bool) -> None:
        self.exchange = exchange
        self._target = target
        self._path = path
        self._disk = disk
        self._file: OpenFile | None = None
        self._fields: list[tuple[str, str]] = [("Cache-Control", FOR_EVER)] if immutable else []
        self._opening = False

    def begin(self) -> None:
        """Open the file."""
        self.exchange.handler = self
        self._opening = True
        self._disk.do(self._open, partial(run_or_fail, self, self._opened))

    def drop(self) -> None:
        """Close the file if it is open; what is still being opened is closed when it is."""
        if self._file is not None:
            self._file.close()

    def disconnected(self, exchange: Exchange) -> None:
        """Do nothing: the thread that opens the file will return."""

    def parked(self, exchange: Exchange) -> bool:
        """Return False: a thread works for it."""
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Whether the file is still being opened."""
        return self._opening

    def _open(self) -> None:
        self._file, coding, varies = open_best(self._target, accepted(self.exchange.headers))
        if coding:
            self._fields += [("ETag", f'{self._file.etag[:-1]}-{coding}"'), ("Content-Encoding", coding)]
        if varies:
            self._fields.append(("Vary", "Accept-Encoding"))

    def _opened(self, error: BaseException | None) -> None:
        self._opening = False
        exchange, path = self.exchange, self._path
        if isinstance(error, RefusedPath):
            log_refusal(exchange, path, error)
            exchange.connection.site.answer(exchange, 404)
        elif error is not None:
            log.error("{exchange}: {path!r} cannot be opened: {error}", exchange=exchange, path=path, error=error)
            exchange.connection.site.answer(exchange, 500)
        else:
            assert self._file is not None
            guess = media_type(os.fsdecode(self._target.path))
            head = ApplicationHead(fields=tuple(self._fields))
            begin_or_drop(_OpenFileAnswer(exchange, self._file, guess, self._disk, head))


class _OpenFileAnswer:
    """An answer with an open file.  Reactor thread.

    :param guess: the file's media type.
    :param head: what is said of the file besides.
    """

    def __init__(
        self, exchange: Exchange, file: OpenFile, guess: str, disk: DiskThreads, head: ApplicationHead
    ) -> None:
        self._head = head
        self.exchange = exchange
        self._file = file
        self._guess = guess
        self._disk = disk

    def begin(self) -> None:
        """Start the answer, and send what the request wants of the file."""
        status, fields, selection = file_head(self.exchange, self._head, self._file, self._guess)
        if selection.status in (412, 416):  # which say nothing of the file that could be kept
            fields = [field for field in fields if field[0] != "Cache-Control"]
        self.exchange.start(status, fields)
        FileSender(self.exchange, self._file, selection.first, selection.end, self._disk).begin()

    def drop(self) -> None:
        """Close the file."""
        self._file.close()
