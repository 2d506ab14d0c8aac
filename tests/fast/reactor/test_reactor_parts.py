"""The graceful reactor: what it counts, how connections are led to their end, and how thread pools end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet import threads
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.components import registerAdapter
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from graceful.config.settings import Settings
from graceful.reactor.environment import settings_of
from graceful.reactor.interfaces import IIdling
from graceful.reactor.thread_pools import DaemonThread, Pools
from graceful.reactor.tracking import AGREES_IN, ConnectionWatch, Tracker
from graceful.reactor.twisted_web import FRESH, HTTP1, IDLE_GRACE, kind_of
from graceful.web.exchange import APPLICATION, RECEIVING, SENDING


class Transport(StringTransport):
    """What Twisted's `tcp.Server` is, as far as it is looked at."""

    accepted = 1.0
    aborted = False
    offset = 0
    dataBuffer = b""
    _tempDataLen = 0

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.readable = b""
        self.socket = self
        self.descriptor = 7

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def recv(self, size: int, flags: int) -> bytes:
        """What the kernel holds."""
        if not self.readable:
            raise BlockingIOError
        return self.readable[:size]

    def abortConnection(self) -> None:
        """Reset it."""
        self.aborted = True


class Answering(Request):
    """A request that is answered by the test."""

    def process(self) -> None:
        """Wait for the test."""


