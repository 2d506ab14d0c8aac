"""Stand-ins for the disk's threads, which work when the test says so, and for upstream servers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.web._newclient import ResponseFailed
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from graceful.config.values import Mapping, parse_mapping
from graceful.downloads import handover as handover_module
from graceful.downloads import prefixes as prefixes_module
from graceful.downloads.handover import AnswerHandOver
from graceful.downloads.headers import ApplicationHead
from graceful.downloads.parking_lot import ParkingLot
from graceful.downloads.prefixes import PublicPrefixes
from graceful.downloads.reactor_answer import ReactorAnswer, mark_download, start_soon
from graceful.downloads.relay_pool import RelayPool, UrlAnswer
from graceful.threads.disk import Done
from graceful.web.exchange import Exchange
from graceful.wsgi import WSGIResource
from graceful.wsgi.runner import Runner
from tests.fast.doubles import GET, HOST, Answer, Case, Client, directory_for, parse_answers, virtual_time

Application = Callable[[dict[str, Any], Callable[..., Any]], Any]


class SlowDisk:
    """A stand-in for the disk's threads: it works when the test says so.

    :param call: calls a function in the reactor thread.
    :ivar at_once: it works without being told.
    """

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call
        self._jobs: deque[tuple[Callable[[], object], Done]] = deque()
        self.at_once = True
        self.done = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def do(self, what: Callable[[], object], done: Done) -> None:
        self._jobs.append((what, done))
        if self.at_once:
            self.work()

    def work(self) -> None:
        """Do all queued jobs; the results come in the reactor's next turn."""
        while self._jobs:
            what, done = self._jobs.popleft()
            self.done += 1
            try:
                what()
            except BaseException as error:
                self._call(done, error)
            else:
                self._call(done, None)

    def stop(self, timeout: float) -> None:
        """Do nothing: there are no threads."""


class Response:
    """An upstream's response, as the agent would give it.

    :param length: of the body, or None if nobody knows.
    :ivar transport: what the body's protocol sees: whether it is paused, and whether it was closed.
    """

    def __init__(self, code: int, fields: Iterable[tuple[str, str]], length: int | None) -> None:
        self.code = code
        self.length = UNKNOWN_LENGTH if length is None else length
        self.headers = Headers()
        for name, value in fields:
            self.headers.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        self.paused = self.closed = False
        self.body: IProtocol | None = None

    def deliverBody(self, protocol: Any) -> None:
        assert self.body is None
        self.body = protocol
        protocol.makeConnection(self)

    # -- as its own transport

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def loseConnection(self) -> None:
        self.closed = True

    # -- as the test's

    def data(self, data: bytes) -> None:
        """A piece of the body comes."""
        assert self.body is not None
        self.body.dataReceived(data)

    def end(self, *, whole: bool = True, why: Exception | None = None) -> None:
        """The body comes to its end, or breaks off."""
        assert self.body is not None
        reason = why or (ResponseDone() if whole else ResponseFailed([Failure(ConnectionLost())]))
        self.body.connectionLost(Failure(reason))

    def end_of_connection(self) -> None:
        """The connection ends, which is the end of a body that had no other."""
        self.end(why=PotentialDataLoss())


class Question:
    """One request to an upstream."""

    def __init__(self, method: str, url: str, fields: Iterable[tuple[str, str]]) -> None:
        self.method = method
        self.url = url
        self.fields = dict(fields)
        self.cancelled = False
        self.answered: Deferred[Any] = Deferred(self._cancel)

    def _cancel(self, ignored: object) -> None:
        self.cancelled = True

    def answer(self, code: int = 200, *fields: tuple[str, str], length: int | None = None) -> Response:
        """The head of the answer is here."""
        response = Response(code, fields, length)
        self.answered.callback(response)
        return response

    def fail(self, error: Exception) -> None:
        """There will be no answer."""
        self.answered.errback(Failure(error))


class PaperUpstream:
    """All upstream servers, of paper.

    :ivar asked: what they were asked, in order.
    """

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.stopped = False
        self.trouble: Exception | None = None

    def ask(self, method: str, url: str, fields: Iterable[tuple[str, str]]) -> Deferred[Any]:
        if self.trouble is not None:
            raise self.trouble
        self.asked.append(Question(method, url, fields))
        return self.asked[-1].answered

    def stop(self) -> None:
        self.stopped = True


