"""The write token, in every order of steps of the threads that want it.

The connection, its turn, its parser and its exchanges are the real ones.  The socket is a double that knows what
must never happen: bytes of two senders at once, anything on a closed descriptor, a descriptor closed while
somebody sends on it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.takedown import last_answer as connections
from graceful.web import receiver as receiver_module
from graceful.web import sending_half as sending_half_module
from graceful.web.connection import Connection
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.site import Site
from graceful.web.write_token import WriteToken
from graceful.websocket.session import Session
from tests.fast.doubles import CONTINUE, parse_answers
from tests.fast.interleave import Scheduler, Violation, explore

STEPS = (
    "request_ready acquire done release leave_to_reactor append acquire_for_interim first_piece"
    " piece_taken rest_flushed end_of_input idle linger replace close"
).split()


def checked_token(scheduler: Scheduler) -> Callable[[], WriteToken]:
    """A write token before each of whose steps another thread may come."""

    def wrapped(name: str) -> Callable[..., Any]:
        step = getattr(WriteToken, name)

        def checked(self: WriteToken, *args: Any) -> Any:
            scheduler.checkpoint(name)
            return step(self, *args)

        return checked

    return type("CheckedTurn", (WriteToken,), {"__slots__": (), **{name: wrapped(name) for name in STEPS}})


class Kernel:
    """A socket, as the kernel has it."""

    def __init__(self, scheduler: Scheduler, takes: list[int]) -> None:
        self._scheduler = scheduler
        self._takes = takes
        self.received = b""
        self.sending = 0
        self.closed = 0
        self.shut = False
        self.broken = False
        self.input: list[bytes] = []

    def fileno(self) -> int:
        return 9

    def setsockopt(self, *args: Any) -> None:
        pass

    def recv(self, size: int) -> bytes:
        if self.closed:
            raise Violation("recv on a closed descriptor")
        if self.broken:
            raise OSError(errno.ECONNRESET, "reset")
        if not self.input:
            raise BlockingIOError
        return self.input.pop(0)

    def send(self, data: Any) -> int:
        return self._send(bytes(data))

    def sendmsg(self, pieces: Any) -> int:
        return self._send(b"".join(pieces))

    def _send(self, data: bytes) -> int:
        if self.closed:
            raise Violation("sent on a descriptor that was closed, and may be another client's")
        if self.sending:
            raise Violation("two senders at once")
        self.sending += 1
        self._scheduler.checkpoint("in send(2)")
        self.sending -= 1
        if self.closed:
            raise Violation("the descriptor was closed under send(2)")
        if self.broken or self.shut:
            raise OSError(errno.EPIPE, "broken pipe")
        count = min(len(data), self._takes.pop(0)) if self._takes else len(data)
        if not count and data:
            raise BlockingIOError
        self.received += data[:count]
        return count

    def shutdown(self, how: int) -> None:
        if self.closed:
            raise Violation("shutdown of a closed descriptor")
        self.shut = True

    def close(self) -> None:
        if self.sending:
            raise Violation("closed while somebody sends")
        if self.closed:
            raise Violation("closed twice")
        self.closed += 1


class World:
    """A connection, its reactor thread with a script of what happens, and a thread for each exchange."""

    def __init__(
        self,
        scheduler: Scheduler,
        script: list[Callable[[World], None]],
        answer: Callable[[Exchange], None],
        takes: list[int],
    ) -> None:
        self.scheduler = scheduler
        self.now = 0.0
        self._calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._script = script
        self._answer = answer
        self.answered: list[str] = []
        self.started: list[str] = []
        self._writing = False
        self._reactor = True
        self.site = Site(self, Settings())
        self.kernel = Kernel(scheduler, takes)
        self.connection = Connection(self.site, self, self.kernel, ("192.0.2.1", 1), ("", 80))  # type: ignore[arg-type]
        scheduler.spawn("reactor", self._run)

    # -- a hub
    def call(self, function: Callable[..., Any], *args: Any) -> None:
        self.scheduler.checkpoint("calls the reactor")
        self._calls.append((function, args))

    def in_loop_thread(self) -> bool:
        return False

    def interest(self, connection: Connection) -> None:
        self._writing = connection.writing

    def forget(self, connection: Connection) -> None:
        self._writing = False

    # -- a handler
    def handle(self, exchange: Exchange) -> None:
        name = exchange.target.decode()
        self.started.append(name)

        def run() -> None:
            try:
                self._answer(exchange)
                self.answered.append(name)
            except Disconnected:
                exchange.abandon()
            self.scheduler.checkpoint("is through")
            exchange.release()

        self.scheduler.spawn(f"thread {name}", run)

    def disconnected(self, exchange: Exchange) -> None:
        pass

    def parked(self, exchange: Exchange) -> bool:
        return False

    def works_for(self, exchange: Exchange) -> bool:
        """Until it is answered."""
        return True

    # -- the reactor thread
    def _possible(self) -> list[Callable[[], None]]:
        possible: list[Callable[[], None]] = []
        if self._calls:
            possible.append(self._next_call)
        if self._script:
            possible.append(self._next_event)
        if self._writing and not self.connection.write_token.closed:
            possible.append(self.connection.writable)
        if self.kernel.input and self.connection.reading and not self.connection.write_token.closed:
            possible.append(self.connection.readable)
        return possible

    def _next_call(self) -> None:
        function, args = self._calls.pop(0)
        function(*args)

    def _next_event(self) -> None:
        self._script.pop(0)(self)

    def come(self, data: bytes) -> None:
        """Bytes come, or the end of them.  They are read at once, unless reading is paused."""
        self.kernel.input.append(data)
        if self.connection.reading:
            self.connection.readable()

    def _run(self) -> None:
        while self.scheduler.wait_until(lambda: bool(self._possible())):
            self.scheduler.checkpoint("next")
            possible = self._possible()
            possible[self.scheduler.choose(len(possible))]()

    # -- judgement
    def bodies(self) -> list[bytes]:
        """The bodies of the answers that the client has received whole."""
        return [
            answer.body for answer in parse_answers(self.kernel.received) if answer.whole and answer.status >= 200
        ]

    def judge(self) -> None:
        write_token, kernel = self.connection.write_token, self.kernel
        if self._calls or self._script:
            raise Violation("the reactor was never called for what waits")
        if write_token.holder and not kernel.closed:
            raise Violation(f"the token is held by {write_token.holder!r} for ever")
        if not kernel.closed:
            if write_token.closing:
                raise Violation("the reactor meant to close, and never does")
            if (write_token.waiting or write_token.current is not None) and not write_token.lingering:
                raise Violation(f"a request sleeps: {write_token.current} {list(write_token.waiting)}")
            if self.connection.parser.unparsed and not write_token.lingering:
                raise Violation("received bytes are never parsed")
            if write_token.eof:
                raise Violation("the client has closed, everything is answered, and it is not closed")
            if self.kernel.input or not self.connection.reading:
                raise Violation("nobody will hear what the client sends, or that it has closed")
        elif self.site.register.connections:
            raise Violation("a closed connection stays in the register")
        elif write_token.current is not None:
            raise Violation("a closed connection and its exchange refer to each other")
        left = [e for e in self.site.register.exchanges.values() if kernel.closed or not write_token.lingering]
        if left:
            raise Violation(f"left in the register: {left}")


def received(data: bytes) -> Callable[[World], None]:
    """Bytes come from the client."""

    def event(world: World) -> None:
        if not world.connection.write_token.closed:
            world.come(data)

    return event


def end_of_input(world: World) -> None:
    """The client closes its sending side."""
    if not world.connection.write_token.closed:
        world.come(b"")


def reset(world: World) -> None:
    """The client resets."""
    world.kernel.broken = True
    if not world.connection.write_token.closed:
        world.connection.close()


def take_down(world: World) -> None:
    """The deadline comes."""
    connection = world.connection
    if not connection.write_token.closed:
        for interrupted in connections.take_down(connection):
            world.site.finished(interrupted)


def idle_time_is_over(world: World) -> None:
    """The sweep finds the connection idle."""
    if not world.connection.write_token.closed and world.connection.write_token.idle():
        world.connection.half_close()


def whole(exchange: Exchange) -> None:
    """Answer in one piece."""
    exchange.start("200 OK", [])
    exchange.finish(b"<" + exchange.target + b">")


def pieces(exchange: Exchange) -> None:
    """Answer in pieces."""
    exchange.start("200 OK", [])
    exchange.write(b"<" + exchange.target)
    exchange.finish(b">")


def announced(exchange: Exchange) -> None:
    """Answer with a length that was announced: the end of the answer adds no bytes."""
    exchange.start("200 OK", [("Content-Length", "4")])
    exchange.write(b"<" + exchange.target + b">")
    exchange.finish(b"")


def interim(exchange: Exchange) -> None:
    """Say that the body may come, and answer."""
    exchange.connection.send_interim(CONTINUE, exchange)
    whole(exchange)


def websocket(exchange: Exchange) -> None:
    """Go on with WebSocket, and send until the client has left."""
    connection: Any = exchange.connection
    world = connection._hub
    frames = SimpleNamespace(call=world.call, seconds=lambda: 0.0, max_message=1, opened=lambda session: None)
    application = SimpleNamespace(closed=lambda code, reason: None, writable=lambda: None)
    session = Session(exchange, application, frames)  # type: ignore[arg-type]
    session.accept(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    for _ in range(2):
        session.send(b"frame")


def get(path: str, fields: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode()


class TurnTests(SynchronousTestCase):
    """In any order, no side writes out of turn, and no request is left waiting."""

    def run_all(
        self,
        script: list[Callable[[World], None]],
        answer: Callable[[Exchange], None] = whole,
        takes: list[int] | None = None,
        judge: Callable[[World], None] | None = None,
        preemptions: int = 2,
    ) -> None:
        def build(scheduler: Scheduler) -> Callable[[], None]:
            with patch.object(sending_half_module, "WriteToken", checked_token(scheduler)):
                world = World(scheduler, list(script), answer, list(takes or []))

            def end() -> None:
                world.judge()
                if judge is not None:
                    judge(world)

            return end

        self.orders = explore(build, preemptions)

    def both_answered(self, world: World) -> None:
        """Both answers arrived, whole and in order."""
        if world.kernel.closed:
            return
        answers = [(answer.status, answer.body, answer.whole) for answer in parse_answers(world.kernel.received)]
        if answers != [(200, b"</1>", True), (200, b"</2>", True)]:
            raise Violation(f"not both answers, in order: {answers}")

    def test_next_request_meets_answer(self) -> None:
        """The next request may be parsed before the thread that answered knows that it is done."""
        self.run_all([received(get("/1")), received(get("/2"))], judge=self.both_answered, preemptions=3)
        self.assertGreater(self.orders, 20)  # the scheduler did look

    def test_requests_that_came_together_are_answered_in_turn(self) -> None:
        """Requests that came together are answered one after the other."""
        self.run_all([received(get("/1") + get("/2"))], pieces, judge=self.both_answered)

    def test_the_reactor_sends_the_rest_and_nothing_overtakes_it(self) -> None:
        """What the kernel does not take is sent by the reactor, and nothing overtakes it."""
        self.run_all([received(get("/1")), received(get("/2"))], pieces, takes=[10, 0, 7], judge=self.both_answered)

    def test_slow_client_of_an_announced_length(self) -> None:
        """The same when the end of an answer is nothing but the knowledge that it has ended."""
        self.run_all(
            [received(get("/1")), received(get("/2"))], announced, takes=[10, 0, 7], judge=self.both_answered
        )

    def test_last_answer_of_an_announced_length(self) -> None:
        """And when the connection ends with it."""

        def judge(world: World) -> None:
            if not world.kernel.shut or not world.kernel.closed:
                raise Violation("not shut, or not closed")

        last = received(get("/1", "Connection: close\r\n"))
        self.run_all([last, end_of_input], announced, takes=[10, 0], judge=judge)

    def test_reset_meets_answer(self) -> None:
        """A connection that breaks is closed once, and never under a sender."""
        self.run_all([received(get("/1")), reset], pieces, preemptions=3)

    def test_reset_meets_interim_answer(self) -> None:
        """A connection that breaks under an interim answer of the thread's is closed, as under an answer."""
        self.run_all([received(get("/1")), reset], interim, preemptions=3)
        self.run_all([received(get("/1")), reset], interim, takes=[10, 0])

    def test_reset_meets_a_websocket_that_opens(self) -> None:
        """The same while the thread sends its first messages, and the reactor is about to read the client's."""
        self.run_all([received(get("/1")), reset], websocket, preemptions=3)
        self.run_all([received(get("/1")), reset], websocket, takes=[10, 0])

    def test_reset_meets_rest(self) -> None:
        """A connection that breaks while the reactor has a rest to send is closed, and its thread is let go."""
        self.run_all([received(get("/1")), reset], pieces, takes=[10, 0])

    def test_reset_meets_second_exchange(self) -> None:
        """A request that waits behind the broken answer leaves the register, too."""
        self.run_all([received(get("/1") + get("/2")), reset])

    def test_a_client_that_half_closes_gets_its_answer(self) -> None:
        """A client that closes after its request still gets its answer, and then the connection ends."""

        def judge(world: World) -> None:
            if world.bodies() != [b"</1>"] or not world.kernel.closed:
                raise Violation(f"{world.kernel.received!r}")

        self.run_all([received(get("/1")), end_of_input], judge=judge, preemptions=3)

    def test_half_close_of_a_slow_client(self) -> None:
        """The same when the reactor sends the rest."""

        def judge(world: World) -> None:
            if world.bodies() != [b"</1>"] or not world.kernel.closed:
                raise Violation(f"{world.kernel.received!r}")

        self.run_all([received(get("/1")), end_of_input], pieces, takes=[10, 0], judge=judge)

    def test_after_connection_close_the_clients_close_ends_the_connection(self) -> None:
        """After `Connection: close` the sending side is shut, and the client's close ends it."""

        def judge(world: World) -> None:
            if not world.kernel.shut or not world.kernel.closed:
                raise Violation("not shut, or not closed")

        self.run_all([received(get("/1", "Connection: close\r\n")), end_of_input], judge=judge, preemptions=3)

    def test_takedown_meets_answer(self) -> None:
        """At the deadline there is at most one status line, whichever side wrote it."""

        def judge(world: World) -> None:
            if world.kernel.received.count(b"HTTP/1.1") > 1:
                raise Violation(f"{world.kernel.received!r}")
            if not world.kernel.received and not world.kernel.closed:
                raise Violation("no answer, and not closed")

        self.run_all([received(get("/1")), take_down], pieces, judge=judge, preemptions=3)

    def test_takedown_of_a_slow_client(self) -> None:
        """An answer that has begun is cut."""

        def judge(world: World) -> None:
            if world.kernel.received.count(b"HTTP/1.1") > 1:
                raise Violation(f"{world.kernel.received!r}")

        self.run_all([received(get("/1")), take_down], pieces, takes=[10, 0], judge=judge)

    def test_takedown_behind_a_continue(self) -> None:
        """There is one status line also if the first one waits behind 100 Continue."""
        head = b"POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"

        def judge(world: World) -> None:
            received = world.kernel.received.removeprefix(CONTINUE)
            if received.count(b"HTTP/1.1") > 1:
                raise Violation(f"{received!r}")

        self.run_all([received(head), received(b"hi"), take_down], pieces, takes=[10, 0], judge=judge)

    def test_takedown_of_the_second(self) -> None:
        """An answer that has not begun is not cut because the one before it had."""
        refused = []

        def judge(world: World) -> None:
            statuses = [answer.status for answer in parse_answers(world.kernel.received)]
            refused.append(statuses == [200, 503])

        self.run_all([received(get("/1")), received(get("/2")), take_down], judge=judge)
        self.assertIn(True, refused)

    def test_idle_time_meets_request(self) -> None:
        """The end of an idle connection and the next request on it: either an answer, or an orderly end."""

        def judge(world: World) -> None:
            if len(world.started) == 2 and world.kernel.received.count(b"HTTP/1.1 200") != 2:
                raise Violation(f"{world.kernel.received!r}")

        self.run_all([received(get("/1")), idle_time_is_over, received(get("/2"))], judge=judge)

    def test_continue_behind_an_answer(self) -> None:
        """100 Continue for a request that waits is said when everything before it is answered, and only then."""
        head = b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"

        def judge(world: World) -> None:
            received = world.kernel.received
            if received.count(b"100 Continue") != 1 or received.find(b"100 Continue") < received.find(b"</1>"):
                raise Violation(f"{received!r}")

        def patient(world: World) -> None:
            """The client sends its body when it has been told to."""
            if b"100 Continue" in world.kernel.received:
                world.kernel.input.append(b"hi")
                world.connection.readable()
            elif not world.connection.write_token.closed:
                world.scheduler.wait_until(lambda: bool(world._calls) or world.connection.writing)
                world._script.insert(0, patient)
                if world._calls:
                    world._next_call()

        self.run_all([received(get("/1")), received(head), patient], judge=judge)

    def test_last_answer_of_more_than_wait(self) -> None:
        """An application that ends the connection while requests wait unread: the client's end is heard."""

        def closes(exchange: Exchange) -> None:
            exchange.start("200 OK", [("Connection", "close")])
            exchange.finish(b"<" + exchange.target + b">")

        with patch.object(receiver_module, "PIPELINE", 1):
            self.run_all([received(get("/1") + get("/2") + get("/3"))], closes)
            self.run_all([received(get("/1") + get("/2") + get("/3")), received(get("/4")), end_of_input], closes)

    def test_more_than_wait_in_order(self) -> None:
        """What may not be parsed ahead is parsed when there is room, and never forgotten."""

        def judge(world: World) -> None:
            if world.kernel.received.count(b"HTTP/1.1 200") != 3:
                raise Violation(f"{world.kernel.received!r}")

        with patch.object(receiver_module, "PIPELINE", 1):
            self.run_all([received(get("/1") + get("/2") + get("/3"))], judge=judge)

    def test_the_scheduler_finds_a_race(self) -> None:
        """A token that forgets its holder is found out: the test can fail."""

        def forgetful(self: WriteToken) -> bool:
            with self.lock:
                if self.closed:
                    return False
                self.closed = self.closing = True
                return True

        with patch.object(WriteToken, "close", forgetful):
            self.assertRaises(Violation, self.run_all, [received(get("/1")), reset], pieces)
