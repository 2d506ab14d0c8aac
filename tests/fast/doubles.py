"""Stand-ins that the engine's tests share: a reactor that only collects calls, clients on socketpairs, a handler that writes down.

The hub, the site and the connections are the real ones.  Nothing happens by itself: `Engine.turn` does what the
reactor would do now, and returns when there is nothing left to do.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.settings import Settings
from graceful.web import connection as connection_module
from graceful.web import exchange as exchange_module
from graceful.web import site as site_module
from graceful.web.connection import Connection
from graceful.web.exchange import Exchange
from graceful.web.hub import Hub
from graceful.web.site import Site

PEER = ("192.0.2.1", 50000)
SERVER = ("198.51.100.1", 8080)
MANY_TURNS = 10_000


class Reactor:
    """What the hub asks of a reactor: calls wait until `run`."""

    def __init__(self) -> None:
        self.readers: list[Any] = []
        self.calls: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)

    def callFromThread(self, function: Callable[..., object], *args: object) -> None:
        self.calls.append((function, args))

    def run(self) -> None:
        """Make the calls that wait, and those that they ask for."""
        while self.calls:
            function, args = self.calls.popleft()
            function(*args)


class Handler:
    """Takes every exchange, and leaves it to the test to answer it.

    :ivar asked: the exchanges whose turn has come, in order.
    :ivar left: those whose client has left before they were answered.
    :ivar answer: called with each exchange at once, instead of waiting for the test.
    """

    def __init__(self) -> None:
        self.asked: list[Exchange] = []
        self.left: list[Exchange] = []
        self.answer: Callable[[Exchange], object] | None = None

    def handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange)
        if self.answer is not None:
            self.answer(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        self.left.append(exchange)


@define
class Spooler:
    """A writer of bodies that writes when the test says so, in memory.

    :ivar work: what it was asked to do and has not done, in order.
    """

    work: deque[Callable[[], None]] = field(factory=deque)


class Socket:
    """A socket on which the test can decide what the next calls do.

    :ivar sent: what each `send` and `sendmsg` shall do instead of sending: an exception to raise, or how many
        bytes to take; when there is nothing in it, the kernel is asked.
    :ivar options: what was set with `setsockopt`.
    :ivar closed: whether it was closed.
    """

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.script: deque[OSError | int] = deque()
        self.options: list[tuple[int, int, Any]] = []
        self.shut: list[int] = []
        self.closed = False

    def fileno(self) -> int:
        return self.real.fileno()

    def recv(self, size: int) -> bytes:
        return self.real.recv(size)

    def send(self, data: bytes | memoryview) -> int:
        if self.script:
            what = self.script.popleft()
            if isinstance(what, OSError):
                raise what
            data = bytes(data)[:what]
        return self.real.send(data)

    def sendmsg(self, pieces: tuple[bytes, ...]) -> int:
        return self.send(b"".join(pieces)) if self.script else self.real.sendmsg(pieces)

    def shutdown(self, how: int) -> None:
        self.shut.append(how)
        self.real.shutdown(how)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self.options.append((level, option, value))

    def close(self) -> None:
        self.closed = True
        self.real.close()


class Client:
    """The other end of a connection.

    :ivar connection: the server's end.
    :ivar socket: the server's socket.
    """

    def __init__(self, engine: Engine, *, peer: tuple[str, int] | None = PEER, buffer: int | None = None) -> None:
        self._engine = engine
        self.end, server = socket.socketpair()
        self.end.setblocking(False)
        server.setblocking(False)
        if buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.socket = Socket(server)
        self.connection = Connection(engine.site, engine.hub, self.socket, peer, SERVER)  # type: ignore[arg-type]
        engine.hub.add(self.connection)
        self.eof = self.broken = False
        engine.test.addCleanup(self.end.close)

    def send(self, data: bytes) -> Client:
        """Send, and let the server read it."""
        while data:
            try:
                data = data[self.end.send(data) :]
            except BlockingIOError:
                self._engine.turn()
        self._engine.turn()
        return self

    def finish(self) -> None:
        """Say that nothing more will come."""
        self.end.shutdown(socket.SHUT_WR)
        self._engine.turn()

    def close(self) -> None:
        """Leave."""
        self.end.close()
        self._engine.turn()

    def take(self, size: int = 1 << 30) -> bytes:
        """Read what there is, at most so much, and let the server go on meanwhile."""
        data = b""
        while len(data) < size and not self.eof:
            try:
                piece = self.end.recv(min(65536, size - len(data)))
            except BlockingIOError:
                if not self._engine.turn():
                    break
                continue
            except ConnectionError:
                self.broken = self.eof = True
                break
            self.eof = not piece
            data += piece
        return data


class Engine:
    """Hub, site and handler, with as many clients as a test connects.

    :param test: whose cleanup closes everything.
    :param settings: of the site.
    """

    def __init__(self, test: SynchronousTestCase, *, spooler: Any = None, record: Any = None, **settings: Any) -> None:
        self.test = test
        self.reactor = Reactor()
        self.hub = Hub(self.reactor)
        self.hub.start()
        self.handler = Handler()
        self.site = Site(None, Settings(**settings), spooler=spooler, record=record)
        self.site.serve(self.handler)
        test.addCleanup(self.hub.stop)

    def connect(self, **options: Any) -> Client:
        """Connect a client."""
        return Client(self, **options)

    def turn(self) -> bool:
        """Do what the reactor would do until there is nothing left to do; whether there was anything."""
        for number in range(MANY_TURNS):
            self.reactor.run()
            if not select.select([self.hub], [], [], 0)[0]:
                return number > 0
            self.hub.doRead()
        raise AssertionError("the hub never comes to rest")

    @property
    def asked(self) -> list[Exchange]:
        """The exchanges that the handler was given, in order."""
        return self.handler.asked

    @property
    def in_flight(self) -> list[Exchange]:
        """What the register holds."""
        return self.site.register.in_flight()

    def answer(self, exchange: Exchange, body: bytes = b"", status: str = "200 OK", *fields: tuple[str, str]) -> None:
        """Answer an exchange whose turn it is, as a thread would."""
        exchange.start(status, list(fields))
        exchange.finish(body)
        self.site.through(exchange)
        self.turn()


def virtual_time(test: SynchronousTestCase, now: float = 1000.0) -> Clock:
    """Have connections, exchanges and sites take the time from a clock that stands still.

    :param now: what it says at first, seconds.
    """
    clock = Clock()
    clock.advance(now)
    for module in (connection_module, exchange_module, site_module):
        test.patch(module, "monotonic", clock.seconds)
    return clock
