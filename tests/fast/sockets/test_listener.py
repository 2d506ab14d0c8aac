"""Accepting connections, and closing without losing one."""

from __future__ import annotations

import errno
import os
import select
import shutil
import socket
import tempfile
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from graceful.sockets import listener as module
from graceful.sockets.address import parse
from graceful.sockets.binding import BoundSocket, bind
from graceful.sockets.listener import (
    A_TURN,
    HANDSHAKES_LOOK,
    HANDSHAKES_WAIT,
    NO_ROOM_PAUSE,
    SENT_AGAIN_WAIT,
    Listener,
    accepts_from,
)


class Readers:
    """A reactor of which only the readers matter."""

    def __init__(self) -> None:
        self.reading: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        """Watch it."""
        self.reading.add(reader)

    def removeReader(self, reader: Any) -> None:
        """Watch it no more."""
        assert reader.fileno() >= 0
        self.reading.discard(reader)


class Connection:
    """A connection from nowhere."""

    def __init__(self) -> None:
        self.blocking = True
        self.closed = False

    def setblocking(self, blocking: bool) -> None:
        """Note it."""
        self.blocking = blocking

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Queue:
    """A listening socket whose queue is a list: of connections, and of errors that accept(2) returns.

    :ivar left: what is still in the queue; an error stays at its head as often as it says.
    :ivar log: what was done to the socket, in order.
    """

    family = socket.AF_INET

    def __init__(self, *left: Connection | int, one_of_several: bool = False) -> None:
        self.left = list(left)
        self.one_of_several = one_of_several
        self.log: list[str] = []

    def accept(self) -> tuple[Connection, tuple[str, int]]:
        """Take the head of the queue."""
        if not self.left:
            raise BlockingIOError(errno.EAGAIN, "none")
        head = self.left[0]
        if isinstance(head, int):
            if head in LASTING:
                raise OSError(head, os.strerror(head))
            del self.left[0]
            raise OSError(head, os.strerror(head))
        del self.left[0]
        return head, ("192.0.2.7", 1234)

    def getsockname(self) -> tuple[str, int]:
        """Be somewhere."""
        return "0.0.0.0", 8080

    def getsockopt(self, level: int, option: int) -> int:
        """Say whether it is one of several sockets that listen on one port."""
        assert option == socket.SO_REUSEPORT
        return self.one_of_several

    def shutdown(self, how: int) -> None:
        """End the listening of everybody who holds it: the step before the close."""

    def fileno(self) -> int:
        """Be open."""
        return -1 if "close" in self.log else 99

    def close(self) -> None:
        """Be closed."""
        self.log.append("close")


LASTING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EINVAL)
CLOSED = f"socket tcp:0.0.0.0:8080 closed (pid {os.getpid()})"


class Case(SynchronousTestCase):
    """A listener with a queue, a clock and a reactor that the test holds in its hands."""

    def setUp(self) -> None:
        """Make them."""
        self.reactor = Readers()
        self.clock = Clock()
        self.taken: list[Any] = []
        self.filtered: list[Any] = []
        self.half_open: list[int] = []
        self.may_filter = self.may_refuse = False
        self.refused: list[Any] = []
        self.patch(module, "drop_new", self.drop_new)
        self.patch(module, "refuse_new", self.refuse_new)
        self.released: list[Any] = []
        self.patch(module, "release", self.released.append)
        self.patch(module, "connection_waits", lambda queue: bool(queue.left))
        logs = capturedLogs()
        self.events = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def drop_new(self, listening: Any) -> bool:
        """Put the filter on, if the process may."""
        self.filtered.append(listening)
        return self.may_filter

    def refuse_new(self, listening: Any) -> bool:
        """Refuse new clients, if the kernel can."""
        self.refused.append(listening)
        return self.may_refuse

    def listener(self, queue: Queue, **more: Any) -> Listener:
        """Make a listener on a queue, and start it."""
        bound = BoundSocket("tcp:0.0.0.0:8080", cast(socket.socket, queue), **more)
        made = Listener(
            cast(Any, self.reactor),
            self.clock,
            bound,
            lambda connection, address: self.taken.append(connection),
            half_open=lambda port: self.half_open.pop(0) if self.half_open else 0,
        )
        made.start()
        return made

    def lines(self, level: Any = None) -> list[str]:
        """What was logged."""
        return [formatEvent(event) for event in self.events if level in (None, event["log_level"])]


