"""A WebSocket on its connection: messages both ways, bounded memory, and every way to its end."""

from __future__ import annotations

import threading

from graceful.web.disconnected import Disconnected
from graceful.web.exchange import LINGERING, WEBSOCKET
from graceful.websocket.framing import encode
from graceful.websocket.session import CLOSE_WITHIN, EACH, INBOX, UNSENT
from tests.fast.doubles import GET
from tests.fast.websocket.case import WebSocketCase
from tests.support.frames import BINARY, CLOSE, PING, PONG, TEXT, Frame, close, code_of, frame


class NoBatch:
    """A loop that is called without batches."""

    def hold(self) -> None:
        """Do nothing."""

    def kick(self) -> None:
        """Do nothing."""


class OpeningTests(WebSocketCase):
    """From the request to the first message."""

    def test_a_websocket_is_an_exchange_in_the_register(self) -> None:
        """It is listed with its phase and its bytes until its connection and its application have ended."""
        peer = self.open()
        self.assertEqual(self.engine.in_flight, [peer.exchange])
        self.assertEqual((peer.exchange.phase, peer.exchange.status), (WEBSOCKET, 101))
        peer.say("hello")
        peer.send(frame(TEXT, b"abc"))
        self.assertEqual((peer.exchange.sent, peer.exchange.received), (7, 9))
        peer.send(close())
        peer.client.close()
        self.assertEqual((self.engine.open, self.engine.in_flight), (0, [peer.exchange]))
        peer.exchange.release()
        self.nothing_left()

    def test_what_came_with_the_request_is_read_as_frames(self) -> None:
        """A client that does not wait for the answer loses nothing."""
        peer = self.open(frame(TEXT, b"early"))
        self.assertEqual(peer.application.waiting, ["early"])
        self.assertEqual(len(self.engine.asked), 1)

    def test_frames_that_look_like_http_are_no_requests(self) -> None:
        """Nothing that comes on a WebSocket is read as HTTP."""
        peer = self.open(GET)
        self.assertEqual(len(self.engine.asked), 1)
        self.assertEqual([code_of(one) for one in peer.frames()], [1002])

    def test_an_application_may_send_before_the_reactor_has_opened_it(self) -> None:
        """The client, which may answer at once, is read all the same."""
        peer = self.asked()
        peer.session.accept(b"HTTP/1.1 101 x\r\n\r\n")
        peer.say("one")
        self.assertEqual(peer.client.take(18), b"HTTP/1.1 101 x\r\n\r\n")
        self.assertEqual(peer.frames(), [Frame(TEXT, b"one")])
        peer.send(frame(TEXT, b"two"))
        self.assertEqual(peer.application.waiting, ["two"])
        peer.send(close())
        self.assertEqual([code_of(one) for one in peer.frames()], [1000])

    def test_a_client_that_has_closed_before_it_is_open_is_gone(self) -> None:
        """The end of its input is the end of a request, but of a WebSocket, too."""
        peer = self.asked()
        peer.client.finish()
        self.assertEqual(self.engine.open, 1)
        peer.session.accept(b"HTTP/1.1 101 x\r\n\r\n")
        self.engine.turn()
        self.assertEqual((self.engine.open, [code for code, _ in peer.application.ended]), (0, [1006]))

    def test_a_client_that_leaves_before_it_is_open_is_told_to_the_application(self) -> None:
        """Opening it fails then."""
        peer = self.asked()
        peer.client.connection.close()
        self.assertEqual(peer.application.ended, [(1006, "")])
        self.assertRaises(Disconnected, peer.session.accept, b"HTTP/1.1 101 x\r\n\r\n")
        self.engine.turn()


class MessageTests(WebSocketCase):
    """While it is open."""

    def test_messages_go_both_ways(self) -> None:
        """Text and bytes, in order."""
        peer = self.open()
        peer.send(frame(TEXT, "ä".encode()) + frame(BINARY, b"\xff"))
        self.assertEqual(peer.application.waiting, ["ä", b"\xff"])
        peer.say("ö")
        peer.say(b"\xfe")
        self.assertEqual(peer.frames(), [Frame(TEXT, "ö".encode()), Frame(BINARY, b"\xfe")])

    def test_a_ping_is_answered_before_the_messages_behind_it(self) -> None:
        """The application may answer these at once."""
        peer = self.open()
        peer.application.received = lambda message: peer.say(message)  # type: ignore[method-assign]
        peer.send(frame(PING, b"p") + frame(TEXT, b"t"))
        self.assertEqual([one.opcode for one in peer.frames()], [PONG, TEXT])

    def test_a_frame_is_never_sent_into_another(self) -> None:
        """While one party is in `send(2)`, what the other has to say waits for its turn, and is sent by the first."""
        peer = self.open()
        peer.client.socket.meanwhile = lambda: peer.client.connection.parser.feed(frame(PING, b"p"))
        peer.say("one")
        self.assertEqual(peer.frames(), [Frame(TEXT, b"one"), Frame(PONG, b"p")])
        peer.say("two")
        self.assertEqual(peer.frames(), [Frame(TEXT, b"two")])

    def test_a_close_frame_is_the_last_one_whoever_sends(self) -> None:
        """A message that comes late is refused, and is not sent behind the close frame."""
        peer = self.open()
        peer.client.socket.meanwhile = lambda: peer.client.connection.parser.feed(close(1001))
        peer.say("one")
        self.assertRaises(Disconnected, peer.say, "two")
        self.assertEqual([one.opcode for one in peer.frames()], [TEXT, CLOSE])
        self.assertTrue(peer.client.eof)

    def test_an_end_without_a_word_waits_for_its_turn_too(self) -> None:
        """The client's close comes while the server's is being sent: the connection ends, and nothing is added."""
        peer = self.open()
        peer.client.socket.meanwhile = lambda: peer.client.connection.parser.feed(close(1000))
        peer.session.end(1000)
        self.assertEqual([one.opcode for one in peer.frames()], [CLOSE])
        self.assertTrue(peer.client.eof)

    def test_a_client_that_is_gone_while_it_is_sent_to_is_told(self) -> None:
        """Sending raises, and the application learns that nothing more comes."""
        peer = self.open()
        peer.client.socket.script.append(BrokenPipeError())
        self.assertRaises(Disconnected, peer.say, "one")
        self.engine.turn()
        self.assertRaises(Disconnected, peer.say, "two")
        self.assertEqual(peer.application.ended, [(1006, "")])


