"""Where an answer leaves its thread for the event loop: what an application offers, and what becomes of it.

There are three ways in: an application's token (:mod:`graceful.downloads.token`), its `X-Accel-Redirect`, and its
`wsgi.file_wrapper`.  All of them come down to a file, a URL, or a place to wait.  What the event loop cannot take,
the thread sends itself: every offer has a body that can be iterated over.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import _TemporaryFileWrapper
from typing import Any, Final

from graceful.config.values import Mapping
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import OpenFile, look_at, open_file
from graceful.downloads.headers import application_head, file_head, without_identity
from graceful.downloads.parked import Parked
from graceful.downloads.parking_lot import ParkedRequest, ParkingLot
from graceful.downloads.reactor_answer import ReactorAnswer, mark_download, start_soon
from graceful.downloads.relay_pool import RelayPool, UrlAnswer
from graceful.downloads.targets import RefusedPath, Url, log_refusal, resolve
from graceful.downloads.token import HEADER, Download, claim
from graceful.threads.disk import DiskThreads
from graceful.web.exchange import PARKED, Exchange
from graceful.web.response_headers import reason

#: Bytes: a file up to this size is sent by its thread at once, which costs less than handing it over.
SMALL: Final = 65536
_OFFER: Final = HEADER.lower()
# Bytes of a name that the application has not quoted, as characters of latin-1.
_UNQUOTED: Final = re.compile("[\x80-\xff]")


#: Called by the thread when it has closed the application's answer; it begins the one that was handed over.
Start = Callable[[], object]


class AnswerHandOver:
    """Takes answers from threads; a `graceful.web.carrier.HandOver`.

    :param call: calls a function in the reactor thread, from any thread.
    :param disk: reads what is not in memory.
    :param relays: answers with what upstream servers have.
    :param parking_lot: where parked requests wait.
    :param internal: the paths that `X-Accel-Redirect` may name.
    """

    def __init__(
        self,
        call: Callable[..., object],
        disk: DiskThreads,
        relays: RelayPool,
        parking_lot: ParkingLot,
        internal: Sequence[Mapping] = (),
    ) -> None:
        self._call = call
        self._disk = disk
        self._relays = relays
        self._parking_lot = parking_lot
        self._internal = internal

    def takes(self, name: str) -> bool:
        """Whether an answer's field of this name is an offer.

        `X-Accel-Redirect` is one if paths are mapped for it; else it is for a proxy in front of this server.
        """
        return name.lower() == _OFFER or bool(self._internal)

    def __call__(self, exchange: Exchange, result: Any) -> Start | None:
        """Prepare the answer that an application offers.  In its thread.

        :returns: what the thread calls when it has closed the application's answer; None: it sends the body itself.
        """
        offer, exchange.offer = exchange.offer, None
        if exchange.begun and (offer is None or offer[0] != _OFFER):
            return None  # an event stream that has begun in another process
        if offer is None:
            return self._wrapped_file(exchange, result.file)
        name, value = offer
        if name != _OFFER:
            return self._redirected(exchange, value)
        if not 200 <= exchange.status < 300 or exchange.status == 204 or self._transformed(exchange):
            return None
        token = claim(value, exchange)
        if isinstance(token, Download) and not exchange.begun:
            return self._download(exchange, token)
        if isinstance(token, Parked):
            return self._parked(exchange, token)
        return None

    @staticmethod
    def _transformed(exchange: Exchange) -> bool:
        """Whether a middleware has changed the token's body, for example compressed it."""
        return any(name.lower() == "content-encoding" and value != "identity" for name, value in exchange.fields())

    # -- tokens -------------------------------------------------------------------------------------------

    def _download(self, exchange: Exchange, token: Download) -> Start | None:
        if token.remote:
            return self._url(exchange, token.target)
        file = token.take_file()
        return self._file(exchange, file) if file is not None else None

    def _parked(self, exchange: Exchange, ticket: Parked) -> Start:
        stream = any(
            name.lower() == "content-type" and value.lower().startswith("text/event-stream")
            for name, value in exchange.fields()
        )
        if stream:
            exchange.start(f"{exchange.status} {reason(exchange.status)}", without_identity(exchange.fields()))
        exchange.phase = PARKED
        return self._start(ParkedRequest(exchange, ticket, self._parking_lot, stream))

    # -- X-Accel-Redirect ---------------------------------------------------------------------------------

    def _redirected(self, exchange: Exchange, path: str) -> Start:
        try:
            # nginx takes such a path with or without quoting, and an application that stood behind it may do either.
            target = resolve(self._internal, _UNQUOTED.sub(lambda found: f"%{ord(found[0]):02X}", path))
            if target is None:
                raise RefusedPath("nothing is mapped there")
            if isinstance(target, Url):
                return self._url(exchange, target.url)
            return self._file(exchange, open_file(target))
        except RefusedPath as refused:
            log_refusal(exchange, path, refused)
            return lambda: exchange.connection.site.answer(exchange, 404)

    # -- what the reactor thread begins -------------------------------------------------------------------

    def _start(self, answer: ReactorAnswer) -> Start:
        return partial(start_soon, self._call, answer)

    def _url(self, exchange: Exchange, url: str) -> Start:
        mark_download(exchange)
        return self._start(UrlAnswer(exchange, url, application_head(exchange), self._relays))

    def _send(self, exchange: Exchange, file: OpenFile, first: int, end: int) -> Start:
        mark_download(exchange)
        return self._start(FileSender(exchange, file, first, end, self._disk))

    # -- files --------------------------------------------------------------------------------------------

    def _file(self, exchange: Exchange, file: OpenFile) -> Start:
        """Send a small file from this thread at once, and leave a larger one to the event loop.

        The file is closed in any case.
        """
        try:
            status, fields, selection = file_head(exchange, application_head(exchange), file, None)
            exchange.start(status, fields)
            size = selection.end - selection.first
            if size > SMALL:
                return self._send(exchange, file, selection.first, selection.end)
            data = b"" if exchange.bare() else os.pread(file.fd, size, selection.first)
            exchange.finish(data)
        except BaseException:
            file.close()
            raise
        file.close()
        return exchange.release

    def _wrapped_file(self, exchange: Exchange, wrapped: Any) -> Start | None:
        """Take `wsgi.file_wrapper` around a real file: from its current position, for the announced length."""
        plain = _plain_file(wrapped)
        if plain is None or exchange.head is None or exchange.bare():
            return None
        try:
            place, seen = plain.tell(), look_at(plain.fileno())
            left = seen.size - place
            if left <= SMALL or exchange.length > left or not plain.readable():
                return None
            file = OpenFile(os.dup(seen.fd), seen.size, seen.modified)  # the application closes its own descriptor
        except (OSError, ValueError, RefusedPath):
            return None
        if exchange.length < 0:
            exchange.length = left
        return self._send(exchange, file, place, place + exchange.length)


def _plain_file(wrapped: Any) -> Any:
    """Return the real file below a wrapped one; None if its `read` does not return the file's bytes as they are."""
    if isinstance(wrapped, _TemporaryFileWrapper):
        wrapped = wrapped.file
    if type(wrapped) is io.FileIO:
        return wrapped
    if type(wrapped) in (io.BufferedReader, io.BufferedRandom) and type(wrapped.raw) is io.FileIO:
        return wrapped
    return None
