"""Request bodies: in memory or in a file, whole before anybody is asked, on a disk that is slow, full or broken."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import threading
from collections.abc import Callable
from queue import Queue
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.web import body_spool as body
from graceful.web.body_spool import HIGH, LOW, MEMORY, Spool, Spooler
from graceful.web.exchange import Exchange
from tests.fast.doubles import Case, Engine, get, parse_answers, post


class UploadTests(Case):
    """Bodies on their way to memory, or to a file."""

    def body_of(self, exchange: Exchange) -> bytes:
        """The body that an application gets."""
        body = exchange.body
        if body is None or isinstance(body, list):
            return b"".join(body or [])
        return body.read()

    def test_small_body_stays_in_memory(self) -> None:
        """A body of up to 64 KiB stays in memory."""
        for size in (0, 1, 5, MEMORY):
            exchange = self.ask(post(size))[1]
            self.assertEqual((self.body_of(exchange), exchange.received), (b"u" * size, size))
        self.assertEqual(self.engine.disk.files, [])

    def test_large_body_is_in_a_file(self) -> None:
        """A larger one is in a file, complete and rewound, before anybody is asked to answer."""
        for size in (MEMORY + 1, 3 * MEMORY):
            self.engine = Engine(self)
            self.engine.connect().send(post(size))
            self.assertEqual(self.engine.asked, [])
            self.engine.settle()
            (exchange,) = self.engine.asked
            self.assertEqual((self.body_of(exchange), exchange.received), (b"u" * size, size))
            self.answer(exchange)
            self.assertEqual([file.closed for file in self.engine.disk.files], [True])

    def test_next_one_waits(self) -> None:
        """What comes behind a body that is still on its way to the disk waits for its turn."""
        for separately in (True, False):
            self.engine = Engine(self)
            client = self.engine.connect()
            for data in (post(MEMORY + 10), get(2)) if separately else (post(MEMORY + 10) + get(2),):
                client.send(data)
            self.assertEqual((self.engine.asked, len(self.engine.in_flight)), ([], 1))
            self.engine.disk.work()
            self.engine.turn()
            self.answer(self.engine.asked[0])
            self.answer(self.engine.asked[1])
            self.assertEqual(self.bodies(client), [b"/upload", b"/2"])
            self.assertEqual(self.engine.in_flight, [])

    def test_a_large_body_waits_for_the_exchange_before_it(self) -> None:
        """A large body that is through while another exchange runs waits for its turn."""
        client, exchange = self.ask(get(1) + post(MEMORY + 10))
        self.engine.disk.work()
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 1)
        self.answer(exchange)
        self.answer(self.engine.asked[1])
        self.assertEqual(self.bodies(client), [b"/1", b"/upload"])

    def test_a_client_faster_than_the_disk_is_held_back(self) -> None:
        """A client faster than the disk is held back by a bound, and let go when the disk has caught up."""
        client = self.engine.connect()
        size = 20 * HIGH
        data = post(size)
        waiting = []
        while data:
            try:
                data = data[client.end.send(data) :]
                self.engine.turn()
            except BlockingIOError:
                self.assertFalse(client.connection.reading)
                self.assertTrue(client.connection.receiver.stalled())
                spool = client.connection.receiver._spool
                assert spool is not None
                waiting.append(spool.behind)
                while spool.behind > LOW and not self.engine.disk.idle():
                    self.assertFalse(client.connection.reading)
                    self.engine.disk.work(1)
                self.engine.turn()
                self.assertTrue(client.connection.reading)
        self.engine.turn()
        self.engine.settle()
        self.assertGreater(len(waiting), 5)
        self.assertLess(max(waiting), HIGH + 2 * 65536)
        self.assertEqual(len(self.body_of(self.engine.asked[0])), size)

    def trouble(self, code: int, status: int, whole: bool) -> None:
        """Have the disk fail, before or after the body is whole; what its client and others get."""
        self.engine = Engine(self)
        client = self.engine.connect()
        other = self.engine.connect()
        size = MEMORY + 5000
        client.send(post(size)[: None if whole else -100])
        self.engine.disk.trouble = OSError(code, "no")
        self.engine.disk.work()
        self.engine.turn()
        if not whole:
            client.send(b"u" * 100)
        answers = parse_answers(client.take())
        self.assertEqual(([answer.status for answer in answers], client.eof), ([status], True))
        self.assertEqual(self.engine.asked, [])
        client.close()
        self.assertEqual((self.engine.in_flight, self.engine.open), ([], 1))
        self.engine.disk.trouble = None
        other.send(post(size))
        self.engine.disk.work()
        self.engine.turn()
        self.assertEqual(self.body_of(self.engine.asked[0]), b"u" * size)
        self.answer(self.engine.asked[0])
        self.assertTrue(all(file.closed for file in self.engine.disk.files))

    def test_a_full_disk_gives_507_to_one_client_only(self) -> None:
        """A full disk gives this client a 507 and does no other client any harm."""
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            self.trouble(code, 507, whole=True)
            self.trouble(code, 507, whole=False)

    def test_a_broken_disk_gives_500(self) -> None:
        """Any other trouble gives a 500."""
        self.trouble(errno.EIO, 500, whole=True)
        self.trouble(errno.EIO, 500, whole=False)

    def test_trouble_and_end_cross(self) -> None:
        """An error that the reactor hears of after the body is whole costs one answer of 507, for this request."""
        records: list[Exchange] = []
        self.engine = Engine(self, record=records.append)
        client = self.engine.connect()
        data = post(MEMORY + 5000)
        client.send(data[:-100])
        self.engine.disk.trouble = OSError(errno.ENOSPC, "full")
        self.engine.disk.work()
        client.end.send(data[-100:])
        self.engine.hub.doRead()
        self.engine.disk.work()
        self.engine.turn()
        answers = parse_answers(client.take())
        self.assertEqual(([answer.status for answer in answers], client.eof), ([507], True))
        client.close()
        self.nothing_left()
        self.assertEqual([(exchange.method, exchange.status) for exchange in records], [("POST", 507)])

    def test_leaves_in_the_middle(self) -> None:
        """A client that leaves at any moment of its upload leaves neither an exchange nor an open file."""
        data = post(MEMORY + 5000)
        for size in (len(data) - 10, len(data)):
            for jobs in (0, 1, 2, 3):
                for hears_of_it in (False, True):
                    self.engine = Engine(self)
                    client = self.engine.connect()
                    client.send(data[:size])
                    self.engine.disk.work(jobs)
                    if hears_of_it:
                        self.engine.turn()
                    client.connection.close()
                    self.engine.disk.work()
                    self.engine.turn()
                    for exchange in self.engine.asked:
                        exchange.release()
                    self.nothing_left()
                    self.assertTrue(all(file.closed for file in self.engine.disk.files))

    def test_spooling_connection_is_not_idle(self) -> None:
        """While its body is on its way to the disk a connection is not idle, and is not closed as such."""
        client = self.engine.connect()
        client.send(post(MEMORY + 10))
        self.assertFalse(client.connection.idle())
        client.connection.half_close()
        self.assertFalse(client.connection.write_token.lingering)


class Gate(io.BytesIO):
    """A file that is not written before the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.open = threading.Event()

    def write(self, data: Any) -> int:
        self.reached.set()
        assert self.open.wait(5)
        return super().write(data)


