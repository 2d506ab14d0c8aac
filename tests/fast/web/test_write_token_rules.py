"""The rules of the write token, one step after another.

`test_turn` tries every order of the steps with a real connection around them.  Here each step is taken alone, in the
situations that hardly come about, or that the connection would make good by itself: each rule has to hold by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.web.exchange import Exchange
from graceful.web.write_token import GONE, NOBODY, QUEUE, REACTOR, SEND, SENDER, WriteToken
from tests.fast.interleave import Violation


class Request:
    """What the turn wants to know of an exchange."""

    def __init__(self, keep: bool = True) -> None:
        self.keep = keep


def request(keep: bool = True) -> Exchange:
    """An exchange.

    :param keep: whether others may follow it on the connection.
    """
    return cast(Exchange, Request(keep))


class Room:
    """Stands for the condition that threads wait for: what happens meanwhile is what the test says.

    :ivar steps: what happens in each wait.  One more wait than steps is a thread that waits in vain.
    :ivar told: how often those who wait were told to look again.
    """

    def __init__(self, lock: threading.Lock, steps: list[Callable[[], object]]) -> None:
        self._lock = lock
        self.steps = steps
        self.told = 0

    def wait(self) -> None:
        """Let go of the lock, and take it again when something has happened."""
        if not self.steps:
            raise Violation("a thread waits in vain")
        self._lock.release()
        try:
            self.steps.pop(0)()
        finally:
            self._lock.acquire()

    def notify_all(self) -> None:
        """Tell them."""
        self.told += 1


class Case(SynchronousTestCase):
    """A turn, with one exchange whose turn it is."""

    def setUp(self) -> None:
        """Let its request arrive."""
        self.write_token = WriteToken()
        self.one, self.two = request(), request()
        self.assertTrue(self.write_token.request_ready(self.one))

    def leave(self, *pieces: bytes, last: bool = False) -> None:
        """Send, and leave a rest."""
        self.assertIs(self.write_token.acquire(self.one), SEND)
        self.assertFalse(self.write_token.leave_to_reactor(list(pieces), last))

    def closing(self) -> None:
        """Have the reactor ask to close while a thread sends."""
        self.assertIs(self.write_token.acquire(self.one), SEND)
        self.assertFalse(self.write_token.close())

    def closed(self) -> None:
        """Have it closed."""
        self.assertTrue(self.write_token.close())


class SenderTests(Case):
    """Only the holder sends."""

    def test_while_one_sends_another_queues_behind_it(self) -> None:
        """While one sends, another has to queue behind it."""
        self.assertIs(self.write_token.acquire(self.one), SEND)
        self.assertIs(self.write_token.holder, SENDER)
        self.assertIs(self.write_token.acquire(self.one), QUEUE)

    def test_nobody_reads_it(self) -> None:
        """Who is not current, or comes after the last byte, or after the end, does not get the token."""
        self.assertIs(self.write_token.acquire(self.two), GONE)
        last = request(keep=False)
        ended = WriteToken()
        ended.request_ready(last)
        ended.acquire(last)
        self.assertFalse(ended.done(last, True))
        self.assertTrue(ended.lingering)
        self.assertIs(ended.acquire(last), GONE)
        self.closing()
        self.assertTrue(self.write_token.done(self.one, False))
        self.assertIs(self.write_token.acquire(self.one), GONE)
        self.closed()
        self.assertIs(self.write_token.acquire(self.one), GONE)

    def test_nothing_begins_while_closing(self) -> None:
        """A sender that is through when the reactor wants to close calls it, and starts nothing."""
        self.write_token.request_ready(self.two)
        self.closing()
        self.assertIs(self.write_token.done(self.one, True), True)
        self.assertEqual((self.write_token.current, list(self.write_token.waiting)), (self.one, [self.two]))

    def test_the_reactor_is_called_at_each_change_it_wants_to_hear_of(self) -> None:
        """A reactor that wants to hear of the next change of turn is called: at each, not only at an answer's end."""
        for last in (False, True):
            self.write_token.attention = True
            self.assertIs(self.write_token.acquire(self.one), SEND)
            self.assertIs(self.write_token.done(self.one, last), True)
        self.assertIs(self.write_token.current, None)

    def test_attention_at_the_last(self) -> None:
        """Also at the end of the last answer, be it in the kernel or in the rest."""
        for rest in (False, True):
            write_token, last = WriteToken(), request(keep=False)
            write_token.request_ready(last)
            write_token.attention = True
            write_token.acquire(last)
            if rest:
                write_token.leave_to_reactor([b"x"], True)
                write_token.piece_taken(1)
                self.assertEqual(write_token.rest_flushed(), (True, last, True))
            else:
                self.assertIs(write_token.done(last, True), True)

    def test_begun_with_the_first_piece(self) -> None:
        """A new answer has not begun, and has as soon as something of it is sent or waits to be."""
        self.assertFalse(self.write_token.begun)
        self.leave(b"x")
        self.assertTrue(self.write_token.begun)
        self.write_token.piece_taken(1)
        self.write_token.rest_flushed()
        self.assertIs(self.write_token.acquire(self.one), SEND)
        self.write_token.done(self.one, True)
        self.assertTrue(self.write_token.request_ready(self.two))
        self.assertFalse(self.write_token.begun)


