"""What the reactor counts as in flight, on connections of any protocol."""

from __future__ import annotations

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol
from twisted.python.components import registerAdapter
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http import HTTPChannel
from zope.interface import implementer

from graceful.reactor.interfaces import IIdling
from graceful.reactor.tracking import Tracker
from graceful.reactor.twisted_web import kind_of
from tests.fast.reactor.doubles import Transport


class TrackerTests(SynchronousTestCase):
    """What is in flight."""

    def setUp(self) -> None:
        self.tracker = Tracker(kind_of)

    def connect(self, protocol: Protocol | None = None) -> Transport:
        transport = Transport(protocol if protocol is not None else Protocol())
        self.tracker.add(transport)
        return transport

    def begin_drain(self, transport: Transport) -> None:
        watch = self.tracker.watch(transport)
        assert watch is not None
        watch.begin_drain()

    def test_a_connection_counts_from_its_accept_to_its_end(self) -> None:
        """A connection counts from its accept to its end, with one number."""
        transport = self.connect()
        (item,) = self.tracker.in_flight()
        self.assertEqual((item.id, item.started, item.connection), (1, 1.0, transport))
        self.assertEqual(item.describe(3.5), "1, connection of Protocol with 192.168.1.1, 2.5 s old")
        self.assertEqual([item.id for item in self.tracker.in_flight()], [1])
        self.tracker.lost(transport)
        self.assertEqual((self.tracker.in_flight(), self.tracker.finished), ([], 1))

    def test_a_socket_taken_from_the_reactor_no_longer_counts(self) -> None:
        """A connection whose socket was taken from the reactor, to hand it to another process, counts no more."""
        transport = self.connect()
        waiting = self.tracker.all_gone()
        self.assertNoResult(waiting)
        transport.descriptor = -1
        self.assertEqual(self.tracker.in_flight(), [])
        self.successResultOf(waiting)

    def test_a_deferred_counts_until_it_fires(self) -> None:
        """A Deferred counts until it fires, and keeps its result."""
        deferred: Deferred[str] = Deferred()
        self.tracker.track(deferred, "an upload")
        waiting = self.tracker.all_gone()
        self.assertEqual([item.method for item in self.tracker.in_flight()], ["an upload"])
        deferred.callback("result")
        self.assertEqual(self.successResultOf(deferred), "result")
        self.successResultOf(waiting)
        self.assertEqual((self.tracker.in_flight(), self.tracker.finished), ([], 1))

    def test_a_fired_deferred_holds_nothing_up(self) -> None:
        """One that has fired already holds nothing up."""
        self.tracker.track(succeed(None), "nothing")
        self.successResultOf(self.tracker.all_gone())

    def test_waits_also_for_later_connections(self) -> None:
        """A connection that comes while the others are waited for is waited for, too."""
        first = self.connect()
        waiting = self.tracker.all_gone()
        second = self.connect()
        self.tracker.lost(first)
        self.assertNoResult(waiting)
        self.tracker.lost(second)
        self.successResultOf(waiting)

    def test_finds_an_item_by_its_number(self) -> None:
        """An item is found by its number, with the connection that carries it."""
        transport = self.connect()
        deferred: Deferred[None] = Deferred()
        self.tracker.track(deferred, "a job")
        by_number = {item.id: item for item in self.tracker.in_flight()}
        for number, item in by_number.items():
            found = self.tracker.find(number)
            assert found is not None
            self.assertIs(found[1], item)
            self.assertEqual(found[0] is None, item.connection is deferred)
        self.assertIsNone(self.tracker.find(99))
        self.assertEqual({item.connection for item in by_number.values()}, {transport, deferred})

    def test_closes_a_protocol_that_says_it_is_idle(self) -> None:
        """A protocol that says when it is idle is asked once, and closed then."""

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
            self.begin_drain(transport)
        self.assertEqual(protocol.asked, 1)
        self.assertFalse(transport.disconnecting)
        protocol.idle.callback(None)
        self.assertTrue(transport.disconnecting)

    def test_closes_a_protocol_whose_adapter_says_it_is_idle(self) -> None:
        """A protocol may also be adapted to `IIdling`."""

        class Foreign(Protocol):
            pass

        class Adapter:
            def __init__(self, protocol: Foreign) -> None:
                pass

            def whenIdle(self) -> Deferred[None]:
                return succeed(None)

        registerAdapter(Adapter, Foreign, IIdling)
        transport = self.connect(Foreign())
        self.begin_drain(transport)
        self.assertTrue(transport.disconnecting)

    def test_leaves_a_protocol_that_cannot_say_to_the_deadline(self) -> None:
        """A protocol that fails to say when it is idle is left to the deadline, and the log says why."""

        @implementer(IIdling)
        class Failing(Protocol):
            def whenIdle(self) -> Deferred[object]:
                deferred: Deferred[object] = Deferred()
                deferred.errback(ValueError("no idea"))
                return deferred

        transport = self.connect(Failing())
        self.begin_drain(transport)
        self.assertFalse(transport.disconnecting)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_connection_that_cannot_be_inspected_counts_as_a_whole(self) -> None:
        """A connection whose protocol is not what it seems to be counts as a whole, and the others are inspected."""
        channel = HTTPChannel()
        del channel.requests
        self.connect(channel)
        self.connect()
        self.assertEqual([item.target for item in self.tracker.in_flight()], [b"", b""])
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_takedown_interrupts_a_connection_only_once(self) -> None:
        """A connection is closed as its protocol closes it; one that is closing already is not interrupted."""
        transport = self.connect()
        for expected in (1, 0):
            watch = self.tracker.watch(transport)
            assert watch is not None
            self.assertEqual(len(watch.take_down()), expected)
            self.assertTrue(transport.disconnecting)