class BackPressureTests(WebSocketCase):
    """Bounded memory both ways."""

    def test_a_client_waits_for_an_application_that_takes_nothing(self) -> None:
        """Only so much is read; what is behind it stays in the kernel, until the application has taken half."""
        peer = self.open()
        message = frame(BINARY, bytes(1000))
        peer.client.end.setblocking(False)
        sent = 0
        while True:
            try:
                count = peer.client.end.send(message[sent % len(message) :])
            except BlockingIOError:
                if not self.engine.turn():
                    break
                continue
            sent += count
        waiting = len(peer.application.waiting)
        self.assertLess(waiting * 1000, 2 * INBOX)
        self.assertFalse(peer.client.connection.reading)
        while peer.application.waiting:
            peer.session.taken(peer.application.waiting.pop(0))
            self.engine.turn()
            waiting += len(peer.application.waiting) > waiting
        self.assertTrue(peer.client.connection.reading)

    def test_a_client_waits_that_sends_its_messages_one_by_one(self) -> None:
        """Short ones that come alone are taken in another way, and count all the same."""
        peer = self.open()
        for _ in range(INBOX // EACH):
            peer.send(frame(TEXT, b"short"))
            self.engine.turn()
            if not peer.client.connection.reading:
                break
        self.assertFalse(peer.client.connection.reading)
        waiting = peer.application.waiting
        self.assertLess(len(waiting) * EACH, INBOX)
        while not peer.client.connection.reading:
            peer.session.taken(waiting.pop())
            self.engine.turn()

    def test_the_messages_of_one_packet_are_not_all_parsed_at_once(self) -> None:
        """A packet of thousands of empty messages costs no more than a large one."""
        peer = self.open()
        count = 10_000
        peer.send(frame(BINARY) * count)
        self.assertLess(len(peer.application.waiting), 2 * INBOX // EACH)
        total = 0
        while peer.application.waiting:
            total += 1
            peer.session.taken(peer.application.waiting.pop())
            self.engine.turn()
        self.assertEqual(total, count)

    def test_pings_of_a_client_that_takes_nothing_are_not_answered_without_end(self) -> None:
        """Its own answers that it does not read stop the reading."""
        peer = self.open(buffer=4096)
        ping = frame(PING, bytes(125))
        sent = 0
        while True:
            try:
                sent += peer.client.end.send(ping[sent % len(ping) :])
            except BlockingIOError:
                if not self.engine.turn():
                    break
        self.assertLess(peer.client.connection.write_token.held, UNSENT + 2 * 65536)
        self.assertFalse(peer.client.connection.reading)
        rest = sent % len(ping)
        self.assertEqual({one.opcode for one in peer.frames()}, {PONG})
        self.assertTrue(peer.client.connection.reading)
        peer.send(ping[rest:] if rest else b"")

    def test_the_application_is_told_when_the_client_takes_more(self) -> None:
        """There is no room while too much is on its way, and a word when it is taken."""
        peer = self.open(buffer=4096)
        self.assertTrue(peer.session.room)
        peer.say(bytes(2 * UNSENT))
        self.assertFalse(peer.session.room)
        self.assertEqual(peer.application.rooms, 0)
        self.assertEqual(len(peer.frames()), 1)
        self.assertTrue(peer.session.room)
        self.assertEqual(peer.application.rooms, 1)

    def test_a_thread_that_sends_a_large_message_does_not_wait(self) -> None:
        """It is an event loop's thread: it asks for room before it sends the next one."""
        peer = self.open(buffer=4096)
        self.engine.hub.add_loop(threading.get_ident(), NoBatch())
        self.patch(self.engine.hub, "_thread", 0)  # as if this were another thread, and that an event loop's
        peer.say(bytes(1 << 21))
        self.assertGreater(peer.client.connection.write_token.held, 1 << 20)


class ClosingTests(WebSocketCase):
    """Every way to its end."""

    def test_a_clients_close_is_answered_and_ends_the_connection(self) -> None:
        """The application gets the client's code, and the client the end behind the answer."""
        peer = self.open()
        peer.send(close(4000, b"bye"))
        self.assertEqual([code_of(one) for one in peer.frames()], [4000])
        self.assertTrue(peer.client.eof)
        self.assertEqual(peer.application.ended, [(4000, "bye")])
        peer.exchange.release()
        self.assertEqual(peer.exchange.phase, LINGERING)
        peer.client.close()
        self.nothing_left()

    def test_the_servers_close_waits_for_the_clients(self) -> None:
        """The connection stays until the client has said so, too; what it sends before is not for the application."""
        peer = self.open()
        peer.session.close(1000, "done")
        self.engine.turn()
        self.assertEqual([(code_of(one), one.payload[2:]) for one in peer.frames()], [(1000, b"done")])
        self.assertFalse(peer.client.eof)
        self.assertEqual(peer.application.ended, [(1000, "done")])
        peer.send(frame(TEXT, b"late"))
        self.assertEqual(peer.application.waiting, [])
        peer.send(close(1000))
        self.assertEqual((peer.frames(), peer.client.eof), ([], True))

    def test_a_client_that_never_closes_has_its_time(self) -> None:
        """Then its connection ends without it."""
        peer = self.open()
        peer.session.close(1000)
        self.engine.turn()
        self.pass_time(CLOSE_WITHIN - 0.1, 0.1)
        peer.frames()
        self.assertFalse(peer.client.eof)
        self.pass_time(0.3, 0.1)
        peer.frames()
        self.assertTrue(peer.client.eof)

    def test_one_that_is_taken_down_is_told_1011_and_ends_at_once(self) -> None:
        """Behind what was sent to it; its client is not waited for."""
        peer = self.open()
        peer.say("before")
        self.assertTrue(peer.session.take_down())
        said = peer.frames()
        self.assertEqual((said[0].payload, code_of(said[1]), said[1].payload[2:]), (b"before", 1011, b"taken down"))
        self.assertTrue(peer.client.eof)
        self.assertEqual(peer.application.ended, [(1011, "taken down")])
        self.assertFalse(peer.session.take_down())
        peer.exchange.release()
        peer.client.close()
        self.nothing_left()

    def test_one_that_cannot_be_told_is_left_to_be_cut(self) -> None:
        """A client that takes nothing would never get the close, and one that is not open has no frames."""
        slow = self.open(buffer=4096)
        slow.say(bytes(100_000))
        self.assertFalse(slow.session.take_down())
        self.assertFalse(self.asked().session.take_down())

    def test_messages_sent_before_a_close_come_before_it(self) -> None:
        """Also if the client is slow."""
        peer = self.open(buffer=4096)
        peer.say(bytes(100_000))
        peer.session.close(1000)
        self.engine.turn()
        self.assertRaises(Disconnected, peer.say, "late")
        self.assertEqual([one.opcode for one in peer.frames()], [BINARY, CLOSE])

    def test_a_client_that_just_leaves_is_1006(self) -> None:
        """A connection that ends without a close frame has no code of its own."""
        for leave in ("finish", "close"):
            peer = self.open()
            getattr(peer.client, leave)()
            self.assertEqual(peer.application.ended, [(1006, "")])
            peer.exchange.release()
            self.nothing_left()

    def test_a_refused_client_gets_the_reason_and_its_end(self) -> None:
        """The application gets the code that the client got."""
        self.begin(websocket_max_message=10)
        peer = self.open()
        peer.send(frame(TEXT, bytes(11)))
        self.assertEqual([code_of(one) for one in peer.frames()], [1009])
        self.assertTrue(peer.client.eof)
        self.assertEqual([code for code, _ in peer.application.ended], [1009])

    def test_an_open_websocket_has_an_owner(self) -> None:
        """Until the application has let go of it and its last bytes are on their way."""
        peer = self.open()
        peer.exchange.release()
        self.assertTrue(peer.session.works_for(peer.exchange))
        peer.send(close())
        self.assertFalse(peer.session.works_for(peer.exchange))

    def test_a_message_in_the_last_packet_comes_before_the_end(self) -> None:
        """The application gets what the client has sent before it closed."""
        peer = self.open()
        peer.send(frame(TEXT, b"last") + close())
        self.assertEqual((peer.application.waiting, peer.application.ended), (["last"], [(1000, "")]))

    def test_nothing_is_sent_twice_at_the_end(self) -> None:
        """A close by both sides at the same moment is one close."""
        peer = self.open()
        peer.session.end(1000)
        peer.session.end(1001)
        peer.send(close(1001))
        self.assertEqual([code_of(one) for one in peer.frames()], [1000])
        self.assertRaises(Disconnected, peer.session.send, encode("x"))
        self.assertEqual(len(peer.application.ended), 1)