class SpoolerTests(SynchronousTestCase):
    """The thread that writes bodies to files."""

    def setUp(self) -> None:
        """Start a spooler whose calls into the reactor thread wait in a queue."""
        self.calls: Queue[tuple[Callable[..., object], tuple[object, ...]]] = Queue()
        self.spooler = Spooler(self.mktemp_directory(), lambda function, *args: self.calls.put((function, args)))
        self.addCleanup(self.spooler.stop)
        self.told: list[Spool] = []
        self.spool = Spool(self.told.append)

    def mktemp_directory(self) -> str:
        """A directory of this test's own."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return directory.name

    def next_call(self) -> None:
        """Wait for the next call into the reactor thread, and make it."""
        function, args = self.calls.get(timeout=5)
        function(*args)

    def finish(self, spool: Spool) -> None:
        """Finish a body, and wait until that is done."""
        done: list[int] = []
        self.spooler.finish(spool, lambda: done.append(1))
        while not done:
            self.next_call()

    def files(self, *files: Any) -> None:
        """Have these files opened, or these exceptions raised, instead of real ones."""
        left = list(files)

        def open_next(**options: Any) -> Any:
            file = left.pop(0)
            if isinstance(file, Exception):
                raise file
            return file

        self.patch(body, "tempfile", SimpleNamespace(TemporaryFile=open_next))

    def test_pieces_are_written_in_order(self) -> None:
        """Pieces come out in order, in a file without a name that is read from its beginning."""
        for number in range(100):
            self.spooler.write(self.spool, b"%d\n" % number)
        self.finish(self.spool)
        file = self.spool.file
        assert file is not None
        self.assertEqual(os.fstat(file.fileno()).st_nlink, 0)
        self.assertEqual(file.readline(), b"0\n")
        self.assertEqual(list(file), [b"%d\n" % number for number in range(1, 100)])
        file.close()

    def test_each_its_own(self) -> None:
        """Bodies that come at the same time are kept apart."""
        spools = [Spool(self.told.append) for _ in range(5)]
        for number in range(20):
            for at, spool in enumerate(spools):
                self.spooler.write(spool, b"%d-%d " % (at, number))
        for at, spool in enumerate(spools):
            self.finish(spool)
            assert spool.file is not None
            self.assertEqual(spool.file.read(), b"".join(b"%d-%d " % (at, number) for number in range(20)))
            spool.file.close()

    def test_slow_disk_does_not_hold_the_caller(self) -> None:
        """While the disk is slow the caller goes on, knows how much waits, and is told when little does."""
        gate = Gate()
        self.files(gate)
        for _ in range(5):
            self.spooler.write(self.spool, b"x" * LOW)
        self.assertEqual(self.spool.behind, 5 * LOW)
        self.assertTrue(self.calls.empty())
        gate.open.set()
        self.next_call()
        self.assertEqual(self.told, [self.spool])
        self.assertLessEqual(self.spool.behind, LOW)
        self.finish(self.spool)
        self.assertEqual((self.spool.behind, self.told), (0, [self.spool]))

    def test_taken_in_parts(self) -> None:
        """A disk that takes only part of a piece gets the rest as well."""

        class Parts(io.BytesIO):
            def write(self, data: Any) -> int:
                return super().write(data[:3])

        self.files(Parts())
        self.spooler.write(self.spool, b"0123456789")
        self.finish(self.spool)
        assert self.spool.file is not None
        self.assertEqual(self.spool.file.read(), b"0123456789")

    def failing(self, *files: Any) -> None:
        """Write to a disk that fails: it is told once, nothing waits any more, and the next body is unharmed."""
        real = io.BytesIO()
        self.files(*files, real)
        for _ in range(10):
            self.spooler.write(self.spool, b"x" * LOW)
        self.finish(self.spool)
        assert self.spool.error is not None
        self.assertEqual((self.spool.error.errno, self.told), (errno.ENOSPC, [self.spool]))
        self.assertEqual((self.spool.behind, self.spool.file), (0, None))
        other = Spool(self.told.append)
        self.spooler.write(other, b"good")
        self.finish(other)
        self.assertEqual((other.error, real.getvalue()), (None, b"good"))

    def test_failed_write_ends_the_body(self) -> None:
        """A write that fails ends this body, and closes its file."""

        class Full(io.BytesIO):
            def write(self, data: Any) -> int:
                raise OSError(errno.ENOSPC, "full")

        file = Full()
        self.failing(file)
        self.assertTrue(file.closed)

    def test_full_from_the_start(self) -> None:
        """A file that cannot be opened fails its request."""
        self.failing(OSError(errno.ENOSPC, "full"))

    def test_cannot_even_be_closed(self) -> None:
        """A file that cannot be closed fails its request."""

        class Broken(io.BytesIO):
            def write(self, data: Any) -> int:
                raise OSError(errno.ENOSPC, "full")

            def close(self) -> None:
                raise OSError(errno.EIO, "broken")

        self.failing(Broken())

    def test_unexpected_error_ends_its_body_and_not_the_thread(self) -> None:
        """A body whose writing raises anything is given up, and the thread goes on with the others."""
        self.files(ZeroDivisionError(), io.BytesIO())
        self.spooler.write(self.spool, b"x")
        other = Spool(self.told.append)
        self.spooler.write(other, b"good")
        self.finish(other)
        self.assertIsInstance(self.spool.error, ZeroDivisionError)
        assert other.file is not None
        self.assertEqual(other.file.read(), b"good")

    def test_a_file_that_cannot_be_rewound_is_an_error_of_its_body(self) -> None:
        """The end of the body is told all the same, or its request would wait for ever."""

        class Stuck(io.BytesIO):
            def seek(self, *place: int) -> int:
                raise OSError(errno.EIO, "stuck")

        file = Stuck()
        self.files(file)
        self.spooler.write(self.spool, b"x")
        self.finish(self.spool)
        self.assertEqual((self.spool.file, file.closed), (None, True))
        self.assertIsInstance(self.spool.error, OSError)

    def test_dropped_body_is_closed(self) -> None:
        """A body that is not wanted is closed: in the middle of a write, before its end is written and after."""
        for moment in ("in a write", "before its end", "after its end"):
            gate = Gate()
            self.files(gate, io.BytesIO())
            spool = Spool(self.told.append)
            self.spooler.write(spool, b"one")
            self.assertTrue(gate.reached.wait(5))
            self.spooler.write(spool, b"two")
            if moment == "before its end":
                self.spooler.finish(spool, lambda: None)
            elif moment == "after its end":
                gate.open.set()
                self.finish(spool)
            self.spooler.drop(spool)
            gate.open.set()
            behind = Spool(self.told.append)
            self.spooler.write(behind, b"x")
            self.finish(behind)
            self.assertTrue(gate.closed, moment)
            self.assertIs(spool.file, None)

    def test_stop_finishes_what_was_given_before(self) -> None:
        """When it is stopped it does what it was given before, and its thread ends."""
        self.spooler.write(self.spool, b"x")
        thread = self.spooler._thread
        assert thread is not None
        self.spooler.stop()
        thread.join(5)
        self.assertFalse(thread.is_alive())
        self.assertEqual(self.spool.written, 1)
        assert self.spool.file is not None
        self.spool.file.close()

    def test_no_thread_for_nothing(self) -> None:
        """Without a large body there is no thread, and stopping is nothing."""
        self.assertIs(self.spooler._thread, None)
        self.spooler.stop()

    def test_pause_comes_above_resume(self) -> None:
        """A client is held back before it is let go."""
        self.assertLess(LOW, HIGH)
        self.assertLessEqual(MEMORY, HIGH)