class RestTests(Case):
    """What the kernel does not take is the reactor's."""

    def test_rest_is_sent_in_order(self) -> None:
        """It is sent from its beginning, byte by byte, with what came later behind it."""
        self.leave(b"abc", b"", b"d")
        self.assertIs(self.write_token.acquire(self.one), QUEUE)
        self.assertTrue(self.write_token.append(self.one, [b"", b"ef"], False))
        self.assertEqual((list(self.write_token.rest), self.write_token.held), ([b"abc", b"d", b"ef"], 6))
        got = b""
        while (piece := self.write_token.first_piece()) is not None:
            count = min(2, len(piece))
            got += bytes(piece[:count])
            self.write_token.piece_taken(count)
            self.assertLessEqual(len(got), 6)
        self.assertEqual((got, self.write_token.held), (b"abcdef", 0))

    def test_the_reactor_releases_the_token_when_nothing_is_left(self) -> None:
        """The reactor lets go when nothing is left, and not while something was added meanwhile."""
        self.leave(b"x")
        self.write_token.piece_taken(1)
        self.write_token.append(self.one, [b"y"], True)
        self.assertEqual(self.write_token.rest_flushed(), (False, None, False))
        self.assertIs(self.write_token.holder, REACTOR)
        self.write_token.piece_taken(1)
        self.assertEqual(self.write_token.rest_flushed(), (True, self.one, False))
        self.assertIs(self.write_token.holder, NOBODY)
        self.assertEqual(self.write_token.rest_flushed(), (False, None, False))

    def test_an_answer_that_goes_on(self) -> None:
        """A rest without the end of an answer ends nothing, but is a change of turn."""
        self.leave(b"x", last=False)
        self.write_token.attention = True
        self.write_token.piece_taken(1)
        self.assertEqual(self.write_token.rest_flushed(), (True, None, True))
        self.assertIs(self.write_token.current, self.one)

    def test_end_of_rest_starts_the_next_exchange(self) -> None:
        """The end of a rest starts the next exchange."""
        self.write_token.request_ready(self.two)
        self.leave(b"x", last=True)
        self.write_token.piece_taken(1)
        self.assertEqual(self.write_token.rest_flushed(), (True, self.one, self.two))
        self.assertIs(self.write_token.current, self.two)
        self.assertIs(self.write_token.acquire(self.two), SEND)

    def test_append_too_late(self) -> None:
        """Nothing is put behind a rest that is not there any more, or by one that is not current."""
        self.assertFalse(self.write_token.append(self.one, [b"x"], False))
        self.leave(b"x")
        self.assertFalse(self.write_token.append(self.two, [b"y"], False))
        self.assertEqual(list(self.write_token.rest), [b"x"])

    def test_what_one_connection_leaves_is_no_other_connections_rest(self) -> None:
        """Though those that have nothing to send have one empty rest together, before and behind that."""
        other: Any = WriteToken()
        self.assertIs(self.write_token.rest, other.rest)
        self.leave(b"x")
        self.assertEqual((list(self.write_token.rest), list(other.rest)), ([b"x"], []))
        self.write_token.piece_taken(1)
        self.assertEqual(self.write_token.rest_flushed(), (True, None, False))
        self.assertIs(self.write_token.rest, other.rest)
        self.leave(b"y")
        self.assertTrue(self.write_token.close())
        self.assertIs(self.write_token.rest, other.rest)
        self.assertFalse(other.rest)

    def test_dropped_while_closing(self) -> None:
        """A sender that leaves a rest while the reactor wants to close drops it, lets go, and calls the reactor."""
        self.closing()
        self.assertTrue(self.write_token.leave_to_reactor([b"x"], True))
        self.assertEqual(
            (self.write_token.holder, self.write_token.first_piece(), self.write_token.held), (NOBODY, None, 0)
        )