class DownloadCase(Case):
    """An engine whose answers may be handed over, and applications in the test's own thread.

    :ivar clock: all time there is.
    :ivar disk: does what blocks, when the test says so.
    :ivar upstream: all upstream servers.
    :ivar directory: an empty one; `/files` and `/internal/files` mean it, `/remote` and `/internal/remote` a URL.
    :ivar in_thread: what was to be called in a thread: function and arguments.
    """

    mapped = True
    """Whether prefixes are mapped to anything."""

    def setUp(self) -> None:
        """Put an engine together as `graceful.server.engine` does."""
        self.clock = virtual_time(self)
        super().setUp()
        self.directory = directory_for(self)
        self.put_together()

    def put_together(self) -> None:
        """Have the engine, a new one perhaps, hand over."""
        call = self.engine.hub.call
        self.disk = SlowDisk(call)
        self.upstream = PaperUpstream()
        self.in_thread: list[tuple[Any, ...]] = []
        disk: Any = self.disk
        upstream: Any = self.upstream
        self.relays = RelayPool(self.clock, lambda: upstream, 60.0)
        self.parking_lot = ParkingLot(self.clock, call, lambda *what: self.in_thread.append(what))
        there = (f"files={self.directory}", "remote=http://librarian:58000/base")
        internal = [parse_mapping(f"/internal/{text}") for text in there if self.mapped]
        site = self.engine.site
        site.hand_over = AnswerHandOver(call, disk, self.relays, self.parking_lot, internal)
        mappings = [parse_mapping(f"/{text}") for text in there if self.mapped]
        for mapping in mappings:
            self.engine.route(mapping.prefix, self.public(mappings).answer)
        self.closed: list[str] = []

    def public(self, mappings: Sequence[Mapping]) -> PublicPrefixes:
        """Return a route for some prefixes."""
        disk: Any = self.disk
        return PublicPrefixes(self.engine.hub.call, disk, self.relays, mappings)

    def start_relay(self, exchange: Exchange, url: str, head: ApplicationHead | None = None) -> None:
        """Have an exchange answered with what the upstream has at a URL, as a thread does."""
        mark_download(exchange)
        start_soon(self.engine.hub.call, UrlAnswer(exchange, url, head or ApplicationHead(), self.relays))

    def before_starts(self, function: Callable[[ReactorAnswer], object]) -> None:
        """Have a function called whenever a thread has an answer begun, just before it does."""

        def start(call: Any, answer: ReactorAnswer) -> None:
            function(answer)
            start_soon(call, answer)

        for module in (handover_module, prefixes_module):
            self.patch(module, "start_soon", start)

    def serve(self, application: Application) -> None:
        """Have everything answered by an application."""
        resource = WSGIResource(None, None, application)
        run = Runner()

        def answer(exchange: Exchange) -> None:
            exchange.handler = resource
            run(exchange)

        self.engine.handler.answer = answer

    def get(self, data: bytes = GET, method: str = "GET", **options: Any) -> Answer:
        """Return the answer that a new client gets for a request."""
        (answer,) = parse_answers(self.engine.connect(**options).send(data).take(), method)
        return answer

    def request(self, path: str = "/", method: str = "GET", **fields: str) -> bytes:
        """A request."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        return f"{method} {path} HTTP/1.1\r\n".encode() + HOST + lines.encode("latin-1") + b"\r\n"

    def file(self, content: bytes = b"content", name: str = "file.txt", modified: int = 1_000_000_000) -> str:
        """Put a file into the directory; its path."""
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (modified, modified))
        return path

    def descriptors(self) -> list[str]:
        """Return the files of the directory that this process has open."""
        links = []
        for number in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{number}"))
            except OSError:
                continue
        return [link for link in links if link.startswith(self.directory)]

    def nothing_left(self) -> None:
        """Check that no connection, exchange, descriptor, relay, parked request or timer is left."""
        super().nothing_left()
        self.assertEqual(self.descriptors(), [])
        self.assertEqual((self.relays._running, len(self.parking_lot), self.clock.getDelayedCalls()), (set(), 0, []))

    def logged(self, what: Callable[[], object]) -> list[str]:
        """Do something, and have everything that it writes to the log."""
        with capturedLogs() as events:
            what()
        return [formatEvent(event) for event in events]

    def leave(self, client: Client) -> None:
        """A client leaves, and nothing is left of it."""
        client.close()
        self.nothing_left()


class Closing:
    """An application's answer, as a framework would wrap it.

    :param pieces: a token, or whatever the application returns.
    :ivar log: what happened to it, in order.
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.log: list[str] = []

    def __iter__(self) -> Any:
        self.log.append("iterated")
        yield from self._pieces

    def close(self) -> None:
        self.log.append("closed")
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
