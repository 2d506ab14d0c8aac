"""A request body between the reactor thread and its reader: nothing is lost, and neither side waits for ever."""

from __future__ import annotations

import threading
from unittest import TestCase

from graceful.web.body_stream import HIGH, BodyStream


class StreamTests(TestCase):
    """One thread that plays both sides."""

    def setUp(self) -> None:
        """Have a stream that notes what it calls."""
        self.calls: list[str] = []
        self.stream = BodyStream(lambda: self.calls.append("room"))
        self.stream.on_news = lambda: self.calls.append("news")

    def test_pieces_come_out_in_order(self) -> None:
        """What was put in is taken out at once, in order."""
        self.stream.put(b"one")
        self.stream.put(b"two")
        self.assertEqual((self.stream.take(), self.stream.take()), (b"onetwo", b""))

    def test_a_reader_that_waits_is_told_once(self) -> None:
        """A reader that found nothing is told of the first news, and a reader that did not ask is not."""
        self.stream.put(b"one")
        self.assertEqual(self.calls, [])
        self.stream.take()
        self.assertFalse(self.stream.want())
        self.stream.put(b"two")
        self.stream.put(b"three")
        self.assertEqual(self.calls, ["news"])

    def test_a_reader_learns_of_news_that_came_meanwhile(self) -> None:
        """What has come between the look and the wish to be told is said by the wish itself."""
        self.stream.put(b"one")
        self.assertTrue(self.stream.want())
        self.stream.take()
        self.stream.end()
        self.assertTrue(self.stream.want())

    def test_a_paused_client_is_let_go_on_by_the_reader(self) -> None:
        """A full stream says so, and its reader makes room, once."""
        self.stream.put(b"x" * (HIGH + 1))
        self.assertTrue(self.stream.full())
        self.stream.take()
        self.assertEqual(self.calls, ["room"])
        self.assertFalse(self.stream.full())
        self.stream.put(b"y")
        self.stream.take()
        self.assertEqual(self.calls, ["room"])

    def test_a_closed_stream_throws_away_and_is_never_full(self) -> None:
        """A body that is not read any more costs no memory, and does not hold the client."""
        self.stream.put(b"x" * (HIGH + 1))
        self.assertTrue(self.stream.full())
        self.stream.close()
        self.assertEqual(self.calls, ["room"])
        self.stream.put(b"x" * (HIGH + 1))
        self.assertEqual((self.stream.full(), self.stream.take()), (False, b""))

    def test_continue_is_said_once(self) -> None:
        """Whichever side comes second says 100 Continue, and only one does."""
        self.assertFalse(self.stream.expect())  # no reader yet: the reader will say it
        self.assertTrue(self.stream.take_expectation())
        self.assertFalse(self.stream.take_expectation())
        other = BodyStream(lambda: None)
        self.assertFalse(other.want())
        self.assertTrue(other.expect())  # a reader waits: the reactor thread says it
        self.assertFalse(other.take_expectation())

    def test_two_threads_lose_nothing(self) -> None:
        """A writer and a reader in two threads, with pauses on both sides, pass every byte on."""
        go, news = threading.Event(), threading.Event()
        stream = BodyStream(go.set)
        stream.on_news = news.set
        got = []

        def read() -> None:
            while True:
                ended = stream.ended
                data = stream.take()
                got.append(data)
                if ended:
                    return
                news.clear()
                if not data and not stream.want():
                    assert news.wait(10)

        reader = threading.Thread(target=read)
        reader.start()
        sent = []
        for number in range(2000):
            piece = b"%d," % number * 200
            sent.append(piece)
            go.clear()
            stream.put(piece)
            if stream.full():
                self.assertTrue(go.wait(10), "the writer is never let go on")
        stream.end()
        reader.join(10)
        self.assertEqual(b"".join(got), b"".join(sent))
