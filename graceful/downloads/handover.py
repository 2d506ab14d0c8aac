"""Where an answer leaves its thread for the event loop: what an application offers, and what becomes of it.

There are three ways in: an application's token (:mod:`graceful.downloads.token`), its `X-Accel-Redirect`, and its
`wsgi.file_wrapper`.  All of them come down to a file, a URL, or a place to wait.  What cannot be taken, the thread
does by itself: every offer has a body that can be iterated over.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from tempfile import _TemporaryFileWrapper
from typing import Any, Final

from graceful.config.values import Mapping
from graceful.downloads.files import OpenFile, look_at, open_file
from graceful.downloads.headers import answer_of, as_it_is, judged
from graceful.downloads.parked import Parked
from graceful.downloads.parking_lot import ParkingLot
from graceful.downloads.sender import Go, Sender
from graceful.downloads.targets import RefusedPath, Url, resolve
from graceful.downloads.token import HEADER, Download, claim
from graceful.web.exchange import PARKED, Exchange
from graceful.web.response_headers import reason

SMALL: Final = 65536
_OFFER: Final = HEADER.lower()


class HandOver:
    """Takes answers from threads; a `graceful.web.site.HandOver`.

    :param sender: sends files and URLs.
    :param lot: where parked requests wait.
    :param internal: what `X-Accel-Redirect` may name.
    """

    def __init__(self, sender: Sender, lot: ParkingLot, internal: Sequence[Mapping] = ()) -> None:
        self._sender = sender
        self._lot = lot
        self._internal = internal

    def takes(self, name: str) -> bool:
        """Whether an answer's field of this name is an offer.

        `X-Accel-Redirect` is one if it has been said what it may name; else it is for a proxy in front of us.
        """
        return name.lower() == _OFFER or bool(self._internal)

    def __call__(self, exchange: Exchange, result: Any) -> Go | None:
        """Look at what an application offers, and prepare it.  In its thread."""
        offer, exchange.offer = exchange.offer, None
        if offer is None:
            return self._wrapped_file(exchange, result.file)
        name, value = offer
        if name != _OFFER:
            return self._redirected(exchange, value)
        if not 200 <= exchange.status < 300 or exchange.status == 204 or self._transformed(exchange):
            return None
        token = claim(value, exchange)
        if isinstance(token, Download):
            return self._download(exchange, token)
        if isinstance(token, Parked):
            return self._parked(exchange, token)
        return None

    @staticmethod
    def _transformed(exchange: Exchange) -> bool:
        """Whether a middleware has said that the body is no longer the token's: compressed, say."""
        return any(name.lower() == "content-encoding" and value != "identity" for name, value in exchange.fields())

    # -- tokens -------------------------------------------------------------------------------------------

    def _download(self, exchange: Exchange, token: Download) -> Go | None:
        if token.remote:
            return self._sender.url_soon(exchange, token.target, answer_of(exchange))
        file = token.take_file()
        return self._file(exchange, file) if file is not None else None

    def _parked(self, exchange: Exchange, ticket: Parked) -> Go:
        stream = any(
            name.lower() == "content-type" and value.lower().startswith("text/event-stream")
            for name, value in exchange.fields()
        )
        if stream:
            exchange.start(f"{exchange.status} {reason(exchange.status)}", as_it_is(exchange.fields()))
        exchange.phase = PARKED

        def gone() -> None:
            if ticket.end():
                ticket.gone.callback(None)

        return lambda: self._sender.soon(exchange, lambda: self._lot.park(exchange, ticket, stream), gone)

    # -- X-Accel-Redirect ---------------------------------------------------------------------------------

    def _redirected(self, exchange: Exchange, path: str) -> Go:
        try:
            target = resolve(self._internal, path)
            if target is None:
                raise RefusedPath("nothing is mapped there")
            if isinstance(target, Url):
                return self._sender.url_soon(exchange, target.url, answer_of(exchange))
            return self._file(exchange, open_file(target))
        except RefusedPath as refused:
            self._sender.say_refused(exchange, path, refused)
            return lambda: exchange.connection.site.answer(exchange, 404)

    # -- files --------------------------------------------------------------------------------------------

    def _file(self, exchange: Exchange, file: OpenFile) -> Go:
        """Send a file: if that is little at once, from this thread; else it is the event loop's.

        It is closed whatever happens.
        """
        try:
            status, fields, verdict = judged(exchange, answer_of(exchange), file, None)
            exchange.start(status, fields)
            size = verdict.end - verdict.first
            if size > SMALL:
                return self._sender.file_soon(exchange, file, verdict.first, verdict.end)
            data = b"" if exchange.bare() else os.pread(file.fd, size, verdict.first)
            exchange.finish(data)
        except BaseException:
            file.close()
            raise
        file.close()
        return exchange.release

    def _wrapped_file(self, exchange: Exchange, wrapped: Any) -> Go | None:
        """`wsgi.file_wrapper` around a real file: from where it is now, as long as the application has said."""
        plain = _plain_file(wrapped)
        if plain is None or exchange.head is None or exchange.bare():
            return None
        try:
            place, seen = plain.tell(), look_at(plain.fileno())
            left = seen.size - place
            if left <= SMALL or exchange.length > left or not plain.readable():
                return None
            file = OpenFile(os.dup(seen.fd), seen.size, seen.modified)  # the application closes its own
        except (OSError, ValueError, RefusedPath):
            return None
        if exchange.length < 0:
            exchange.length = left
        return self._sender.file_soon(exchange, file, place, place + exchange.length)


def _plain_file(wrapped: Any) -> Any:
    """The file whose bytes are what `read` would give; None for everything that unpacks, decodes or computes."""
    if isinstance(wrapped, _TemporaryFileWrapper):
        wrapped = wrapped.file
    if type(wrapped) is io.FileIO:
        return wrapped
    if type(wrapped) in (io.BufferedReader, io.BufferedRandom) and type(wrapped.raw) is io.FileIO:
        return wrapped
    return None