class CountedTests(SynchronousTestCase):
    """What is in flight."""

    def setUp(self) -> None:
        self.counted = Tracker(kind_of)

    def connect(self, protocol: Any = None) -> Transport:
        transport = Transport(protocol if protocol is not None else Protocol())
        self.counted.add(transport)
        return transport

    def last(self, transport: Transport) -> None:
        watch = self.counted.watch(transport)
        assert watch is not None
        watch.last()

    def test_a_connection_of_any_protocol(self) -> None:
        """A connection counts from its accept to its end, with one number."""
        transport = self.connect()
        (item,) = self.counted.in_flight()
        self.assertEqual((item.id, item.started, item.connection), (1, 1.0, transport))
        self.assertEqual(item.describe(3.5), "1, connection of Protocol with 192.168.1.1, 2.5 s old")
        self.assertEqual([item.id for item in self.counted.in_flight()], [1])
        self.counted.lost(transport)
        self.assertEqual((self.counted.in_flight(), self.counted.finished), ([], 1))

    def test_a_socket_that_was_taken_away(self) -> None:
        """A connection whose socket somebody has taken, to hand it to another process, is not ours any more."""
        transport = self.connect()
        waiting = self.counted.all_gone()
        self.assertNoResult(waiting)
        transport.descriptor = -1
        self.assertEqual(self.counted.in_flight(), [])
        self.successResultOf(waiting)

    def test_what_was_asked(self) -> None:
        """A Deferred counts until it fires, and goes on with the result that it has."""
        deferred: Deferred[str] = Deferred()
        self.counted.ask(deferred, "an upload")
        waiting = self.counted.all_gone()
        self.assertEqual([item.method for item in self.counted.in_flight()], ["an upload"])
        deferred.callback("result")
        self.assertEqual(self.successResultOf(deferred), "result")
        self.successResultOf(waiting)
        self.assertEqual((self.counted.in_flight(), self.counted.finished), ([], 1))

    def test_a_deferred_that_has_fired(self) -> None:
        """One that has fired already holds nothing up."""
        self.counted.ask(succeed(None), "nothing")
        self.successResultOf(self.counted.all_gone())

    def test_a_list_is_a_snapshot(self) -> None:
        """What comes while the others are waited for is waited for, too."""
        first = self.connect()
        waiting = self.counted.all_gone()
        second = self.connect()
        self.counted.lost(first)
        self.assertNoResult(waiting)
        self.counted.lost(second)
        self.successResultOf(waiting)

    def test_find(self) -> None:
        """What has a number is found, with the connection that carries it."""
        transport = self.connect()
        deferred: Deferred[None] = Deferred()
        self.counted.ask(deferred, "a job")
        by_number = {item.id: item for item in self.counted.in_flight()}
        for number, item in by_number.items():
            found = self.counted.find(number)
            assert found is not None
            self.assertIs(found[1], item)
            self.assertEqual(found[0] is None, item.connection is deferred)
        self.assertIsNone(self.counted.find(99))
        self.assertEqual({item.connection for item in by_number.values()}, {transport, deferred})

    def test_what_is_around_a_protocol(self) -> None:
        """A protocol is looked for in whatever is wrapped around it."""
        inner, outer = Protocol(), Protocol()
        outer.wrappedProtocol = inner  # type: ignore[attr-defined]
        self.assertEqual(kind_of(Transport(outer)), (ConnectionWatch, inner))
        channel = HTTPChannel()
        outer.wrappedProtocol = channel  # type: ignore[attr-defined]
        self.assertEqual(kind_of(Transport(outer)), (HTTP1, channel))

    def test_a_channel_that_was_handed_over(self) -> None:
        """A channel that a WebSocket has taken over is no HTTP any more."""
        channel = HTTPChannel()
        channel.connectionLost = lambda reason: None  # type: ignore[method-assign]
        self.assertEqual(kind_of(Transport(channel)), (ConnectionWatch, channel))

    def test_idle_by_its_own_word(self) -> None:
        """A protocol that says when it is idle is closed then."""

        @implementer(IIdling)
        class Idling(Protocol):
            idle: Deferred[object] = Deferred()
            asked = 0

            def whenIdle(self) -> Deferred[object]:
                self.asked += 1
                return self.idle

        protocol = Idling()
        transport = self.connect(protocol)
        protocol.transport = transport
        for _ in range(3):
            self.last(transport)
        self.assertEqual(protocol.asked, 1)
        self.assertFalse(transport.disconnecting)
        protocol.idle.callback(None)
        self.assertTrue(transport.disconnecting)

    def test_idle_by_an_adapter(self) -> None:
        """So is one that somebody else speaks for."""

        class Foreign(Protocol):
            pass

        class Adapter:
            def __init__(self, protocol: Foreign) -> None:
                pass

            def whenIdle(self) -> Deferred[None]:
                return succeed(None)

        registerAdapter(Adapter, Foreign, IIdling)
        transport = self.connect(Foreign())
        self.last(transport)
        self.assertTrue(transport.disconnecting)

    def test_a_protocol_that_cannot_say(self) -> None:
        """If the question fails, the connection is left to the deadline, and the log says why."""

        @implementer(IIdling)
        class Failing(Protocol):
            def whenIdle(self) -> Deferred[object]:
                deferred: Deferred[object] = Deferred()
                deferred.errback(ValueError("no idea"))
                return deferred

        transport = self.connect(Failing())
        self.last(transport)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_connection_that_cannot_be_looked_at(self) -> None:
        """One whose protocol is not what it seems to be counts as a whole, and the others are looked at."""
        channel = HTTPChannel()
        del channel.requests
        self.connect(channel)
        self.connect()
        self.assertEqual([item.target for item in self.counted.in_flight()], [b"", b""])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_taken_down(self) -> None:
        """It is closed as its protocol closes it; one that is closing already is not interrupted by that."""
        transport = self.connect()
        for expected in (1, 0):
            watch = self.counted.watch(transport)
            assert watch is not None
            self.assertEqual(len(watch.take_down()), expected)
            self.assertTrue(transport.disconnecting)