class AcceptTests(Case):
    """While it serves."""

    def test_accepts_all_that_wait_in_one_turn(self) -> None:
        """All that wait are accepted in one turn, non-blocking, and handed on with their address."""
        seen = []
        queue = Queue(Connection(), Connection())
        bound = BoundSocket("tcp:0.0.0.0:8080", cast(socket.socket, queue))
        made = Listener(cast(Any, self.reactor), self.clock, bound, lambda connection, address: seen.append(address))
        self.assertEqual(self.reactor.reading, set())
        made.start()
        self.assertEqual(self.reactor.reading, {made})
        connections = list(queue.left)
        made.doRead()
        self.assertEqual(seen, [("192.0.2.7", 1234)] * 2)
        self.assertEqual([cast(Connection, one).blocking for one in connections], [False, False])

    def test_the_listener_provides_IReadDescriptor(self) -> None:
        """The reactor finds what it asks of a reader."""
        made = self.listener(Queue())
        self.assertTrue(verifyObject(IReadDescriptor, made))
        self.assertEqual((made.fileno(), made.logPrefix()), (99, "tcp:0.0.0.0:8080"))

    def test_lets_others_run_after_a_turn(self) -> None:
        """However many wait, others get their turn after so many."""
        queue = Queue(*[Connection() for _ in range(A_TURN + 10)])
        made = self.listener(queue)
        made.doRead()
        self.assertEqual((len(self.taken), len(queue.left)), (A_TURN, 10))
        self.assertEqual(self.reactor.reading, {made})
        made.doRead()
        self.assertEqual(len(self.taken), A_TURN + 10)

    def test_skips_connections_that_are_gone(self) -> None:
        """An error that belongs to one connection does not keep the others waiting, nor fill the log."""
        for number in (errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH):
            self.listener(Queue(number, Connection())).doRead()
        self.assertEqual(len(self.taken), 5)
        self.assertEqual(self.lines(), [])

    def test_leaves_the_queue_alone_without_room(self) -> None:
        """Out of descriptors or memory, nothing is accepted and closed: the queue keeps them, for 100 ms."""
        for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            self.taken.clear()
            first, second = Connection(), Connection()
            queue = Queue(first, number, second)
            made = self.listener(queue)
            made.doRead()
            self.assertEqual(self.taken, [first])
            self.assertNotIn(made, self.reactor.reading)
            self.clock.advance(NO_ROOM_PAUSE - 0.001)
            self.assertNotIn(made, self.reactor.reading)
            self.clock.advance(0.001)
            self.assertIn(made, self.reactor.reading)
            queue.left.remove(number)
            made.doRead()
            self.assertEqual(self.taken, [first, second])
            self.assertEqual((first.closed, second.closed), (False, False))

    def test_an_empty_queue_needs_no_room(self) -> None:
        """The kernel asks for a descriptor before it looks into the queue: an empty one is no reason to wait."""

        class Full(Queue):
            """Has no descriptor for anyone."""

            def accept(self) -> tuple[Connection, tuple[str, int]]:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        made = self.listener(Full())
        made.doRead()
        self.assertIn(made, self.reactor.reading)
        done: list[None] = []
        made.close(60).addCallback(done.append)
        self.clock.advance(1)
        self.assertEqual((done, self.lines()), ([None], [CLOSED]))

    def test_logs_no_room_once(self) -> None:
        """The log has one line when it begins, with what to do, and one when it works again."""
        queue = Queue(errno.EMFILE, Connection())
        made = self.listener(queue)
        for _ in range(5):
            made.doRead()
            self.clock.advance(NO_ROOM_PAUSE)
        (line,) = self.lines()
        self.assertIn("socket tcp:0.0.0.0:8080 cannot accept: Too many open files", line)
        self.assertIn("raise the limit", line)
        del queue.left[0]
        made.doRead()
        self.assertEqual(self.lines()[1:], ["socket tcp:0.0.0.0:8080 accepts again"])

    def test_retries_unknown_errors_after_a_pause(self) -> None:
        """An unexpected error is retried after a pause, not at once for ever."""
        made = self.listener(Queue(errno.EINVAL))
        made.doRead()
        self.assertEqual(self.reactor.reading, set())
        self.assertIn("Invalid argument", self.lines()[0])

    def test_accepts_nothing_while_paused(self) -> None:
        """While paused, connections stay in the kernel's queue; `accepted` itself may ask for it."""
        queue = Queue(*[Connection() for _ in range(3)])
        made = self.listener(queue)

        def full(connection: Any, address: Any) -> None:
            self.taken.append(connection)
            made.pause("max-connections")

        made._accepted = full
        made.doRead()
        self.assertEqual((len(self.taken), len(queue.left)), (1, 2))
        self.assertEqual((self.reactor.reading, made.paused), (set(), "max-connections"))
        made.resume()
        self.assertEqual((self.reactor.reading, made.paused), ({made}, None))

    def test_one_pause_does_not_end_the_other(self) -> None:
        """The end of the one kind of pause does not end the other."""
        made = self.listener(Queue(errno.EMFILE))
        made.doRead()
        made.pause("max-connections")
        self.clock.advance(NO_ROOM_PAUSE)
        self.assertEqual(self.reactor.reading, set())
        made.resume()
        made.doRead()
        made.pause("max-connections")
        made.resume()
        self.assertEqual(self.reactor.reading, set())
        self.clock.advance(NO_ROOM_PAUSE)
        self.assertEqual(self.reactor.reading, {made})

    def test_closes_a_connection_that_cannot_be_taken(self) -> None:
        """A connection that cannot be taken is closed, with a traceback in the log, and the next one is taken."""
        first, second = Connection(), Connection()
        made = self.listener(Queue(first, second))

        def fail_once(connection: Any, address: Any) -> None:
            if connection is first:
                raise RuntimeError("no")
            self.taken.append(connection)

        made._accepted = fail_once
        made.doRead()
        self.assertEqual((first.closed, self.taken), (True, [second]))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_connection_that_cannot_be_prepared_does_not_end_the_accepting(self) -> None:
        """What is raised out of `doRead` would have the reactor close the listening socket."""

        class Unruly(Connection):
            def setblocking(self, blocking: bool) -> None:
                raise OSError(errno.ENOMEM, "no")

        first, second = Unruly(), Connection()
        self.listener(Queue(first, second)).doRead()
        self.assertEqual((first.closed, self.taken), (True, [second]))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class AcceptsFromTests(SynchronousTestCase):
    """What accepts from a real socket."""

    def test_it_accepts_as_the_socket_itself_does(self) -> None:
        """The same kind of socket with the same address of the client, and the same error when nobody waits."""
        unnamed: tuple[Any, Any] = (socket.AF_UNIX, "")
        for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0)), unnamed):
            made = socket.socket(family)
            with self.subTest(family=family), socket.socket(fileno=made.detach()) as listening:  # knows its protocol
                listening.bind(address)
                listening.listen()
                listening.setblocking(False)
                accept = accepts_from(listening)
                self.assertRaises(BlockingIOError, accept)
                with socket.socket(family) as client:
                    client.connect(listening.getsockname())
                    connection, peer = accept()
                    with connection:
                        self.assertEqual((type(connection), connection.family), (socket.socket, family))
                        self.assertEqual((connection.type, connection.proto), (listening.type, listening.proto))
                        self.assertEqual((peer, connection.get_inheritable()), (client.getsockname(), False))