class WaitTests(Case):
    """A thread that is far ahead of its client waits."""

    def wait(self, *steps: Callable[[], object], above: int = 10, until: int = 4) -> tuple[bool, int]:
        """Wait for room.  Returns whether the client still reads, and how many steps were not needed."""
        room = Room(self.write_token.lock, list(steps))
        self.write_token.room = cast(Any, room)
        return self.write_token.wait(above, until), len(room.steps)

    def take(self, count: int) -> Callable[[], object]:
        """The kernel takes so much."""
        return lambda: self.write_token.piece_taken(count)

    def test_not_far_ahead(self) -> None:
        """Up to a measure it does not wait."""
        self.leave(b"x" * 10)
        self.assertEqual(self.wait(), (True, 0))

    def test_until_there_is_room(self) -> None:
        """With too much waiting, a wait lasts until enough is gone, however often it looks."""
        self.leave(b"x" * 11)
        self.assertEqual(self.wait(self.take(3), self.take(3), self.take(1), self.take(1)), (True, 1))

    def test_a_wait_ends_when_the_connection_is_closed(self) -> None:
        """A wait ends when the connection is closed."""
        self.leave(b"x" * 11)
        self.assertEqual(self.wait(self.closed, self.closed), (False, 1))
        self.assertEqual(self.wait(), (False, 0))

    def test_waiting_threads_are_notified(self) -> None:
        """Whatever may end the wait tells those who wait."""
        room = Room(self.write_token.lock, [])
        self.write_token.room = cast(Any, room)
        self.leave(b"x" * 11)
        self.write_token.piece_taken(5)
        self.assertEqual(room.told, 1)
        self.closed()
        self.assertEqual(room.told, 2)