class HTTP1Tests(SynchronousTestCase):
    """A connection of HTTP/1.1 in a drain."""

    def setUp(self) -> None:
        self.counted = Tracker(kind_of)
        self.channel = HTTPChannel()
        self.channel.requestFactory = Answering
        self.channel.timeOut = None
        self.transport = Transport(self.channel)
        self.channel.makeConnection(self.transport)
        self.counted.add(self.transport)

    @property
    def watch(self) -> ConnectionWatch:
        watch = self.counted.watch(self.transport)
        assert watch is not None
        return watch

    def send(self, data: bytes = b"GET /some HTTP/1.1\r\nHost: a\r\n\r\n") -> None:
        self.channel.dataReceived(data)

    def finish(self, body: bytes = b"") -> None:
        request = self.channel.requests[0]
        request.write(body)
        request.finish()

    def said_close(self) -> list[bool]:
        """For each answer so far, whether it says that it is the last."""
        return [b"connection: close" in head.lower() for head in self.transport.value().split(b"HTTP/1.1 ")[1:]]

    def test_what_is_in_flight(self) -> None:
        """An exchange counts from its first byte to its last, and has one number all the time."""
        self.assertEqual(self.counted.in_flight(), [])
        seen: list[tuple[int, int, str, bytes]] = []

        def look() -> None:
            seen.extend((item.id, item.phase, item.method, item.target) for item in self.counted.in_flight())

        self.send(b"PO")
        look()
        self.send(b"ST /some HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n")
        look()
        self.send(b"x")
        look()
        self.channel.requests[0].write(b"begun")
        look()
        self.transport._tempDataLen = 5
        self.channel.requests[0].finish()
        look()
        self.assertEqual(
            seen,
            [
                (1, RECEIVING, "-", b"-"),
                (1, RECEIVING, "POST", b"/some"),
                (1, APPLICATION, "POST", b"/some"),
                (1, SENDING, "POST", b"/some"),
                (1, SENDING, "POST", b"/some"),
            ],
        )
        self.transport._tempDataLen = 0
        self.assertEqual((self.counted.in_flight(), self.counted.finished), ([], 1))

    def test_the_answer_under_way_is_the_last(self) -> None:
        """It says so if its head has not gone out, and the connection is closed after it."""
        self.send()
        self.watch.last()
        self.finish()
        self.assertEqual(self.said_close(), [True])
        self.assertTrue(self.transport.disconnecting)

    def test_the_head_is_out(self) -> None:
        """Otherwise it is closed without a word."""
        self.send()
        self.channel.requests[0].write(b"begun")
        self.watch.last()
        self.channel.requests[0].finish()
        self.assertEqual(self.said_close(), [False])
        self.assertTrue(self.transport.disconnecting)

    def test_pipelined_requests(self) -> None:
        """Requests that are here already are all answered: the last one says close."""
        for _ in range(3):
            self.send()
        self.watch.last()
        for _ in range(3):
            self.assertFalse(self.transport.disconnecting)
            self.finish()
        self.assertEqual(self.said_close(), [False, False, True])
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual((self.counted.in_flight(), self.counted.finished), ([], 3))

    def test_one_last_request(self) -> None:
        """A request on an idle connection is answered, as the last one, and counted however short it is."""
        self.watch.last()
        self.send()
        self.finish()
        self.assertEqual(self.said_close(), [True])
        self.assertEqual((self.counted.in_flight(), self.counted.finished), ([], 1))

    def test_a_body_is_no_request(self) -> None:
        """What is behind a head may be its body: then nothing waits behind the request."""
        self.watch.last()
        self.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        self.finish()
        self.assertEqual(self.said_close(), [True])

    def sweep(self, *moments: float, quiet: bool = False) -> None:
        for moment in moments:
            self.watch.sweep(moment, quiet)

    def test_an_idle_connection(self) -> None:
        """It is kept for a moment, from when it is idle."""
        self.watch.last()
        self.sweep(100, 100 + IDLE_GRACE - 0.1)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(100 + IDLE_GRACE)
        self.assertTrue(self.transport.disconnecting)

    def test_busy_in_between(self) -> None:
        """The moment begins anew after a request."""
        self.watch.last()
        self.sweep(100)
        self.send(b"GE")
        self.sweep(200)
        self.assertFalse(self.transport.disconnecting)

    def test_something_is_in_the_kernel(self) -> None:
        """It is not closed before what the kernel holds was read: that may be a request."""
        self.watch.last()
        self.transport.readable = b"GET"
        self.sweep(100, 200)
        self.assertFalse(self.transport.disconnecting)

    def test_quiet(self) -> None:
        """If nobody sends any more, it is closed at once; but one that has just been accepted has a second."""
        self.watch.last()
        self.sweep(100, 100 + FRESH / 2, quiet=True)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(100 + FRESH, quiet=True)
        self.assertTrue(self.transport.disconnecting)

    def test_quiet_after_a_request(self) -> None:
        """One that has had a request is closed at once."""
        self.send()
        self.finish()
        self.watch.last()
        self.sweep(100, quiet=True)
        self.assertTrue(self.transport.disconnecting)

    def test_taken_down_before_its_answer(self) -> None:
        """Whoever has got nothing yet gets a 503; the application is told that its client has left."""
        self.send()
        gone = self.channel.requests[0].notifyFinish()
        taken = self.watch.take_down()
        self.assertEqual([item.method for item in taken], ["GET"])
        self.assertTrue(self.transport.value().startswith(b"HTTP/1.1 503 Service Unavailable\r\n"))
        self.assertTrue(self.transport.value().endswith(b"\r\n\r\n503 Service Unavailable\n"))
        self.assertTrue(self.transport.disconnecting)
        self.failureResultOf(gone)

    def test_taken_down_in_its_answer(self) -> None:
        """An answer that has begun is cut, so that nobody can take it for whole."""
        self.send()
        self.channel.requests[0].write(b"begun")
        self.assertEqual(len(self.watch.take_down()), 1)
        self.assertTrue(self.transport.aborted)

    def test_taken_down_idle(self) -> None:
        """An idle connection is closed, and nothing is interrupted by that."""
        self.assertEqual(self.watch.take_down(), [])
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(self.transport.aborted)

    def test_a_peer_that_does_not_agree(self) -> None:
        """TLS that waits for the peer's goodbye is closed without it, when everything is sent."""
        self.transport.protocol.disconnecting = True
        self.transport.connected = True
        self.transport.startWriting = lambda: None  # type: ignore[attr-defined]
        self.transport.stopReading = lambda: None  # type: ignore[attr-defined]
        self.transport._writeDisconnected = False  # type: ignore[attr-defined]
        self.transport._tempDataLen = 5
        self.sweep(100, 100 + AGREES_IN)
        self.transport._tempDataLen = 0
        self.sweep(200, 200 + AGREES_IN / 2)
        self.assertFalse(self.transport.disconnecting)
        self.sweep(200 + AGREES_IN)
        self.assertTrue(self.transport.disconnecting)


