"""What is done for all WebSockets: pings, and their end in a drain."""

from __future__ import annotations

from graceful.websocket.session import CLOSE_WITHIN
from tests.fast.websocket.case import Peer, WebSocketCase
from tests.support.frames import PING, PONG, TEXT, Frame, close, code_of, frame


class PingTests(WebSocketCase):
    """A client that is silent is asked for a sign."""

    def setUp(self) -> None:
        """Ping after 10 seconds, and wait for 5."""
        self.begin(websocket_ping_interval=10, websocket_ping_timeout=5)

    def test_a_silent_client_is_sent_a_ping(self) -> None:
        """Once, and again after it has answered."""
        peer = self.open()
        self.pass_time(9)
        self.assertEqual(peer.frames(), [])
        self.pass_time(2)
        self.assertEqual(peer.frames(), [Frame(PING, b"")])
        peer.send(frame(PONG))
        self.pass_time(9)
        self.assertEqual(peer.frames(), [])
        self.pass_time(2)
        self.assertEqual(peer.frames(), [Frame(PING, b"")])

    def test_a_client_that_sends_is_not_sent_pings(self) -> None:
        """What it sends is a sign."""
        peer = self.open()
        for _ in range(5):
            self.pass_time(8)
            peer.send(frame(TEXT, b"x"))
        self.assertEqual(peer.frames(), [])

    def test_a_client_that_gives_no_sign_is_cut(self) -> None:
        """It is told 1011, if it should still be there; the application is told that it is gone."""
        peer = self.open()
        self.pass_time(14)
        self.assertEqual(peer.application.ended, [])
        self.pass_time(2)
        ping, last = peer.frames()
        self.assertEqual((ping, code_of(last)), (Frame(PING, b""), 1011))
        self.assertTrue(peer.client.eof)
        self.assertEqual(peer.application.ended, [(1006, "")])

    def test_any_bytes_are_a_sign(self) -> None:
        """A client in the middle of a long message does not have to answer pings in between."""
        peer = self.open()
        self.pass_time(11)
        peer.send(frame(TEXT, bytes(100))[:50])
        self.pass_time(9)
        self.assertEqual(peer.application.ended, [])

    def test_a_client_that_the_application_holds_up_is_not_cut(self) -> None:
        """Its signs are in the kernel, since nothing is read."""
        peer = self.open()
        peer.send(frame(2, bytes(70_000)))
        self.assertFalse(peer.client.connection.reading)
        self.pass_time(60)
        self.assertEqual(peer.application.ended, [])

    def test_without_an_interval_no_ping_is_sent(self) -> None:
        """0 is never."""
        self.begin(websocket_ping_interval=0)
        peer = self.open()
        self.pass_time(100)
        self.assertEqual(peer.frames(), [])


class DrainTests(WebSocketCase):
    """A stop closes all of them with 1012, one after the other."""

    def setUp(self) -> None:
        """Spread the closes over 5 seconds, and send no pings."""
        self.begin(websocket_ping_interval=0, close_spread=5)

    def told(self, peers: list[Peer]) -> list[int]:
        """How many were told 1012 until now, of those that are open."""
        return [code for peer in peers for code, _ in peer.application.ended]

    def test_clients_are_told_1012_evenly_over_the_spread(self) -> None:
        """Not all of them come back at once."""
        peers = [self.open() for _ in range(50)]
        self.keeper.drain()
        counts = []
        for _ in range(5):
            self.pass_time(1, 0.1)
            counts.append(len(self.told(peers)))
        self.assertEqual(counts[-1], 50)
        for second, count in enumerate(counts):
            self.assertLessEqual(abs(count - 50 * second / 4), 2, counts)
        self.assertEqual(set(self.told(peers)), {1012})
        for peer in peers:
            self.assertEqual([code_of(one) for one in peer.frames()], [1012])
            peer.send(close(1012))
            self.assertTrue((peer.frames(), peer.client.eof)[1])

    def test_an_application_that_closes_first_is_left_alone(self) -> None:
        """Its own code goes to the client."""
        second, first = self.open(), self.open()
        self.keeper.drain()
        self.pass_time(0.9, 0.1)
        second.session.close(4001, "moving")
        self.engine.turn()
        self.pass_time(6, 0.1)
        self.assertEqual([code_of(one) for one in second.frames()], [4001])
        self.assertEqual([code_of(one) for one in first.frames()], [1012])

    def test_one_that_is_opened_in_a_drain_is_closed_in_it(self) -> None:
        """A request may have been on its way."""
        self.keeper.drain()
        peer = self.open()
        self.assertEqual(peer.application.ended, [])
        self.pass_time(6, 0.1)
        self.assertEqual(peer.application.ended, [(1012, "service restart")])

    def test_a_second_word_of_the_drain_changes_nothing(self) -> None:
        """The drain waits twice if downloads are spared at its deadline."""
        peer, other = self.open(), self.open()
        self.keeper.drain()
        self.pass_time(2, 0.1)
        self.keeper.drain()
        self.pass_time(2, 0.1)
        self.assertEqual((len(peer.application.ended), len(other.application.ended)), (1, 1))

    def test_the_spread_leaves_room_before_the_deadline(self) -> None:
        """With a deadline of 4 seconds all are told within 2."""
        self.begin(close_spread=60, deadline=4)
        peers = [self.open() for _ in range(4)]
        self.keeper.drain()
        self.pass_time(2, 0.1)
        self.assertEqual(len(self.told(peers)), 4)

    def test_a_client_that_does_not_close_does_not_hold_the_drain(self) -> None:
        """It has its seconds, as at any time."""
        peer = self.open()
        peer.exchange.release()
        self.keeper.drain()
        self.pass_time(CLOSE_WITHIN + 2, 0.1)
        peer.frames()
        self.assertTrue(peer.client.eof)

    def test_a_failing_websocket_does_not_keep_others_from_their_close(self) -> None:
        """It is closed, and named in the log."""
        broken, fine = self.open(), self.open()
        self.keeper.drain()
        assert broken.session._framing is not None
        broken.session._framing._protocol = None  # type: ignore[assignment]
        self.pass_time(6, 0.1)
        self.assertEqual([code_of(one) for one in fine.frames()], [1012])
        self.assertTrue(self.flushLoggedErrors(AttributeError))
        self.assertTrue(broken.client.socket.closed)
