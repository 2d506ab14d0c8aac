"""Connections move from the predecessor, so that a deploy closes none: the successor's side.

A thread asks the predecessor for batch after batch (:mod:`graceful.takeover.connection_moves`), for as long as that
lives: a connection that is busy there moves when its answer is complete.  This process reads from a connection only
when the predecessor has closed its own descriptor for it.  If the predecessor dies before it has said so, no other
process can read from it any more, and this one does; if it only hangs up, it keeps the connection, and this one lets
go.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from attrs import define
from twisted.logger import Logger

from graceful.control.client import ClientError, ControlRefused, Vanished
from graceful.takeover.parcels import FORMAT, unpack
from graceful.web.carrying import Carried
from graceful.web.moving import BadConnection, MovedConnection

log = Logger(namespace="graceful")


#: Seconds until the predecessor is asked again when no connection was idle: a request may wait for so long.
PAUSE: Final = 0.02
#: Seconds for an answer: the predecessor's event loop may be busy.
ANSWERS_IN: Final = 30.0


@define
class Arrived:
    """A connection that the predecessor has sent.

    :ivar carried: what of it is not in the kernel.
    :ivar refused: that cannot be read, so that the connection stays with the predecessor.
    """

    moved: MovedConnection
    sock: socket.socket
    carried: Carried | None = None
    refused: bool = False

    def close(self) -> None:
        """Close the descriptors: it is not this process's."""
        self.sock.close()
        for file in self.carried.files if self.carried is not None else ():
            os.close(file)


class Source(Protocol):
    """A client of the predecessor's control that receives descriptors with an answer."""

    def post(self, target: str, *, timeout: float | None = ..., **values: Any) -> Any:
        """Gives an order; returns the answer."""

    def take_descriptors(self) -> list[int]:
        """Returns the descriptors that were received, which are the caller's from now on."""


class Destination(Protocol):
    """What serves on connections that have moved here (see :class:`graceful.server.engine.Engine`)."""

    def room(self) -> int:
        """Returns how many further connections there may be.  Any thread."""

    def take_in(self, sock: socket.socket, moved: MovedConnection, carried: Carried | None = None) -> None:
        """Serve on a connection, with what of it is not in the kernel.  Reactor thread."""


class ConnectionArrivals:
    """Takes connections in.

    :param source: the predecessor.
    :param pid: its process.
    :param dead: returns whether it has ended, when it has hung up.
    :param destination: serves on the connections.
    :param call: calls a function in the reactor thread, from any thread.
    """

    def __init__(
        self,
        source: Source,
        pid: int,
        dead: Callable[[], bool],
        destination: Destination,
        call: Callable[..., object],
    ) -> None:
        self._source = source
        self._pid = pid
        self._dead = dead
        self._destination = destination
        self._call = call
        self._stopped = threading.Event()
        self._count = self._logged = 0

    def stop(self) -> None:
        """Take no more in: the rest stays with the predecessor.  Any thread."""
        self._stopped.set()

    def run(self) -> None:
        """Take connections in until the predecessor ends.  Blocks, in a thread of its own."""
        batch: list[Arrived] = []
        try:
            while not self._stopped.is_set():
                batch = self._next(batch)
                if not batch:
                    self._say()
                    self._stopped.wait(PAUSE)
        except Vanished:
            if self._dead():
                self._take_in(batch)
                batch = []
        except ControlRefused:
            pass  # it is of an earlier version, or a supervisor, whose workers have the connections
        except (ClientError, BadConnection) as error:
            log.warn("no more connections move from process {pid}: {error}", pid=self._pid, error=error)
        finally:
            for one in batch:
                one.close()
            self._close_undescribed()
            self._say()

    def _next(self, last: list[Arrived]) -> list[Arrived]:
        """Say that the last batch has arrived, serve on it, and return the next one."""
        room = max(0, self._destination.room() - len(last))
        refused = [number for number, one in enumerate(last) if one.refused]
        values = {"taken": len(last), "room": room, "carries": FORMAT, **({"refused": refused} if refused else {})}
        said = self._source.post("/takeover/connections", timeout=ANSWERS_IN, **values)
        descriptors = self._source.take_descriptors()
        self._take_in(last)
        last.clear()
        return _read(said.get("connections"), descriptors)

    def _close_undescribed(self) -> None:
        """Close what came without its description: the predecessor has ended, or failed, in between."""
        for descriptor in self._source.take_descriptors():
            os.close(descriptor)

    def _take_in(self, batch: list[Arrived]) -> None:
        for one in batch:
            if one.refused:
                one.close()
            else:
                self._count += 1
                self._call(self._serve, one)

    def _serve(self, one: Arrived) -> None:
        try:
            self._destination.take_in(one.sock, one.moved, one.carried)
        except Exception:
            log.failure("a connection that has moved here cannot be served, and is closed")
            one.sock.close()

    def _say(self) -> None:
        if self._count > self._logged:
            self._logged = self._count
            log.info("{count} connections have moved here from process {pid}", count=self._count, pid=self._pid)


def _read(described: object, descriptors: Sequence[int]) -> list[Arrived]:
    """Returns the connections of an answer.

    :param described: what the answer says of them.
    :param descriptors: what came with it; all are closed if it is not valid.
    :raises BadConnection: it is not valid.
    """
    try:
        if not isinstance(described, list):
            raise BadConnection("what has moved is not described")
        moved = [MovedConnection.read(one) for one in described]
        if sum(1 + one.descriptors for one in moved) != len(descriptors):
            raise BadConnection("what has moved is not what was announced")
    except BadConnection:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    left = iter(descriptors)
    return [_arrived(one, [next(left) for _ in range(1 + one.descriptors)]) for one in moved]


def _arrived(moved: MovedConnection, descriptors: Sequence[int]) -> Arrived:
    arrived = Arrived(moved, socket.socket(fileno=descriptors[0]))
    if moved.descriptors:
        try:
            arrived.carried = unpack(descriptors[1:])
        except BadConnection as error:
            arrived.refused = True
            log.warn("a connection stays with the predecessor: {error}", error=error)
    return arrived
