"""Stand-ins that the engine's tests share: a reactor that only collects calls, clients on socketpairs, a slow disk.

The hub, the site and the connections are the real ones.  Nothing happens by itself: `Engine.turn` does what
the reactor would do now, and returns when there is nothing left to do.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import socket
import struct
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.web import body_spool as body_module
from graceful.web.body_spool import Spooler
from graceful.web.connection import Connection
from graceful.web.exchange import Exchange
from graceful.web.hub import Batch, Hub
from graceful.web.prefix_routes import PrefixRoutes
from graceful.web.site import Site
from graceful.web.timeouts import Sweep

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
CLOSE = b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
EXPECT = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
MIB = 1 << 20
PEER = ("192.0.2.1", 50000)
SERVER = ("198.51.100.1", 8080)
MANY_TURNS = 10_000
MANY_BYTES = 64 * MIB


def get(number: int) -> bytes:
    """A request that can be told from others."""
    return b"GET /%d HTTP/1.1\r\n" % number + HOST + b"\r\n"


def post(size: int, *fields: bytes) -> bytes:
    """A request with a body of so many bytes."""
    head = b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n" % size
    return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + b"u" * size


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
    :ivar parks: whether its exchanges wait for something, with no thread.
    """

    def __init__(self) -> None:
        self.asked: list[Exchange] = []
        self.left: list[Exchange] = []
        self.answer: Callable[[Exchange], object] | None = None
        self.parks = False

    def handle(self, exchange: Exchange) -> None:
        exchange.handler = self
        self.asked.append(exchange)
        if self.answer is not None:
            self.answer(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        self.left.append(exchange)

    def parked(self, exchange: Exchange) -> bool:
        return self.parks

    def works_for(self, exchange: Exchange) -> bool:
        """Until the test has answered it."""
        return not exchange.released


class SlowDisk(Spooler):
    """The writer of request bodies, without its thread: it does its work when the test says so.

    :ivar files: every file it has opened.
    :ivar trouble: raised by each write from now on.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        super().__init__(None, call)
        self._thread = threading.current_thread()  # so that it starts none
        self.files: list[BodyFile] = []
        self.trouble: OSError | None = None

    def open(self, **options: Any) -> BodyFile:
        """What stands for `tempfile.TemporaryFile`."""
        file = BodyFile(self)
        self.files.append(file)
        return file

    def idle(self) -> bool:
        """Whether it has done all it was asked to do."""
        return self._work.empty()

    def work(self, jobs: int = 1 << 30) -> None:
        """Do so much of what it was asked to do."""
        while jobs and not self.idle():
            jobs -= 1
            job = self._work.get()
            assert job is not None
            function, arguments = job
            function(*arguments)


class BodyFile(io.BytesIO):
    """A file that cannot be written when the disk has trouble."""

    def __init__(self, disk: SlowDisk) -> None:
        super().__init__()
        self._disk = disk

    def write(self, data: Any) -> int:
        if self._disk.trouble is not None:
            raise self._disk.trouble
        return super().write(data)


class Socket:
    """A socket on which the test can decide what the next calls do.

    :ivar sent: what each `send` and `sendmsg` shall do instead of sending: an exception to raise, or how many
        bytes to take; when there is nothing in it, the kernel is asked.
    :ivar meanwhile: called inside the next `send`, before anything is sent: what others do in that moment.
    :ivar reset: whether it is set to reset the connection when it is closed.
    :ivar closed: whether it was closed.
    :ivar family: of the real one, which is a Unix socket, unless the test says something else.
    :ivar low: each limit that was set for what the kernel takes ahead.
    :ivar away: how far the client is away, in microseconds; None: the kernel does not tell.
    :ivar buffers: each size that its send buffer was given.
    """

    def __init__(self, real: socket.socket) -> None:
        self.real = real
        self.family = real.family
        self.script: deque[OSError | int] = deque()
        self.meanwhile: Callable[[], object] | None = None
        self.closed = self.reset = False
        self.family = real.family
        self.low: list[int] = []
        self.away: int | None = None
        self.buffers: list[int] = []

    def fileno(self) -> int:
        return self.real.fileno()

    def getsockname(self) -> Any:
        return self.real.getsockname()

    def recv(self, size: int) -> bytes:
        return self.real.recv(size)

    def send(self, data: bytes | memoryview) -> int:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        if self.script:
            what = self.script.popleft()
            if isinstance(what, OSError):
                raise what
            data = bytes(data)[:what]
        return self.real.send(data)

    def sendmsg(self, pieces: tuple[bytes, ...]) -> int:
        if self.script or self.meanwhile is not None:
            return self.send(b"".join(pieces))
        return self.real.sendmsg(pieces)

    def shutdown(self, how: int) -> None:
        self.real.shutdown(how)

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        if self.away is None:
            raise OSError(errno.EOPNOTSUPP, "not with this socket")
        return bytes(size - 4) + struct.pack("=I", self.away)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_SNDBUF):
            self.buffers.append(value)
            return
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT):
            self.low.append(value)
            return
        assert (level, option, value) == (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.reset = True

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
                assert self._engine.turn(), "the server does not read"
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
        """Read what there is, at most so much, and have the server go on meanwhile."""
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
            assert len(data) < MANY_BYTES, "the answer has no end"
        return data


class Engine:
    """Hub, site and handler, with as many clients as a test connects.

    :param test: whose cleanup closes everything.
    :param record: called with each exchange that is finished.
    :param proxies: which proxies the site trusts.
    :param batch: told of each batch of the hub.
    :param settings: of the site.
    :ivar disk: writes large bodies, when it is told to.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        *,
        record: Any = None,
        proxies: Any = None,
        batch: Batch | None = None,
        **settings: Any,
    ) -> None:
        self.test = test
        self.reactor = Reactor()
        self.hub = Hub(self.reactor, batch)
        self.hub.start()
        self.handler = Handler()
        self.disk = SlowDisk(self.hub.call)
        test.patch(body_module, "tempfile", SimpleNamespace(TemporaryFile=self.disk.open))
        self.routes = PrefixRoutes()
        self.site = Site(self.handler, Settings(**settings), record=record, proxies=proxies, spooler=self.disk)
        self.sweep = Sweep(self.site, cast(IReactorTime, Clock()))
        test.addCleanup(self.hub.stop)

    def serve(self, handler: Any) -> None:
        """Have another handler answer from now on, behind the routes that a test has added."""
        self.site.handle = self.routes.before(handler.handle)

    def route(self, prefix: str, answer: Callable[[Exchange], bool]) -> None:
        """Have requests below a prefix answered before the handler is asked."""
        self.routes.add(prefix, answer)
        self.serve(self.handler)

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

    def settle(self) -> None:
        """Let the disk and the reactor work until nothing is left to do for either."""
        while not self.disk.idle():
            self.disk.work()
            self.turn()

    @property
    def asked(self) -> list[Exchange]:
        """The exchanges that the handler was given, in order."""
        return self.handler.asked

    @property
    def in_flight(self) -> list[Exchange]:
        """What the register holds."""
        return self.site.register.in_flight()

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self.site.register.connections)

    def answer(self, exchange: Exchange, body: bytes = b"", status: str = "200 OK", *fields: tuple[str, str]) -> None:
        """Answer an exchange whose turn it is, as a thread would, before the reactor does anything."""
        exchange.start(status, list(fields))
        exchange.finish(body)
        exchange.release()


