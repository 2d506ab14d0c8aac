"""Answers of the event loop that another process has begun: here they go on.

A file comes with its descriptor, and goes on where it was, whatever has become of its name.  Of a URL the upstream is
asked for the rest, as after a restart of the upstream.  The view of an event stream is called again, with the id of
the last event that its client has got.
"""

from __future__ import annotations

from typing import Any

from graceful.downloads.event_stream import STREAM
from graceful.downloads.file_sender import FILE, FileSender
from graceful.downloads.files import OpenFile
from graceful.downloads.relay_pool import RelayPool
from graceful.threads.disk import DiskThreads
from graceful.web.carrying import Resume
from graceful.web.exchange import QUEUED, Exchange
from graceful.web.moved_exchange import MovedExchange

#: The kind of :class:`graceful.downloads.relay.Relay`, which may not be imported yet.
URL = "url"
LAST_EVENT_ID = b"Last-Event-ID"


class Resuming:
    """Goes on with answers.  Reactor thread.

    :param disk: reads what is not in memory.
    :param relays: asks upstream servers.
    :ivar kinds: what goes on, by the kind of the answer.
    """

    def __init__(self, disk: DiskThreads, relays: RelayPool) -> None:
        self._disk = disk
        self._relays = relays
        self.kinds: dict[str, Resume] = {FILE: self._file, URL: self._url, STREAM: self._stream}

    def _file(self, exchange: Exchange, state: dict[str, Any], files: list[int]) -> None:
        file = OpenFile(files[0], state["size"], state["modified"])
        FileSender(exchange, file, state["offset"], state["end"], self._disk).resume()

    def _url(self, exchange: Exchange, state: dict[str, Any], files: list[int]) -> None:
        self._relays.resume(exchange, state)

    @staticmethod
    def _stream(exchange: Exchange, state: dict[str, Any], files: list[int]) -> None:
        assert isinstance(exchange, MovedExchange)
        if state["id"] is not None:
            headers = [(name, value) for name, value in exchange.headers if name.lower() != b"last-event-id"]
            if state["id"]:
                headers.append((LAST_EVENT_ID, state["id"].encode("latin-1")))
            exchange.headers = headers
        exchange.resumes = True
        exchange.phase = QUEUED
        exchange.connection.site.dispatch(exchange)
