"""What is served by its path alone, with no application and none of its threads."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Sequence
from typing import Final

from twisted.logger import Logger

from graceful.config.values import Mapping
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import OpenFile, open_file
from graceful.downloads.headers import Answer, judged
from graceful.downloads.sender import Sender
from graceful.downloads.targets import File, RefusedPath, Url, resolve
from graceful.web.exchange import DOWNLOADING, Exchange

log = Logger(namespace="graceful")


ALLOWED: Final = ("GET", "HEAD")


class PublicPrefixes:
    """Answers requests below some prefixes; a route of :class:`graceful.web.prefix_routes.PrefixRoutes`.

    :param sender: sends it.
    :param mappings: the prefixes, and what is there.
    """

    def __init__(self, sender: Sender, mappings: Sequence[Mapping]) -> None:
        self._sender = sender
        self._mappings = mappings

    def answer(self, exchange: Exchange) -> bool:
        """Answer, now or later.  Any thread; False if nothing is mapped there."""
        site = exchange.connection.site
        path = exchange.target.decode("latin-1")
        try:
            target = resolve(self._mappings, path)
        except RefusedPath as refused:
            self._sender.say_refused(exchange, path, refused)
            site.answer(exchange, 404)
            return True
        if target is None:
            return False
        if exchange.method not in ALLOWED:
            site.answer(exchange, 405, f"Allow: {', '.join(ALLOWED)}\r\n")
        elif isinstance(target, Url):
            self._sender.url_soon(exchange, target.url, Answer())()
        else:
            file = target
            exchange.download = True
            exchange.phase = DOWNLOADING
            self._sender.soon(exchange, lambda: self._open(exchange, file, path))
        return True

    def _open(self, exchange: Exchange, target: File, path: str) -> None:
        opened: list[OpenFile] = []
        self._sender.disk.do(
            lambda: opened.append(open_file(target)),
            lambda error: self._opened(exchange, target, path, opened, error),
        )

    def _opened(
        self, exchange: Exchange, target: File, path: str, opened: list[OpenFile], error: BaseException | None
    ) -> None:
        sender, site = self._sender, exchange.connection.site
        if isinstance(error, RefusedPath):
            sender.say_refused(exchange, path, error)
            site.answer(exchange, 404)
            return
        if error is not None:
            log.error("{exchange}: {path!r} cannot be opened: {error}", exchange=exchange, path=path, error=error)
            site.answer(exchange, 500)
            return
        (file,) = opened

        def begin() -> None:
            guess = mimetypes.guess_type(os.fsdecode(target.path))[0] or "application/octet-stream"
            status, fields, verdict = judged(exchange, Answer(), file, guess)
            exchange.start(status, fields)
            FileSender(exchange, file, verdict.first, verdict.end, sender.disk).begin()

        sender.if_wanted(exchange, begin, file.close)
