"""The old instance's side of a takeover: what may happen, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.takeover.succession import PROTOCOL, SocketHandover, TakeoverRefused

TIMEOUT = 60.0
NEW, OTHER = 4711, 4712


class SocketHolder:
    """Writes down what it is asked.

    :ivar why: why it cannot hand over.
    :ivar done: what it was asked, in order.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.done: list[object] = []

    def cannot_hand_over(self) -> str | None:
        return self.why

    def share_sockets(self) -> None:
        self.done.append("share")

    def reclaim_sockets(self, alone: bool) -> None:
        self.done.append("reclaim" if alone else "reclaim, still shared")

    def hand_over(self, kept: Sequence[int], pid: int) -> None:
        self.done.append((list(kept), pid))


class SuccessionTests(SynchronousTestCase):
    """One takeover after the other, and at once."""

    def setUp(self) -> None:
        """Make an instance that could be taken over."""
        self.clock, self.holder = Clock(), SocketHolder()
        self.handover = SocketHandover(self.clock, self.holder, TIMEOUT, self._ended)
        self.ends = 0
        self.token, self.other = object(), object()
        logs = capturedLogs()
        self.events = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def _ended(self) -> None:
        self.ends += 1

    def lines(self) -> list[str]:
        """What was logged."""
        return [formatEvent(event) for event in self.events]

    def refused(self, token: object, pid: int = OTHER, protocol: object = PROTOCOL) -> str:
        """Assert that nothing is offered; why."""
        return str(self.assertRaises(TakeoverRefused, self.handover.offer, token, pid, protocol))

    def test_well(self) -> None:
        """Sockets are lent until the successor accepts; then it has what it has kept."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.assertEqual((self.handover.successor, self.holder.done), (NEW, ["share"]))
        self.clock.advance(TIMEOUT - 1)
        self.handover.accepts(self.token, [0, 2])
        self.assertEqual(self.holder.done, ["share", ([0, 2], NEW)])
        self.assertEqual((self.ends, self.handover.handed, self.clock.getDelayedCalls()), (1, True, []))
        self.assertIn(f"process {NEW} gets the sockets; this one serves until that one accepts", self.lines())

    def test_lost_afterwards(self) -> None:
        """That the successor closes its connection when it has the sockets means nothing."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.handover.accepts(self.token, [0])
        self.handover.lost(self.token)
        self.clock.advance(TIMEOUT * 2)
        self.assertEqual((self.holder.done, self.ends), (["share", ([0], NEW)], 1))

    def test_lost(self) -> None:
        """One that is gone before it accepts has closed the sockets; another may try."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.handover.lost(self.token)
        self.assertEqual((self.holder.done, self.ends), (["share", "reclaim"], 1))
        self.assertIn(
            f"no takeover: process {NEW} has ended before it accepted; its own log says why; this one serves on",
            self.lines(),
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.handover.offer(self.other, OTHER, PROTOCOL)
        self.handover.lost(self.token)
        self.handover.accepts(self.other, [])
        self.assertEqual(self.holder.done[2:], ["share", ([], OTHER)])

    def test_late(self) -> None:
        """One that takes too long may still hold the sockets; what it says then is not heard."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.clock.advance(TIMEOUT)
        self.assertEqual((self.holder.done, self.ends), (["share", "reclaim, still shared"], 1))
        self.assertIn(f"no takeover: process {NEW} has not accepted within 60 s; this one serves on", self.lines())
        why = str(self.assertRaises(TakeoverRefused, self.handover.accepts, self.token, [0]))
        self.assertIn("longer than 60 s", why)
        self.handover.lost(self.token)
        self.assertEqual(self.holder.done, ["share", "reclaim, still shared"])

    def test_late_and_another(self) -> None:
        """One that was too late cannot speak for the next."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.clock.advance(TIMEOUT)
        self.handover.offer(self.other, OTHER, PROTOCOL)
        self.assertRaises(TakeoverRefused, self.handover.accepts, self.token, [0])
        self.handover.lost(self.token)
        self.assertEqual(self.handover.successor, OTHER)
        self.handover.accepts(self.other, [0])
        self.assertEqual(self.holder.done[-1], ([0], OTHER))

    def test_one_at_a_time(self) -> None:
        """A second one is refused in one line, which the log has as well."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        why = self.refused(self.other)
        self.assertEqual(why, f"process {NEW} is taking over just now: wait for it")
        self.assertIn(f"process {OTHER} gets no sockets: {why}", self.lines())
        self.assertRaises(TakeoverRefused, self.handover.accepts, self.other, [])
        self.handover.accepts(self.token, [])
        self.assertEqual(self.refused(self.other), f"process {NEW} has taken over already")

    def test_nobody_has_asked(self) -> None:
        """Who says that it accepts, without having asked, gets nothing."""
        for token in (self.token, None):
            self.assertRaises(TakeoverRefused, self.handover.accepts, token, [])
            self.handover.lost(token)
        self.assertEqual((self.holder.done, self.ends), ([], 0))

    def test_version(self) -> None:
        """Another version of the protocol is refused, whatever it may be."""
        for protocol in (PROTOCOL + 1, None, "x" * 1000, [1]):
            why = self.refused(self.token, protocol=protocol)
            self.assertIn("version", why)
            self.assertLess(len(why), 120)

    def test_cannot(self) -> None:
        """The holder has a say."""
        self.holder.why = "it is stopping"
        self.assertEqual(self.refused(self.token), "it is stopping")
        self.assertEqual(self.handover.obstacle(), "it is stopping")
        self.assertEqual(self.holder.done, [])