class ReactorTests(Case):
    """What the reactor may do, and when."""

    def idle(self) -> None:
        """Have the answer of the one exchange ended."""
        self.write_token.acquire(self.one)
        self.write_token.done(self.one, True)

    def test_interim_answer_only_on_an_idle_connection(self) -> None:
        """Something is said in between only on a connection on which nothing is answered, sent, or ended."""
        self.assertFalse(self.write_token.acquire_for_interim())
        self.idle()
        self.assertTrue(self.write_token.acquire_for_interim())
        self.assertIs(self.write_token.holder, SENDER)
        self.assertFalse(self.write_token.acquire_for_interim())
        self.assertFalse(self.write_token.leave_to_reactor([b"x"], False))
        self.assertFalse(self.write_token.acquire_for_interim())
        self.write_token.piece_taken(1)
        self.assertEqual(self.write_token.rest_flushed(), (True, None, False))
        self.assertTrue(self.write_token.linger())
        self.assertFalse(self.write_token.acquire_for_interim())
        self.write_token.lingering = False
        self.closed()
        self.assertFalse(self.write_token.acquire_for_interim())

    def test_interim_answer_releases_the_token(self) -> None:
        """After an interim answer the token is free."""
        self.idle()
        self.write_token.acquire_for_interim()
        self.write_token.release()
        self.assertIs(self.write_token.holder, NOBODY)

    def test_idle_when_nothing_is_answered_or_left(self) -> None:
        """Idle is a connection on which nothing is answered, and nothing left to send."""
        self.assertFalse(self.write_token.idle())
        self.idle()
        self.assertTrue(self.write_token.idle())
        self.write_token.acquire_for_interim()
        self.write_token.leave_to_reactor([b"x"], False)
        self.assertFalse(self.write_token.idle())

    def test_only_an_idle_connection_is_ended_without_an_answer(self) -> None:
        """Only such a connection is ended without an answer, and then answers nothing any more."""
        self.assertFalse(self.write_token.linger())
        self.idle()
        self.write_token.acquire_for_interim()
        self.write_token.leave_to_reactor([b"x"], False)
        self.assertFalse(self.write_token.linger())
        self.write_token.piece_taken(1)
        self.write_token.rest_flushed()
        self.assertTrue(self.write_token.linger())
        self.assertTrue(self.write_token.lingering)
        self.closed()
        self.assertFalse(self.write_token.linger())

    def test_end_of_input(self) -> None:
        """The client's end is the end if no answer is owed; else it is remembered until none is."""
        self.assertFalse(self.write_token.end_of_input())
        self.write_token.acquire(self.one)
        self.assertIs(self.write_token.done(self.one, True), True)
        self.assertTrue(self.write_token.end_of_input())

    def test_another_exchange_replaces_one_whose_answer_has_not_begun(self) -> None:
        """Another exchange takes the place of one whose answer has not begun."""
        self.assertTrue(self.write_token.replace(self.one, self.two))
        self.assertIs(self.write_token.acquire(self.one), GONE)
        self.assertIs(self.write_token.acquire(self.two), SEND)

    def test_begun_answer_is_not_replaced(self) -> None:
        """Not of one that has, nor of one that is not current, nor on a connection that is closed."""
        self.assertFalse(self.write_token.replace(self.two, self.one))
        self.write_token.acquire(self.one)
        self.write_token.done(self.one, False)
        self.assertFalse(self.write_token.replace(self.one, self.two))
        self.write_token = WriteToken()
        self.write_token.request_ready(self.one)
        self.closed()
        self.assertFalse(self.write_token.replace(self.one, self.two))

    def test_answer_behind_the_rest_is_not_replaced(self) -> None:
        """An answer whose beginning waits behind 100 Continue is not replaced."""
        self.idle()
        self.write_token.acquire_for_interim()
        self.write_token.leave_to_reactor([b"continue"], False)
        self.write_token.request_ready(self.one)
        self.assertIs(self.write_token.acquire(self.one), QUEUE)
        self.assertTrue(self.write_token.append(self.one, [b"answer"], True))
        self.assertFalse(self.write_token.replace(self.one, self.two))

    def test_replaced_while_it_queues(self) -> None:
        """One that was replaced before it could queue finds out."""
        self.idle()
        self.write_token.acquire_for_interim()
        self.write_token.leave_to_reactor([b"continue"], False)
        self.write_token.request_ready(self.one)
        self.assertIs(self.write_token.acquire(self.one), QUEUE)
        self.assertTrue(self.write_token.replace(self.one, self.two))
        self.assertFalse(self.write_token.append(self.one, [b"answer"], True))
        self.assertIs(self.write_token.acquire(self.one), GONE)

    def test_a_connection_is_closed_once(self) -> None:
        """A connection is closed once; nothing is left of it, and nothing begins on it."""
        self.leave(b"x", last=True)
        self.closed()
        self.assertFalse(self.write_token.close())
        self.assertEqual(
            (self.write_token.holder, self.write_token.first_piece(), self.write_token.held), (NOBODY, None, 0)
        )
        self.assertTrue(self.write_token.closing)
        self.write_token.current = None
        self.assertFalse(self.write_token.request_ready(self.two))

    def test_close_while_somebody_sends(self) -> None:
        """A connection on which a thread sends is closed when the thread has released the token."""
        self.closing()
        self.assertEqual(
            (self.write_token.closing, self.write_token.attention, self.write_token.closed), (True, True, False)
        )
        self.assertFalse(self.write_token.close())
        self.write_token.release()
        self.closed()
