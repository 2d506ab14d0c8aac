"""A file on its way to a client: a block a turn, never from a disk, and never a descriptor too many or too few."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import BLOCK, open_file
from graceful.downloads.targets import File
from graceful.takedown.last_answer import take_down
from graceful.web.connection import Connection, open_connections
from graceful.web.exchange import DOWNLOADING, SENDING, Exchange
from graceful.web.sending_half import UNSENT
from graceful.web.transport_connection import SLICE, EndpointFactory, EndpointProtocol, TransportConnection
from tests.fast.doubles import GET, MIB, Client, get, parse_answers
from tests.fast.downloads.downloading import DownloadCase

BIG = bytes(range(251)) * 5000
ALL = (0, len(BIG))


class Case(DownloadCase):
    """Clients that get a file.

    :ivar there: whether a block is in memory.
    """

    def setUp(self) -> None:
        """Make a file."""
        super().setUp()
        self.path = self.file(BIG)
        self.there = True
        self.looked: list[tuple[int, int]] = []

    def look(self, fd: int, place: int, count: int) -> bool:
        """Whether the block is in memory, as the test says."""
        self.looked.append((place, count))
        return self.there

    def transfer(self, exchange: Exchange, part: tuple[int, int] = ALL) -> FileSender:
        """Prepare to send a part of it."""
        first, end = part
        exchange.start("200 OK", [("Content-Length", str(end - first))])
        disk: Any = self.disk
        return FileSender(exchange, open_file(File(self.path.encode())), first, end, disk, self.look)

    def begin(self, data: bytes = GET, part: tuple[int, int] = ALL, **options: Any) -> tuple[Client, Exchange]:
        """A client that gets a part of it, which has begun; nothing is sent yet."""
        client, exchange = self.ask(data, **options)
        self.transfer(exchange, part).begin()
        return client, exchange


class SendTests(Case):
    """All of it arrives."""

    def test_sends_the_file_and_keeps_the_connection(self) -> None:
        """The bytes are the file's, the exchange ends with the last one, and the connection goes on."""
        client, exchange = self.begin()
        self.assertEqual(exchange.phase, DOWNLOADING)
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.body, answer.whole, client.eof), (BIG, True, False))
        self.assertEqual((exchange.sent, exchange.phase, self.descriptors()), (len(BIG), SENDING, []))
        self.assertEqual(self.engine.in_flight, [])
        self.leave(client)

    def test_sends_any_part(self) -> None:
        """The bytes of a part are the file's, wherever it begins and ends."""
        for part in (
            (0, 1),
            (len(BIG) - 1, len(BIG)),
            (100, 100 + BLOCK),
            (BLOCK, 3 * BLOCK),
            (7, BLOCK + 8),
            (5, 5),
        ):
            client, _ = self.begin(part=part)
            (answer,) = parse_answers(client.take())
            self.assertEqual((answer.body, answer.whole), (BIG[part[0] : part[1]], True))
            self.leave(client)

    def test_head_sends_no_body_and_closes_the_file(self) -> None:
        """HEAD gets no byte of it, and the file is closed at once."""
        client, _ = self.begin(self.request(method="HEAD"))
        self.assertEqual(self.descriptors(), [])
        (answer,) = parse_answers(client.take(), "HEAD")
        self.assertEqual(answer.fields["content-length"], str(len(BIG)))
        self.leave(client)

    def test_slow_client_gets_all_with_nothing_held(self) -> None:
        """A client takes its time; nothing is kept for it here meanwhile."""
        client, exchange = self.begin(buffer=5000)
        got = b""
        while len(got) < len(BIG):
            got += client.take(40_000)
            self.assertEqual(client.connection.write_token.held, 0)
            self.assertLess(exchange.sent, len(got) + MIB // 2)
        got += client.take()
        self.assertEqual(parse_answers(got)[0].body, BIG)
        self.leave(client)

    def test_head_is_sent_before_the_file(self) -> None:
        """The head goes first also if the kernel does not take it at once."""
        client, exchange = self.ask()
        client.socket.script.extend((BlockingIOError(), 3, BlockingIOError(), 10))
        self.transfer(exchange).begin()
        self.assertEqual(parse_answers(client.take())[0].body, BIG)

    def test_fast_client_gets_one_block_a_turn(self) -> None:
        """A client that reads as fast as the server sends gets one block, and then the others get theirs."""
        asked: list[tuple[int, int]] = []
        client, exchange = self.ask()

        def sendfile(out: int, fd: int, offset: int, count: int) -> int:
            asked.append((offset, count))
            return count

        self.patch(os, "sendfile", sendfile)
        self.transfer(exchange).begin()
        connection = client.connection
        for number in range(1, 4):
            connection.writable()
            self.assertEqual(asked[-1], ((number - 1) * BLOCK, BLOCK))
            self.assertEqual(len(asked), number)
            self.assertEqual(exchange.sent, number * BLOCK)
        self.engine.turn()
        self.assertEqual(asked[-1], (4 * BLOCK, len(BIG) - 4 * BLOCK))
        self.assertTrue(exchange.released)

    def test_kernel_holds_little_during_the_file(self) -> None:
        """While it lasts the kernel takes little ahead, where that can be said; afterwards as much as ever."""
        client, exchange = self.ask()
        client.socket.family = socket.AF_INET
        self.transfer(exchange).begin()
        self.assertEqual(client.socket.low, [UNSENT])
        client.take()
        self.assertEqual(client.socket.low, [UNSENT, 0])
        self.assertEqual(self.begin()[0].socket.low, [])

    def test_pipelined_requests_are_answered_behind_the_file(self) -> None:
        """Pipelined requests are answered behind the file."""
        client, exchange = self.begin(get(0) + get(1) + get(2))
        self.assertEqual(len(self.engine.asked), 1)
        data = client.take()
        self.assertEqual(len(self.engine.asked), 2)
        self.transfer(self.engine.asked[1], (0, 300_000)).begin()
        data += client.take()
        self.answer(self.engine.asked[2], body=b"last")
        bodies = [answer.body for answer in parse_answers(data + client.take())]
        self.assertEqual(bodies, [BIG, BIG[:300_000], b"last"])
        self.assertTrue(exchange.released)
        self.leave(client)

    def test_last_answer_closes_the_connection(self) -> None:
        """The last one of its connection is followed by the end."""
        client, _ = self.begin(self.request(connection="close"))
        self.assertEqual((parse_answers(client.take())[0].body, client.eof), (BIG, True))
        self.leave(client)

    def test_half_closed_client_gets_all(self) -> None:
        """A client that says that it will send nothing more gets all of it."""
        client, _ = self.begin(buffer=5000)
        client.finish()
        self.assertEqual((parse_answers(client.take())[0].body, client.eof), (BIG, True))
        self.nothing_left()


class TroubleTests(Case):
    """Errors of the file: the client sees the cut, and the log has the reason."""

    def cut(self, what: Any, *words: str, buffer: int = 5000) -> None:
        """Begin, have it happen, and check what becomes of the answer."""
        client, exchange = self.begin(buffer=buffer)
        got = client.take(100_000)

        def happen() -> None:
            nonlocal got
            what(client)
            got += client.take()

        lines = self.logged(happen)
        (answer,) = parse_answers(got)
        self.assertFalse(answer.whole)
        self.assertTrue(BIG.startswith(answer.body))
        self.assertTrue(client.eof)
        (line,) = (line for line in lines if "cannot be sent to its end" in line)
        for word in words:
            self.assertIn(word, line)
        self.assertFalse(exchange.keep)
        self.leave(client)

    def test_shorter_file_ends_visibly(self) -> None:
        """A file that has become shorter: what there is, and then a visible end."""
        self.cut(lambda client: os.truncate(self.path, 300_000), "it has become shorter")

    def test_disk_error_under_the_event_loop_ends_visibly(self) -> None:
        """A disk that fails under the event loop."""

        def happen(client: Client) -> None:
            def fail(*arguments: int) -> int:
                raise OSError(errno.EIO, "Input/output error")

            self.patch(os, "sendfile", fail)

        self.cut(happen, "Input/output error")

    def test_disk_error_in_a_thread_ends_visibly(self) -> None:
        """A disk fails in one of the disk's threads."""

        def happen(client: Client) -> None:
            self.there = False

            def fail(*arguments: int) -> bytes:
                raise OSError(errno.EIO, "Input/output error")

            self.patch(os, "pread", fail)

        self.cut(happen, "Input/output error")

    def test_a_refused_sendfile_is_replaced_by_reading(self) -> None:
        """A filter of system calls, or a file system without sendfile(2): the client gets the file all the same."""
        for number in (errno.EPERM, errno.EINVAL, errno.ENOSYS):

            def refuse(*arguments: int, number: int = number) -> int:
                raise OSError(number, os.strerror(number))

            self.patch(os, "sendfile", refuse)
            client, _ = self.begin()
            (answer,) = parse_answers(client.take())
            self.assertEqual((answer.whole, len(answer.body)), (True, os.path.getsize(self.path)))
            self.leave(client)

    def test_broken_client_is_not_logged_as_error(self) -> None:
        """A client that has left is no error in the log."""
        for error in (BrokenPipeError(), ConnectionResetError(), OSError(errno.ETIMEDOUT, "timed out")):
            client, _ = self.begin(buffer=5000)

            def fail(*arguments: int, error: OSError = error) -> int:
                raise error

            self.patch(os, "sendfile", fail)
            self.assertEqual(self.logged(self.engine.turn), [])
            self.assertTrue(client.socket.closed)
            self.nothing_left()


class FetchTests(Case):
    """Blocks that are not in memory."""

    def setUp(self) -> None:
        """Nothing is."""
        super().setUp()
        self.there = False
        self.disk.at_once = False

    def test_thread_fetches_block_before_it_is_sent(self) -> None:
        """A thread fetches a block before it is sent, and the connection waits without busy turns."""
        client, exchange = self.begin()
        got = client.take()
        self.assertEqual((exchange.sent, len(self.disk)), (0, 1))
        self.assertTrue(client.connection.pull_paused)
        self.assertFalse(client.connection.writing)
        self.assertFalse(self.engine.turn())
        read: list[tuple[int, int]] = []
        real = os.pread

        def pread(fd: int, count: int, offset: int) -> bytes:
            read.append((offset, count))
            return real(fd, count, offset)

        self.patch(os, "pread", pread)
        self.disk.work()
        got += client.take()
        self.assertEqual((read[0], sum(count for _, count in read)), ((0, 65536), BLOCK))
        self.assertGreaterEqual(exchange.sent, BLOCK)
        while len(self.disk):
            self.disk.work()
            self.engine.turn()
            got += client.take()
        self.assertEqual(parse_answers(got)[0].body, BIG)
        self.assertEqual(self.disk.done, 5)
        self.leave(client)

    def test_fetches_each_block_once(self) -> None:
        """A fetched block is not checked again, although the client takes it in small pieces."""
        client, exchange = self.begin(buffer=5000)
        client.take()
        self.looked.clear()
        self.disk.work()
        self.engine.turn()
        got = client.take(100_000)
        self.assertGreater(exchange.sent, 50_000)
        self.assertEqual([place for place, _ in self.looked if place < 50_000], [])
        client.close()
        self.assertGreater(len(got), 0)
        self.disk.work()
        self.nothing_left()

    def test_closes_descriptor_after_the_fetch(self) -> None:
        """The descriptor of a client that leaves meanwhile is closed after the fetch, and not before."""
        for leave in (
            lambda client: client.connection.close(),
            lambda client: client.close(),
            lambda client: take_down(client.connection),
        ):
            client, exchange = self.begin()
            client.take()
            leave(client)
            self.engine.turn()
            self.assertEqual(len(self.descriptors()), 1)
            self.assertTrue(exchange._flushed)
            self.assertEqual(self.engine.in_flight, [])
            read: list[int] = []
            self.patch(os, "pread", lambda fd, count, offset, read=read: read.append(fd) or b"")
            self.disk.work()
            self.assertEqual(len(read), 1)
            self.engine.turn()
            client.close()
            self.nothing_left()

    def test_slow_disk_does_not_time_the_client_out(self) -> None:
        """A client that waits for our disk is not cut for taking nothing; as soon as it is its turn again, it is."""
        client, _ = self.begin(buffer=5000)
        client.take()
        timeout = self.engine.site.settings.send_timeout
        self.clock.advance(timeout * 3)
        self.engine.sweep(self.clock.seconds())
        self.assertEqual(self.engine.open, 1)
        self.disk.work()
        self.engine.reactor.run()  # it is there, and the epoll has not been asked yet
        self.engine.sweep(self.clock.seconds())
        self.assertEqual(self.engine.open, 1)
        self.engine.turn()
        self.clock.advance(timeout + 1)
        self.engine.sweep(self.clock.seconds())
        self.assertTrue(client.socket.reset)
        self.disk.work()
        self.nothing_left()


class LeaveTests(Case):
    """Clients that leave, at every point."""

    def test_client_leaves_before_the_file(self) -> None:
        """Before it has begun."""
        client, exchange = self.ask()
        transfer = self.transfer(exchange)
        client.connection.close()
        transfer.begin()
        self.nothing_left()

    def test_client_leaves_before_an_empty_answer(self) -> None:
        """Before the head of an answer without a body."""
        client, exchange = self.ask(self.request(method="HEAD"))
        transfer = self.transfer(exchange)
        client.connection.close()
        transfer.begin()
        self.nothing_left()

    def test_client_leaves_after_any_number_of_bytes(self) -> None:
        """After any number of bytes: no descriptor, no exchange is left, and requests behind it neither."""
        for count in (0, 1, 100, 200_000, 1_000_000):
            client, exchange = self.begin(get(0) + get(1), buffer=5000)
            client.take(count)
            self.assertEqual(len(self.descriptors()), 1)
            client.close()
            self.nothing_left()
            self.assertEqual(len(self.engine.asked), 1)
            self.engine.asked.clear()
            self.assertTrue(exchange.released)

    def test_client_leaves_after_the_last_byte(self) -> None:
        """After the kernel has all of it."""
        client, exchange = self.begin(part=(0, 1000))
        self.engine.turn()
        self.assertTrue(exchange._flushed)
        self.leave(client)

    def test_client_that_takes_nothing_is_reset(self) -> None:
        """A client that takes nothing for too long is cut by a reset; one that takes a little is not."""
        client, exchange = self.begin(buffer=5000)
        self.engine.turn()
        timeout = self.engine.site.settings.send_timeout
        for _ in range(3):
            self.clock.advance(timeout - 1)
            self.engine.sweep(self.clock.seconds())
            client.take(300_000)
            self.engine.turn()
            self.assertEqual(self.engine.open, 1)
        self.clock.advance(timeout + 1)
        lines = self.logged(lambda: self.engine.sweep(self.clock.seconds()))
        self.assertTrue(any("takes nothing" in line and str(exchange.id) in line for line in lines))
        self.assertTrue(client.socket.reset)
        self.nothing_left()

    def test_takedown_cuts_and_closes_the_file(self) -> None:
        """The deadline cuts it, visibly, and closes the file."""
        client, exchange = self.begin(buffer=5000)
        got = client.take(100_000)
        self.assertEqual(take_down(client.connection), [exchange])
        self.engine.site.finished(exchange)
        got += client.take()
        self.assertFalse(parse_answers(got)[0].whole)
        self.nothing_left()


@implementer(ITCPTransport)
class Transport:
    """A transport of Twisted's with a buffer of 100,000 bytes.

    :ivar written: all that was written.
    :ivar taken: how much of it the client has.
    """

    disconnecting = False

    def __init__(self) -> None:
        self.written = b""
        self.taken = 0
        self.aborted = self.lost = False
        self.producer: Any = None

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 4321)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.2", 80)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: it makes no difference here."""

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        """Nothing comes by itself."""

    resumeProducing = pauseProducing

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        self.written += data
        if len(self.written) - self.taken > 100_000 and self.producer is not None:
            self.producer.pauseProducing()

    def take(self, size: int = 1 << 30) -> None:
        """The client takes so much."""
        self.taken = min(len(self.written), self.taken + size)
        if self.taken == len(self.written) and self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        self.lost = True

    def abortConnection(self) -> None:
        self.aborted = True