class CloseTests(Case):
    """On the way out."""

    def assert_closed(self, queue: Queue, done: Deferred[None]) -> None:
        """Assert that the socket is closed, left by the reactor, and said to be so in one record."""
        self.successResultOf(done)
        self.assertEqual(queue.log, ["close"])
        self.assertEqual(self.reactor.reading, set())
        self.assertEqual(self.lines(LogLevel.info)[-1], CLOSED)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_accepts_the_queue_before_closing(self) -> None:
        """Every connection that the kernel has completed is accepted before the socket is shut down and closed."""
        queue = Queue(*[Connection() for _ in range(3)])
        done = self.listener(queue).close(within=0)
        self.assertEqual(len(self.taken), 3)
        self.assert_closed(queue, done)
        self.assertEqual(self.lines(), [CLOSED])

    def test_serves_a_long_queue_in_several_turns(self) -> None:
        """A queue longer than a turn is served in several; the reactor gets its own in between."""
        queue = Queue(*[Connection() for _ in range(A_TURN + 1)])
        done = self.listener(queue).close(within=0)
        self.assertEqual(len(self.taken), A_TURN)
        self.assertNoResult(done)
        self.clock.advance(0)
        self.assertEqual(len(self.taken), A_TURN + 1)
        self.assert_closed(queue, done)

    def test_accepts_the_queue_though_paused(self) -> None:
        """A limit on connections does not hold for those that are in the queue already."""
        queue = Queue(Connection(), Connection())
        made = self.listener(queue)
        made.pause("max-connections")
        done = made.close(within=0)
        self.assertEqual(len(self.taken), 2)
        made.resume()
        self.assert_closed(queue, done)

    def test_a_second_close_waits_for_the_first(self) -> None:
        """Who closes it again is told when it is closed, and it is said once."""
        queue = Queue(errno.EMFILE)
        made = self.listener(queue)
        first, second = made.close(within=1), made.close(within=9)
        self.assertNoResult(second)
        queue.left.clear()
        self.clock.advance(NO_ROOM_PAUSE)
        self.assert_closed(queue, first)
        self.assert_closed(queue, second)
        self.assert_closed(queue, made.close(within=0))
        self.assertEqual(self.lines().count(CLOSED), 1)

    def test_waits_for_half_open_handshakes(self) -> None:
        """With the door shut, clients whose handshake is under way are waited for, accepted and released."""
        self.may_filter = True
        self.half_open = [2, 1, 0]
        queue = Queue()
        done = self.listener(queue).close(within=0)
        self.assertEqual(self.filtered, [queue])
        self.clock.advance(HANDSHAKES_LOOK)
        self.assertNoResult(done)
        queue.left = [Connection(), Connection()]
        self.clock.advance(HANDSHAKES_LOOK)
        self.assertEqual(len(self.taken), 2)
        self.assertEqual(self.released, self.taken)
        self.assert_closed(queue, done)

    def waits(self, seconds: float) -> None:
        """Check that handshakes that are never complete are waited for so long."""
        self.half_open = [1] * 1000
        queue = Queue()
        done = self.listener(queue).close(within=100)
        steps = round(seconds / HANDSHAKES_LOOK)
        self.clock.pump([HANDSHAKES_LOOK] * (steps - 1))
        self.assertNoResult(done)
        self.clock.pump([HANDSHAKES_LOOK] * 2)
        self.assert_closed(queue, done)

    def test_waits_only_briefly_for_handshakes(self) -> None:
        """They are not waited for longer than a round trip to nearly anywhere."""
        self.may_filter = True
        self.waits(HANDSHAKES_WAIT)

    def test_waits_for_a_lost_segment_of_a_handshake(self) -> None:
        """Where new clients are refused at once, there is time for the kernel to send something a second time."""
        self.may_refuse = True
        self.waits(SENT_AGAIN_WAIT)
        self.assertEqual((len(self.refused), self.filtered), (1, []))

    def test_accepts_while_it_waits_for_handshakes(self) -> None:
        """A client whose handshake is complete does not wait for those of others, and needs no release."""
        self.may_refuse = True
        self.half_open = [1] * 1000
        queue = Queue()
        done = self.listener(queue).close(within=0)
        queue.left = [Connection()]
        self.clock.advance(HANDSHAKES_LOOK)
        self.assertEqual((len(self.taken), self.released), (1, []))
        self.assertNoResult(done)
        self.half_open = []
        self.clock.advance(HANDSHAKES_LOOK)
        self.assert_closed(queue, done)

    def test_drops_what_reaches_one_of_several_sockets(self) -> None:
        """A worker's socket refuses new clients only when those of its siblings do; till then it drops them."""
        self.may_refuse = self.may_filter = True
        queue = Queue(Connection(), one_of_several=True)
        self.assert_closed(queue, self.listener(queue).close(within=0))
        self.assertEqual((self.refused, self.filtered), ([queue], [queue]))
        self.assertEqual(self.released, self.taken)

    def test_waits_for_none_if_it_cannot_refuse_new_ones(self) -> None:
        """Where the door cannot be shut, new handshakes would come for ever: none is waited for."""
        self.half_open = [1]
        queue = Queue()
        self.assert_closed(queue, self.listener(queue).close(within=0))
        self.assertEqual(self.filtered, [queue])

    def test_leaves_a_shared_socket_listening(self) -> None:
        """Nothing is done to a socket that a successor holds as well, except closing our descriptor."""
        queue = Queue(Connection())
        self.assert_closed(queue, self.listener(queue, shared=True).close(within=0))
        self.assertEqual((self.filtered, self.refused), ([], []))
        self.assertEqual(len(self.taken), 1)

    def test_retries_without_room(self) -> None:
        """Without room to accept those in the queue, it is tried again, every 100 ms."""
        queue = Queue(errno.EMFILE, Connection())
        made = self.listener(queue)
        made.doRead()
        done = made.close(within=10)
        self.clock.pump([NO_ROOM_PAUSE] * 50)
        self.assertNoResult(done)
        self.assertNotIn(made, self.reactor.reading)
        del queue.left[0]
        self.clock.advance(NO_ROOM_PAUSE)
        self.assertEqual(len(self.taken), 1)
        self.assert_closed(queue, done)

    def test_closes_without_room_at_the_limit(self) -> None:
        """At the caller's limit it closes all the same, and says once what that costs."""
        self.may_filter = True  # so that handshakes would be waited for
        queue = Queue(errno.ENFILE, Connection())
        done = self.listener(queue).close(within=1)
        self.clock.pump([NO_ROOM_PAUSE] * 8)
        self.assertNoResult(done)
        self.clock.pump([NO_ROOM_PAUSE] * 3)
        self.assert_closed(queue, done)
        said = "closes with connections in its queue, which are reset"
        self.assertIn(said, self.lines(LogLevel.error)[-1])
        self.assertEqual([said in line for line in self.lines(LogLevel.error)].count(True), 1)

    def test_closes_when_the_reactor_ends(self) -> None:
        """If the reactor ends without us, the socket is closed, also in the middle of closing."""
        queue = Queue(errno.EMFILE)
        made = self.listener(queue)
        done = made.close(within=10)
        made.connectionLost(Failure(RuntimeError("reactor")))
        self.successResultOf(done)
        self.assertEqual(queue.log, ["close"])
        self.clock.advance(NO_ROOM_PAUSE)
        self.assert_closed(queue, made.close(within=0))

    def test_closes_in_spite_of_errors(self) -> None:
        """Whatever goes wrong while closing, it ends closed."""
        self.may_filter = True
        queue = Queue()
        made = self.listener(queue)
        made._half_open = lambda port: 1 // 0
        self.assert_closed(queue, made.close(within=0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class RealSocketTests(Case):
    """With sockets of the kernel's."""

    def setUp(self) -> None:
        """Let the kernel do it."""
        refuse_new, drop_new, release = module.refuse_new, module.drop_new, module.release
        super().setUp()
        self.patch(module, "refuse_new", refuse_new)
        self.patch(module, "drop_new", drop_new)
        self.patch(module, "release", release)

    def real(self, bound: BoundSocket) -> Listener:
        """A listener that closes what it accepts at the end of the test."""

        def accepted(connection: socket.socket, address: Any) -> None:
            self.addCleanup(connection.close)
            self.taken.append(connection)

        made = Listener(cast(Any, self.reactor), self.clock, bound, accepted)
        made.start()
        return made

    def clients(self, where: Any, count: int, family: int = socket.AF_INET) -> list[socket.socket]:
        """Clients that are connected, for all they know."""
        made = []
        for _ in range(count):
            client = socket.socket(family)
            self.addCleanup(client.close)
            client.connect(where)
            client.settimeout(10)
            made.append(client)
        return made

    def assert_nobody_lost(self, clients: list[socket.socket]) -> None:
        """Assert that each client has been accepted, and can be answered."""
        self.assertEqual(len(self.taken), len(clients))
        for connection in self.taken:
            connection.send(b"hello")
        self.assertEqual({client.recv(10) for client in clients}, {b"hello"})

    def test_serves_the_queue_and_refuses_later_clients(self) -> None:
        """Clients that wait in the queue are served although the socket closes, and later ones are refused."""
        bound = bind(parse("tcp:0:interface=127.0.0.1"), {})
        made = self.real(bound)
        where = bound.socket.getsockname()
        clients = self.clients(where, 5)
        self.successResultOf(made.close(within=0))
        self.assert_nobody_lost(clients)
        self.assertRaises(ConnectionRefusedError, self.clients, where, 1)
        self.assertIn(f"socket {bound.name} closed (pid {os.getpid()})", self.lines())
        self.assertEqual(made.fileno(), -1)

    def test_another_holder_goes_on_accepting(self) -> None:
        """Another holder of the socket goes on accepting, new connections too."""
        theirs = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(theirs.close)
        made = self.real(bind(parse(f"fd:{os.dup(theirs.fileno())}"), {}))
        self.successResultOf(made.close(within=0))
        self.clients(theirs.getsockname(), 1)
        # Non-blocking, as ours was: that is a property of the socket, which is one and the same.
        self.assertTrue(select.select([theirs], [], [], 10)[0])
        theirs.accept()[0].close()

    def test_serves_unix_clients_and_unlinks_the_path(self) -> None:
        """A Unix socket's clients are served, and its path is unlinked."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "s")
        made = self.real(bind(parse(f"unix:{path}"), {}))
        clients = self.clients(path, 3, socket.AF_UNIX)
        self.successResultOf(made.close(within=0))
        self.assert_nobody_lost(clients)
        self.assertEqual(os.listdir(directory), [])

    def test_completes_a_half_open_handshake(self) -> None:
        """Where the filter may be put on, a client in the middle of its handshake is not lost."""
        bound = bind(parse("tcp:0:interface=127.0.0.1"), {})
        bound.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
        made = self.real(bound)
        (client,) = self.clients(bound.socket.getsockname(), 1)
        done = made.close(within=0)
        if done.called:  # the kernel knows neither way
            self.assertNotEqual(os.geteuid(), 0)
            return
        client.send(b"at last")
        select.select([bound.socket], [], [], 10)
        self.clock.advance(HANDSHAKES_LOOK)
        self.successResultOf(done)
        self.assert_nobody_lost([client])


class HandOverTests(Case):
    """Leaving the socket to a successor."""

    def test_leaves_the_queue_to_the_successor(self) -> None:
        """Nothing is accepted any more, nothing shut down, and it is said whose it is."""
        queue = Queue(Connection())
        made = self.listener(queue)
        made.hand_over(4712)
        self.assertEqual((len(queue.left), self.taken, queue.log), (1, [], ["close"]))
        self.assertEqual(self.reactor.reading, set())
        self.assertEqual(self.lines(), ["socket tcp:0.0.0.0:8080 handed to 4712", CLOSED])
        self.successResultOf(made.close(5))
        made.hand_over(4712)
        self.assertEqual(len(self.lines()), 2)

    def test_leaves_the_path_to_the_successor(self) -> None:
        """A Unix socket's file is the successor's."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "a")
        bound = bind(parse(f"unix:{path}"), {})
        with socket.socket(fileno=os.dup(bound.socket.fileno())):
            made = Listener(cast(Any, self.reactor), self.clock, bound, lambda connection, address: None)
            made.start()
            made.hand_over(4712)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)

    def test_ends_a_pause(self) -> None:
        """A pause ends with it."""
        queue = Queue(errno.EMFILE)
        made = self.listener(queue)
        made.doRead()
        made.hand_over(4712)
        self.assertEqual(self.clock.getDelayedCalls(), [])