class PoolsTests(SynchronousTestCase):
    """How thread pools end."""

    def setUp(self) -> None:
        for holder, name in ((ThreadPool, "stop"), (ThreadPool, "threadFactory"), (threads, "Queue")):
            self.patch(holder, name, getattr(holder, name))
        self.now = 0.0
        self.pools = Pools(lambda: self.now)
        self.pools.install()
        self.pool = ThreadPool(0, 2, "tested")
        self.pool.start()
        self.begun, self.end = threading.Event(), threading.Event()
        self.addCleanup(self.end.set)

    def job(self) -> None:
        self.begun.set()
        self.end.wait(10)

    def test_as_ever(self) -> None:
        """Before a drain is over, a pool is stopped as it always was."""
        self.pool.callInThread(self.job)
        self.begun.wait(10)
        self.end.set()
        self.pool.stop()
        self.assertFalse(any(thread.is_alive() for thread in self.pool.threads))
        self.assertEqual(self.pools.abandoned, 0)

    def test_a_job_that_does_not_end(self) -> None:
        """When the moment has come, a thread that is still there is named and abandoned; it is a daemon."""
        self.pool.callInThread(self.job)
        self.begun.wait(10)
        self.pools.until = -1.0
        with capturedLogs() as warned:
            self.pool.stop()
        self.assertEqual(self.pools.abandoned, 1)
        self.assertIsInstance(self.pool.threads[0], DaemonThread)
        self.assertTrue(self.pool.threads[0].daemon)
        (named,) = warned
        self.assertEqual(named["name"], "PoolThread-tested-0")
        self.assertIn("in job", named["stack"])

    def test_a_backlog_is_worked_off(self) -> None:
        """Work that waits for a thread is done, if there is time for it."""
        done: list[int] = []
        for number in range(20):
            self.pool.callInThread(done.append, number)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual(sorted(done), list(range(20)))

    def asks(self, errors: list[Any]) -> Callable[[], None]:
        class NoAnswer:
            def callFromThread(inner, function: Callable[[], object]) -> None:
                self.begun.set()

        def ask() -> None:
            try:
                threads.blockingCallFromThread(NoAnswer(), Deferred)  # type: ignore[arg-type]
            except ReactorNotRunning as error:
                errors.append(error)

        return ask

    def test_a_thread_that_waits_for_the_reactor(self) -> None:
        """It gets an error at once, instead of an answer that cannot come."""
        errors: list[Any] = []
        self.pool.callInThread(self.asks(errors))
        self.begun.wait(10)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual((len(errors), self.pools.abandoned), (1, 0))

    def test_a_thread_that_asks_later(self) -> None:
        """One that would begin to wait while its pool is stopped gets it, too."""
        errors: list[Any] = []
        ask = self.asks(errors)

        def later() -> None:
            self.end.wait(10)
            ask()

        self.pool.callInThread(later)
        self.patch(self.pools, "_clock", lambda: self.end.set() or 0.0)
        self.pools.until = 10.0
        self.pool.stop()
        self.assertEqual((len(errors), self.pools.abandoned), (1, 0))

    def test_a_thread_of_nobodys(self) -> None:
        """When the reactor is gone, every thread that waits for it is let go; what has its answer keeps it."""
        errors: list[Any] = []
        thread = threading.Thread(target=self.asks(errors), daemon=True)
        thread.start()
        self.begun.wait(10)
        self.assertEqual(errors, [])
        self.pools.reactor_gone()
        thread.join(10)
        self.assertEqual(len(errors), 1)

    def test_an_answer(self) -> None:
        """While nobody is let go, a thread gets the reactor's answer."""

        class Answers:
            def callFromThread(self, function: Callable[[], object]) -> None:
                function()

        self.assertEqual(threads.blockingCallFromThread(Answers(), lambda: 42), 42)  # type: ignore[arg-type]