class Answer(NamedTuple):
    """An answer as a strict client reads it.

    :ivar whole: whether its body came to the end that its framing says; None if that is the connection's end.
    """

    status: int
    reason: str
    fields: dict[str, str]
    body: bytes
    whole: bool | None


def parse_answers(data: bytes, *methods: str) -> list[Answer]:
    """Read answers from everything that a client has received.

    :param methods: of the requests that they answer; GET where there are no more.
    """
    answers: list[Answer] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        first, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([0-9]{3}) (.*)", first)
        assert match, first
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(": ")
            assert colon and name.lower() not in fields, line
            fields[name.lower()] = value
        status = int(match[1])
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        whole: bool | None = True
        body = b""
        if status < 200 or status in (204, 304) or method == "HEAD":
            assert "transfer-encoding" not in fields
        elif "transfer-encoding" in fields:
            assert fields["transfer-encoding"] == "chunked" and "content-length" not in fields
            body, whole, data = _chunks(data)
        elif "content-length" in fields:
            length = int(fields["content-length"])
            body, data = data[:length], data[length:]
            whole = len(body) == length
        else:
            body, whole, data = data, None, b""
        answers.append(Answer(status, match[2], fields, body, whole))
    return answers


def _chunks(data: bytes) -> tuple[bytes, bool, bytes]:
    body = b""
    while True:
        size, end, rest = data.partition(b"\r\n")
        if not end or len(rest) < int(size, 16) + 2:
            return body, False, b""
        chunk, crlf, data = rest[: int(size, 16)], rest[int(size, 16) :][:2], rest[int(size, 16) + 2 :]
        assert crlf == b"\r\n", data
        if not chunk:
            return body, True, data
        body += chunk


class Case(SynchronousTestCase):
    """An engine with clients."""

    def setUp(self) -> None:
        """Start an engine."""
        self.engine = Engine(self)

    def ask(self, data: bytes = GET, **options: Any) -> tuple[Client, Exchange]:
        """Connect, and send a request; the exchange that it becomes."""
        client = self.engine.connect(**options)
        client.send(data)
        return client, self.engine.asked[-1]

    def answer(self, *exchanges: Exchange, body: bytes = b"") -> None:
        """Answer, and let the reactor do what follows."""
        for exchange in exchanges:
            self.engine.answer(exchange, body or exchange.target)
        self.engine.turn()

    def bodies(self, client: Client) -> list[bytes]:
        """The bodies that a client gets now."""
        return [answer.body for answer in parse_answers(client.take())]

    def stream(self, exchange: Exchange, *pieces: bytes, length: int | None = None) -> None:
        """Begin an answer, whose end is still to come."""
        exchange.start("200 OK", [] if length is None else [("Content-Length", str(length))])
        for piece in pieces:
            exchange.write(piece)

    def end(self, exchange: Exchange, last: bytes = b"") -> None:
        """End an answer."""
        exchange.finish(last)
        exchange.release()
        self.engine.turn()

    def nothing_left(self) -> None:
        """Check that no connection and no exchange is known any more."""
        self.engine.turn()
        self.assertEqual((self.engine.open, self.engine.in_flight), (0, []))


def directory_for(test: SynchronousTestCase) -> str:
    """An empty directory, gone with the test; its real path."""
    directory = tempfile.TemporaryDirectory()
    test.addCleanup(directory.cleanup)
    return os.path.realpath(directory.name)


def virtual_time(test: SynchronousTestCase, now: float = 1000.0) -> Clock:
    """Have everything that serves take the time from a clock that stands still.

    :param now: what it says at first, seconds.
    """
    clock = Clock()
    clock.advance(now)
    for name, module in list(sys.modules.items()):
        if name.startswith(("graceful.web.", "graceful.downloads.")) and hasattr(module, "monotonic"):
            test.patch(module, "monotonic", clock.seconds)
    return clock