class ForeignTests(Case):
    """Sending a file on one of Twisted's transports, through memory."""

    def begin_there(self, *requests: bytes) -> tuple[Transport, EndpointProtocol, Exchange]:
        """A client whose connection is such a one, and a transfer to it that has begun."""
        factory = EndpointFactory()
        factory.serve(self.engine.site, self.engine.hub, lambda: None)
        transport = Transport()
        protocol = factory.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(cast(Any, transport))
        protocol.dataReceived(b"".join(requests) or GET)
        exchange = self.engine.asked[-1]
        self.transfer(exchange).begin()
        return transport, protocol, exchange

    def connection(self) -> Connection:
        """The one that there is."""
        (connection,) = open_connections(self.engine.site)
        self.assertIsInstance(connection, TransportConnection)
        return connection

    def all(self, transport: Transport) -> bytes:
        """Return the bytes that a client gets that takes everything."""
        for _ in range(1000):
            self.engine.turn()
            transport.take()
        return transport.written

    def test_sends_all_with_bounded_buffer(self) -> None:
        """All of it arrives, no more is ever written ahead than the buffer likes, and the next one follows."""
        transport, protocol, exchange = self.begin_there(get(0), get(1))
        self.engine.turn()
        most = 0
        while not exchange.released:
            self.engine.turn()
            most = max(most, len(transport.written) - transport.taken)
            transport.take()
        self.assertLess(most, 100_000 + SLICE + 1000)
        self.engine.turn()
        transport.take()
        self.answer(self.engine.asked[1], body=b"next")
        self.assertEqual([answer.body for answer in parse_answers(self.all(transport))], [BIG, b"next"])
        protocol.connectionLost(Failure(ConnectionDone()))
        self.nothing_left()

    def test_writes_nothing_while_fetching(self) -> None:
        """While a block is fetched nothing is written, although the transport would take it."""
        self.there = False
        self.disk.at_once = False
        transport, protocol, _ = self.begin_there()
        for _ in range(3):
            self.engine.turn()
            transport.take()
        self.assertEqual(len(self.disk), 1)
        self.assertLess(len(transport.written), 1000)
        while len(self.disk):
            self.disk.work()
            self.all(transport)
        self.assertEqual(parse_answers(self.all(transport))[0].body, BIG)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.nothing_left()

    def test_shorter_file_ends_visibly(self) -> None:
        """A file that has become shorter is cut, visibly."""
        transport, protocol, _ = self.begin_there()
        os.truncate(self.path, 300_000)
        lines = self.logged(lambda: self.all(transport))
        self.assertFalse(parse_answers(transport.written)[0].whole)
        self.assertTrue(any("it has become shorter" in line for line in lines))
        self.assertTrue(transport.lost or transport.aborted)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.nothing_left()

    def test_client_that_leaves_leaves_nothing_behind(self) -> None:
        """A client that leaves, while it is sent or fetched, leaves nothing behind."""
        for fetching in (False, True):
            self.there = not fetching
            self.disk.at_once = False
            _, protocol, _ = self.begin_there()
            self.engine.turn()
            protocol.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(len(self.descriptors()), int(fetching))
            self.disk.work()
            self.nothing_left()

    def test_writes_nothing_after_our_close(self) -> None:
        """Nothing is written after the server's own close: the transport would keep the whole file."""
        for fetching in (False, True):
            self.there = not fetching
            self.disk.at_once = False
            transport, protocol, _ = self.begin_there()
            connection = self.connection()
            if not fetching:
                self.assertTrue(self.engine.reactor.calls)  # a next slice is on its way
            connection.close()
            self.assertTrue(transport.lost)
            written = len(transport.written)
            self.disk.work()
            self.all(transport)
            self.assertEqual(len(transport.written), written)
            protocol.connectionLost(Failure(ConnectionDone()))
            self.nothing_left()

    def test_client_that_takes_nothing_is_cut(self) -> None:
        """A client that takes nothing for too long is cut."""
        transport, protocol, _ = self.begin_there()
        self.engine.turn()
        self.clock.advance(self.engine.site.settings.send_timeout + 1)
        self.engine.sweep(self.clock.seconds())
        self.assertTrue(transport.aborted)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.nothing_left()