class EnvironmentTests(SynchronousTestCase):
    """Settings by the environment."""

    def test_nothing(self) -> None:
        """Without any, or with empty ones, they are those of `graceful-app`."""
        self.assertEqual(settings_of({}), Settings())
        self.assertEqual(settings_of({"GRACEFUL_DEADLINE": "", "GRACEFUL_CONTROL": ""}), Settings())

    def test_all(self) -> None:
        """Each has its variable."""
        settings = settings_of(
            {
                "GRACEFUL_DEADLINE": "2.5",
                "GRACEFUL_LAME_DUCK": "3",
                "GRACEFUL_CONTROL": "a.sock",
                "GRACEFUL_STATUS_LISTEN": "tcp:1",
            }
        )
        self.assertEqual((settings.deadline, settings.lame_duck), (2.5, 3))
        self.assertEqual((settings.control, settings.status_listen), ("a.sock", ("tcp:1",)))

    def test_bad_ones(self) -> None:
        """One that cannot be used is named by its variable."""
        for name, value in (
            ("GRACEFUL_DEADLINE", "soon"),
            ("GRACEFUL_DEADLINE", "nan"),
            ("GRACEFUL_LAME_DUCK", "-1"),
            ("GRACEFUL_CONTROL", "x" * 200),
            ("GRACEFUL_STATUS_LISTEN", "tcp"),
        ):
            error = self.assertRaises(ValueError, settings_of, {name: value})
            self.assertTrue(str(error).startswith(f"{name}={value}: "), error)


class ImportTests(SynchronousTestCase):
    """What importing it brings with it."""

    def run_python(self, program: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)

    def test_no_reactor(self) -> None:
        """Nothing that twistd imports to install it installs another one before."""
        self.run_python(
            "import sys, twisted.plugins, graceful.reactor, graceful.reactor.core, graceful.reactor.control; "
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )

    def test_only_what_is_needed(self) -> None:
        """Neither the web engine nor twisted.web is imported for a service that needs none."""
        self.run_python(
            "import sys, graceful.reactor.core; "
            "sys.exit(bool({'httptools', 'twisted.web.http', 'graceful.web.connection'} & sys.modules.keys()))"
        )

    def test_without_epoll(self) -> None:
        """Where there is no epoll, it is made of the poll reactor."""
        self.run_python(
            "import sys; sys.modules['twisted.internet.epollreactor'] = None; "
            "from graceful.reactor import install; install(); "
            "from twisted.internet import pollreactor, reactor; "
            "assert isinstance(reactor, pollreactor.PollReactor); "
            "reactor.callWhenRunning(reactor.stop); reactor.run()"
        )

    def test_install(self) -> None:
        """`install` installs it, and a second time fails, as every reactor's does."""
        self.run_python(
            "from graceful.reactor import install; install(); "
            "from twisted.internet import error, reactor; "
            "assert type(reactor).__name__ == 'GracefulReactor', reactor\n"
            "try: install()\n"
            "except error.ReactorAlreadyInstalledError: pass\n"
            "else: raise AssertionError"
        )
