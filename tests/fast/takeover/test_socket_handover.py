"""The predecessor's side of a takeover: its events in every order."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.takeover.socket_handover import PROTOCOL, SocketHandover, TakeoverRefused

TIMEOUT = 60.0
NEW, OTHER = 4711, 4712


class SocketHolder:
    """Records the calls.

    :ivar why: the reason why it cannot hand over.
    :ivar done: the calls, in order.
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
    """Takeovers one after the other, and at the same time."""

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
        """Returns the lines of the log."""
        return [formatEvent(event) for event in self.events]

    def refused(self, token: object, pid: int = OTHER, protocol: object = PROTOCOL) -> str:
        """Assert that a process gets no sockets, and return the reason."""
        return str(self.assertRaises(TakeoverRefused, self.handover.offer, token, pid, protocol))

    def test_hands_over_what_successor_has_kept(self) -> None:
        """Sockets are shared until the successor accepts; then it has those that it has kept."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.assertEqual((self.handover.successor, self.holder.done), (NEW, ["share"]))
        self.clock.advance(TIMEOUT - 1)
        self.handover.accepts(self.token, [0, 2])
        self.assertEqual(self.holder.done, ["share", ([0, 2], NEW)])
        self.assertEqual((self.ends, self.handover.handed, self.clock.getDelayedCalls()), (1, True, []))
        self.assertIn(f"process {NEW} gets the sockets; this one serves until that one accepts", self.lines())

    def test_connection_may_end_after_handover(self) -> None:
        """The end of the successor's connection means nothing once it has the sockets."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.handover.accepts(self.token, [0])
        self.handover.lost(self.token)
        self.clock.advance(TIMEOUT * 2)
        self.assertEqual((self.holder.done, self.ends), (["share", ([0], NEW)], 1))

    def test_reclaims_sockets_of_lost_successor(self) -> None:
        """A successor that is gone before it accepts has closed the sockets; another may try."""
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

    def test_late_successor_is_refused_and_sockets_stay_shared(self) -> None:
        """A successor that takes too long may still hold the sockets; it is refused when it accepts then."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.clock.advance(TIMEOUT)
        self.assertEqual((self.holder.done, self.ends), (["share", "reclaim, still shared"], 1))
        self.assertIn(f"no takeover: process {NEW} has not accepted within 60 s; this one serves on", self.lines())
        why = str(self.assertRaises(TakeoverRefused, self.handover.accepts, self.token, [0]))
        self.assertIn("longer than 60 s", why)
        self.handover.lost(self.token)
        self.assertEqual(self.holder.done, ["share", "reclaim, still shared"])

    def test_late_successor_does_not_affect_the_next(self) -> None:
        """A successor that was too late cannot accept in place of the next one."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        self.clock.advance(TIMEOUT)
        self.handover.offer(self.other, OTHER, PROTOCOL)
        self.assertRaises(TakeoverRefused, self.handover.accepts, self.token, [0])
        self.handover.lost(self.token)
        self.assertEqual(self.handover.successor, OTHER)
        self.handover.accepts(self.other, [0])
        self.assertEqual(self.holder.done[-1], ([0], OTHER))

    def test_refuses_second_successor(self) -> None:
        """A second successor is refused in one line, which is logged, too."""
        self.handover.offer(self.token, NEW, PROTOCOL)
        why = self.refused(self.other)
        self.assertEqual(why, f"process {NEW} is taking over just now: wait for it")
        self.assertIn(f"process {OTHER} gets no sockets: {why}", self.lines())
        self.assertRaises(TakeoverRefused, self.handover.accepts, self.other, [])
        self.handover.accepts(self.token, [])
        self.assertEqual(self.refused(self.other), f"process {NEW} has taken over already")

    def test_refuses_process_that_has_not_asked(self) -> None:
        """A process that says that it accepts, without having asked, gets nothing."""
        for token in (self.token, None):
            self.assertRaises(TakeoverRefused, self.handover.accepts, token, [])
            self.handover.lost(token)
        self.assertEqual((self.holder.done, self.ends), ([], 0))

    def test_refuses_other_protocol_versions(self) -> None:
        """Any other version of the protocol is refused in a short line."""
        for protocol in (PROTOCOL + 1, None, "x" * 1000, [1]):
            why = self.refused(self.token, protocol=protocol)
            self.assertIn("version", why)
            self.assertLess(len(why), 120)

    def test_refuses_when_holder_cannot_hand_over(self) -> None:
        """The holder's reason is the refusal, and nothing is shared."""
        self.holder.why = "it is stopping"
        self.assertEqual(self.refused(self.token), "it is stopping")
        self.assertEqual(self.handover.obstacle(), "it is stopping")
        self.assertEqual(self.holder.done, [])
