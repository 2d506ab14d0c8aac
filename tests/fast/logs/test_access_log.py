"""The access log: its lines, and that none is lost or forged."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
import time
import types
from calendar import timegm
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

from attrs import define, field
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

import graceful.logs.access_log
from graceful.logs.access_lines import CombinedLines, client_of, escape, stamp
from graceful.logs.access_log import PIECE_INTERVAL, PIECE_LINES, AccessLog

MOMENT = 1_795_442_160
"""23 November 2026, 13:56:00 UTC."""

CLOCK = 1000.0
"""What the monotonic clock says at that moment."""


@define
class Exchange:
    """A finished exchange, as far as the log looks at it."""

    target: bytes = b"/path"
    peer: str = "192.0.2.1"
    scheme: str = "http"
    method: str = "GET"
    version: str = "1.1"
    status: int = 200
    sent: int = 13
    headers: list[tuple[bytes, bytes]] = field(factory=list)
    started: float = CLOCK
    ended: float = CLOCK + 0.001234
    request_id: str = "run-1"
    trace_id: str | None = None

    line: str = ""

    @property
    def shown_client(self) -> str:
        """As a finished exchange has it."""
        return client_of(self.headers)


def line(exchange: Exchange) -> str:
    """The one line of one exchange, without its end."""
    text = CombinedLines()(exchange, exchange.started + MOMENT - CLOCK)
    assert text.endswith("\n")
    return text[:-1]


class LineTests(SynchronousTestCase):
    """What a line looks like."""

    def test_a_line_is_the_combined_format_with_duration_and_request_id(self) -> None:
        """A line is the combined format, the seconds it took, and the request id."""
        headers = [(b"Host", b"h"), (b"Referer", b"http://a/?b=c"), (b"User-Agent", b"curl/8 (x; y)")]
        self.assertEqual(
            line(Exchange(headers=headers)),
            '192.0.2.1 - - [23/Nov/2026:13:56:00 +0000] "GET /path HTTP/1.1" 200 13 '
            '"http://a/?b=c" "curl/8 (x; y)" 0.001234 run-1',
        )

    def test_unknown_values_are_hyphens(self) -> None:
        """What is unknown is a hyphen: a Unix socket's peer, the fields, and a request that was no request."""
        self.assertEqual(
            line(Exchange(peer="", target=b"", method="-", status=400, sent=0)),
            '- - - [23/Nov/2026:13:56:00 +0000] "-" 400 0 "-" "-" 0.001234 run-1',
        )

    def test_names_in_any_case(self) -> None:
        """The fields are found in any case, and others of the same length are not taken for them."""
        for referer, agent in (
            (b"Referer", b"User-Agent"),
            (b"referer", b"user-agent"),
            (b"REFERER", b"USER-AGENT"),
        ):
            headers = [(referer, b"r"), (b"X-Refer", b"no"), (agent, b"a"), (b"Connection", b"no")]
            self.assertIn(' "r" "a" ', line(Exchange(headers=headers)))

    def test_a_line_has_the_time_of_the_beginning_and_the_duration_in_microseconds(self) -> None:
        """The time is when the exchange began, to the second; the duration has microseconds."""
        self.assertIn("[23/Nov/2026:13:55:59 +0000]", line(Exchange(started=CLOCK - 0.001)))
        self.assertIn("[23/Nov/2026:13:56:00 +0000]", line(Exchange(started=CLOCK + 0.999)))
        self.assertIn('"-" 3600.500000 run-1', line(Exchange(ended=CLOCK + 3600.5)))

    def test_time_stamps_are_utc_with_english_months(self) -> None:
        """Time stamps are UTC whatever the local time, with English months and two digits."""
        self.addCleanup(time.tzset)
        elsewhere = patch.dict(os.environ, {"TZ": "XST-9"})
        elsewhere.start()
        self.addCleanup(elsewhere.stop)
        time.tzset()
        self.assertEqual(stamp(0), "01/Jan/1970:00:00:00 +0000")
        self.assertEqual(stamp(MOMENT), "23/Nov/2026:13:56:00 +0000")
        months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        self.assertEqual(
            [stamp(timegm((2026, month, 9, 0, 0, 0)))[:6] for month in range(1, 13)],
            [f"09/{name}" for name in months],
        )

    def test_each_line_has_its_own_time_whatever_the_order(self) -> None:
        """A line has the time of its own exchange, also behind one of another second."""
        made = CombinedLines()
        for number in (0, 1, 99, 2, 3, 98, 1):
            exchange = Exchange(started=CLOCK + number / 2)
            self.assertEqual(made(exchange, exchange.started + MOMENT - CLOCK), line(exchange) + "\n")

    def test_durations_are_rounded_to_microseconds(self) -> None:
        """Six digits behind the point, whatever the duration."""
        for took, shown in (
            (0.0, "0.000000"),
            (0.0000004, "0.000000"),
            (0.0000016, "0.000002"),
            (0.0123456, "0.012346"),
            (0.9999994, "0.999999"),
            (0.9999996, "1.000000"),
            (12.5, "12.500000"),
            (-0.25, "-0.250000"),
        ):
            self.assertIn(f" {shown} run-1", line(Exchange(started=0.0, ended=took)), took)

    def test_a_request_line_that_is_known_to_be_harmless_stands_as_it_is(self) -> None:
        """What was looked at when it came first is not put together again."""
        self.assertIn('"GET /known HTTP/1.1" 200', line(Exchange(line="GET /known HTTP/1.1")))


class ForgeryTests(SynchronousTestCase):
    """No client can end a line, or a field, and so forge one."""

    def forms(self, text: bytes) -> list[Exchange]:
        """Exchanges with this text in every place where a client's bytes may come to stand."""
        return [
            Exchange(target=b"/" + text),
            Exchange(headers=[(b"Referer", text)]),
            Exchange(headers=[(b"user-agent", text)]),
            Exchange(method=text.decode("latin-1")),
            Exchange(peer=text.decode("latin-1") + "1"),
        ]

    def test_no_byte_breaks_a_line_or_passes_for_its_escape(self) -> None:
        """Whatever byte is sent, the line is one line of printable ASCII in which it can be told from its escape."""
        pattern = re.compile(r'\S+ - - \[[^]]+\] "(?:[^"\\]|\\.)*" 200 13 "(?:[^"\\]|\\.)*" "(?:[^"\\]|\\.)*" \S+ .*')
        seen: list[set[str]] = [set() for _ in self.forms(b"")]
        for code in range(256):
            for place, exchange in enumerate(self.forms(bytes([code]))):
                text = line(exchange)
                self.assertTrue(text.isascii() and text.isprintable(), text)
                self.assertIsNotNone(pattern.fullmatch(text), text)
                seen[place].add(text)
        self.assertEqual([len(texts) for texts in seen], [256] * len(seen))

    def test_a_forged_line(self) -> None:
        """A whole line in a field stays in that field."""
        forged = b'x" 200 1 "-" "-" 0.1 a\n6.6.6.6 - - [23/Nov/2026:13:56:00 +0000] "GET /admin HTTP/1.1'
        for exchange in self.forms(forged):
            self.assertIn(r"\x0a6.6.6.6", line(exchange))

    def test_a_forged_line_with_as_many_quotes_and_ends_is_escaped(self) -> None:
        """A line whose quotes and ends only add up to those of a good one is escaped as well."""
        for target in (b'""""""\n', b'\n""""""', b'"', b'"""""" \n"""""" \n'):
            self.assertNotIn("\n", line(Exchange(target=target)))

    def test_addresses_are_remembered_boundedly(self) -> None:
        """A client may make up as many as an endpoint of a plugin believes, however long."""
        made = CombinedLines()
        for number in range(3000):
            for peer in (f"10.0.{number}", f"10.0.{number}" * 20):
                self.assertTrue(made(Exchange(peer=peer), MOMENT).startswith(peer + " - - ["))
        self.assertLessEqual(sum(map(len, made._peers)), 1024 * 64)

    def test_a_bad_target_is_escaped(self) -> None:
        """A quote in a target does not end it."""
        self.assertIn(r'"GET /\"bad HTTP/1.1"', line(Exchange(b'/"bad')))

    def test_quotes_and_backslashes_get_a_backslash_and_other_bytes_their_number(self) -> None:
        """Quotes and backslashes get a backslash, everything else that is not printable ASCII its number."""
        self.assertEqual(escape('a "b" \\c\n\xe9\x7f'), r"a \"b\" \\c\x0a\xe9\x7f")


@define
class Disk:
    """Stands for `os.write`: a disk that can be full.

    :ivar room: bytes that still go on it; -1 for any number.
    """

    room: int = -1
    content: bytes = b""
    calls: int = 0

    def write(self, descriptor: int, data: bytes) -> int:
        """Take what there is room for, at least one byte of it, or fail."""
        self.calls += 1
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        data = data if self.room < 0 else data[: self.room]
        if self.room > 0:
            self.room -= len(data)
        self.content += data
        return len(data)


class LogTestCase(SynchronousTestCase):
    """Makes logs, and looks at what they wrote."""

    def setUp(self) -> None:
        """Have a place for the file."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path = os.path.join(directory, "access.log")

    def make(
        self, path: str | None = None, write: Callable[[int, bytes], int] = os.write, kept: int = 1000
    ) -> AccessLog:
        """A log whose clocks stand still."""
        return AccessLog(path or self.path, clock=lambda: CLOCK, wall=lambda: MOMENT, write=write, kept_lines=kept)

    def record(self, log: AccessLog, *numbers: int) -> None:
        """Record exchanges whose targets are numbers."""
        for number in numbers:
            log.record(Exchange(b"/%d" % number))

    def numbers(self, path: str | None = None, content: bytes | None = None) -> list[int]:
        """The numbers of the lines of a file, each of which must be a whole one."""
        if content is None:
            with open(path or self.path, "rb") as file:
                content = file.read()
        if not content:
            return []
        self.assertTrue(content.endswith(b"\n"))
        matches = [
            re.fullmatch(r'192\.0\.2\.1 - - \[[^]]*\] "GET /(\d+) HTTP/1\.1" 200 13 "-" "-" 0\.001234 run-1', text)
            for text in content.decode()[:-1].split("\n")
        ]
        return [int(match[1]) if match else -1 for match in matches]

    def said(self, events: Sequence[LogEvent]) -> list[str]:
        """What was said about the log."""
        return [formatEvent(event) for event in events]


class FileTests(LogTestCase):
    """The log without its thread, one round at a time."""

    def test_recorded_exchanges_are_written_in_order_with_one_write(self) -> None:
        """What was recorded is in the file after one round, in order, with one write."""
        disk = Disk()
        log = self.make(write=disk.write)
        self.record(log, *range(100))
        self.assertEqual(log.write_pending(), 100)
        self.assertEqual(self.numbers(content=disk.content), list(range(100)))
        self.assertEqual(disk.calls, 1)

    def test_many_lines_are_made_in_pieces_between_which_other_threads_run(self) -> None:
        """Making lines holds the interpreter's lock: the writer sleeps between two pieces, more of more at once."""
        disk = Disk()
        log = self.make(write=disk.write, kept=10_000)
        wake = Wake(lambda: self.record(log, 2350), *2 * [lambda: None])
        self.patch(log, "_wake", wake)
        self.record(log, *range(350))
        self.assertEqual(log.write_pending(), 351)  # with what came meanwhile
        self.assertEqual((disk.calls, wake.waited), (1, 3 * [PIECE_INTERVAL]))
        self.record(log, *range(351, 2350))
        wake.script = 100 * [lambda: None]
        self.assertEqual(log.write_pending(), 1999)
        self.assertEqual(self.numbers(content=disk.content), [*range(350), 2350, *range(351, 2350)])
        self.assertEqual((disk.calls, len(wake.waited)), (2, 3 + 14))

    def test_recording_is_one_call_into_c(self) -> None:
        """Recording is one call into C, which no other thread can get into the middle of."""
        self.assertIsInstance(self.make().record, types.BuiltinMethodType)

    def test_nothing_is_written_when_nothing_was_recorded(self) -> None:
        """A round without anything to write does not write."""
        disk = Disk()
        self.assertEqual(self.make(write=disk.write).write_pending(), 0)
        self.assertEqual(disk.calls, 0)

    def test_an_instance_and_its_successor_append_to_an_existing_file(self) -> None:
        """A file that is there is continued, by an instance and its successor at the same time."""
        with open(self.path, "w") as file:
            file.write(line(Exchange(b"/0")) + "\n")
        old, new = self.make(), self.make()
        for number in range(1, 5):
            log = (old, new)[number % 2]
            self.record(log, number)
            log.write_pending()
        self.assertEqual(self.numbers(), [0, 1, 2, 3, 4])

    def test_a_new_file_is_not_readable_for_all_users(self) -> None:
        """A new file is not readable by everybody: there are clients' addresses in it."""
        self.make()
        self.assertEqual(os.stat(self.path).st_mode & 0o137, 0)

    def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(self) -> None:
        """A file that cannot be opened is an error at the start."""
        self.assertRaises(OSError, self.make, os.path.join(self.path, "none"))

    def test_standard_output_is_neither_reopened_nor_closed(self) -> None:
        """A hyphen is standard output, which is neither reopened nor closed."""
        descriptors: list[int] = []

        def write(descriptor: int, data: bytes) -> int:
            descriptors.append(descriptor)
            return len(data)

        self.patch(os, "close", lambda descriptor: self.fail("closed"))
        log = self.make("-", write)
        self.record(log, 1)
        log.reopen()
        self.assertTrue(log.close())
        self.assertEqual(descriptors, [1])
        self.assertFalse(os.path.exists("-"))

    def test_times_follow_a_step_of_the_wall_clock(self) -> None:
        """Times are made of the clocks as they are when a line is written, so a step is followed."""
        wall = [float(MOMENT)]
        log = AccessLog(self.path, clock=lambda: CLOCK, wall=lambda: wall[0])
        self.record(log, 1)
        log.write_pending()
        wall[0] += 3600
        self.record(log, 2)
        log.write_pending()
        with open(self.path) as file:
            hours = re.findall(r"2026:(\d\d):56:00", file.read())
        self.assertEqual(hours, ["13", "14"])


class ReopenTests(LogTestCase):
    """The log is reopened after its file was moved."""

    def test_no_line_is_lost_between_the_old_and_the_new_file(self) -> None:
        """Lines before and after are all in one of the two files, those that were not yet written in the new one."""
        log = self.make()
        self.record(log, 1)
        log.write_pending()
        os.rename(self.path, self.path + ".1")
        self.record(log, 2)
        log.write_pending()
        log.reopen()
        self.record(log, 3)
        log.write_pending()
        self.assertEqual((self.numbers(self.path + ".1"), self.numbers()), ([1, 2], [3]))

    def test_the_old_file_is_closed(self) -> None:
        """The old file is let go."""
        log = self.make()
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(3):
            log.reopen()
            log.write_pending()
        self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))

    def test_the_old_file_stays_in_use_if_the_new_one_cannot_be_opened(self) -> None:
        """If the path cannot be opened, that is said, and the old file is written on."""
        log = self.make()
        os.rename(self.path, self.path + ".1")
        os.mkdir(self.path)
        log.reopen()
        self.record(log, 1)
        with capturedLogs() as events:
            log.write_pending()
        self.assertEqual(self.numbers(self.path + ".1"), [1])
        (text,) = self.said(events)
        self.assertIn(self.path, text)
        self.assertIn(os.strerror(errno.EISDIR), text)

    def test_a_torn_line_is_whole_in_the_new_file(self) -> None:
        """A line that a full disk has torn is whole in the new file, and nothing before it is there twice."""
        disk = Disk(room=len(line(Exchange(b"/1"))) + 20)
        log = self.make(write=disk.write)
        self.record(log, 1, 2, 3)
        log.write_pending()
        disk.room, disk.content = -1, b""
        log.reopen()
        log.write_pending()
        self.assertEqual(self.numbers(content=disk.content), [2, 3])


class FullDiskTests(LogTestCase):
    """What happens while lines cannot be written."""

    def test_lines_are_kept_until_they_can_be_written(self) -> None:
        """Lines are kept and written as soon as that is possible, in order, each once."""
        disk = Disk(room=100)
        log = self.make(write=disk.write)
        for number in range(10):
            self.record(log, number * 2, number * 2 + 1)
            log.write_pending()
        disk.room = 250
        log.write_pending()
        disk.room = -1
        log.write_pending()
        self.assertEqual(self.numbers(content=disk.content), list(range(20)))

    def test_a_failing_and_a_working_disk_are_each_logged_once(self) -> None:
        """That it cannot write, and that it can again, is each said once, with the reason."""
        disk = Disk(room=0)
        log = self.make(write=disk.write)
        with capturedLogs() as events:
            for number in range(5):
                self.record(log, number)
                log.write_pending()
            disk.room = -1
            log.write_pending()
            log.write_pending()
        trouble, well = self.said(events)
        self.assertIn(f"{self.path} cannot be written ({os.strerror(errno.ENOSPC)})", trouble)
        self.assertIn("written again, 0 lines were dropped", well)

    def test_lines_beyond_the_bound_are_dropped_and_counted(self) -> None:
        """Beyond the bound lines are dropped, which is said once and counted; the kept ones are written."""
        disk = Disk(room=0)
        log = self.make(write=disk.write, kept=10)
        with capturedLogs() as events:
            for start in range(0, 28, 4):
                self.record(log, *range(start, start + 4))
                log.write_pending()
            disk.room = -1
            log.write_pending()
            self.record(log, 100)
            log.write_pending()
        self.assertEqual(self.numbers(content=disk.content), [*range(10), 100])
        _, dropping, well = self.said(events)
        self.assertIn("10 lines wait to be written, from now on lines are dropped", dropping)
        self.assertIn("18 lines were dropped", well)

    def test_a_flush_that_cannot_write_everything_returns_false(self) -> None:
        """A flush that could not write everything says so."""
        disk = Disk(room=0)
        log = self.make(write=disk.write)
        self.assertTrue(log.flush())
        self.record(log, 1)
        self.assertFalse(log.flush())
        disk.room = -1
        self.assertTrue(log.flush())

    def test_lines_that_were_never_written_are_counted_at_the_close(self) -> None:
        """Lines that can never be written are counted at the end."""
        log = self.make(write=Disk(room=0).write, kept=3)
        self.record(log, 1, 2)
        log.write_pending()
        self.record(log, 3, 4, 5)
        with capturedLogs() as events:
            self.assertFalse(log.close())
        self.assertIn("5 lines could not be written and are lost", self.said(events)[-1])

    def test_exchanges_that_wait_behind_a_stuck_write_are_bounded(self) -> None:
        """While a write does not return, what gathers behind it is bounded; that lines are lost is said."""
        self.patch(graceful.logs.access_log, "_GATHERED", 4)
        disk = Disk()
        log = self.make(write=disk.write)
        self.record(log, 1, 2, 3, 4, 5, 6)
        with capturedLogs() as events:
            log.write_pending()
        self.assertEqual(self.numbers(content=disk.content), [3, 4, 5, 6])
        self.assertIn("lines are lost", self.said(events)[0])


class Stuck:
    """Stands for `os.write` into a pipe that no process reads, until it is released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.content = b""

    def write(self, descriptor: int, data: bytes) -> int:
        """Wait, then take it all."""
        self.entered.set()
        self.let_go.wait(30)
        self.content += data
        return len(data)


class Wake:
    """Stands for the event that the writer waits on: records for how long, and runs a script instead.

    :ivar waited: the seconds of each wait.
    """

    def __init__(self, *script: Callable[[], object]) -> None:
        self.script = list(script)
        self.waited: list[float] = []

    def wait(self, timeout: float) -> None:
        """Note the time, and do the next step of the script."""
        self.waited.append(timeout)
        self.script.pop(0)()

    def clear(self) -> None:
        """Nothing to forget."""

    def set(self) -> None:
        """Do nothing: no thread waits."""


class ThreadTests(LogTestCase):
    """The log with its thread."""

    def test_everything_that_many_threads_record_is_written_once(self) -> None:
        """What many threads record at once is all in the file when the log is closed, each exactly once."""
        log = self.make()
        log.start()
        threads = [
            threading.Thread(target=self.record, args=(log, *range(start, start + 5000)))
            for start in range(0, 20000, 5000)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(log.close(30))
        self.assertEqual(sorted(self.numbers()), list(range(20000)))

    def test_a_flush_writes_everything_that_was_recorded_before(self) -> None:
        """After a flush everything recorded before it is in the file, without waiting for the next look."""
        self.patch(graceful.logs.access_log, "IDLE_INTERVAL", 60.0)
        log = self.make()
        log.start()
        for number in range(1, 4):
            self.record(log, number)
            self.assertTrue(log.flush(30))
            self.assertEqual(self.numbers(), list(range(1, number + 1)))
        self.assertTrue(log.close(30))

    def test_close_at_once(self) -> None:
        """Closing does not wait for the next look either, and ends the thread."""
        self.patch(graceful.logs.access_log, "IDLE_INTERVAL", 60.0)
        log = self.make()
        log.start()
        self.record(log, 1)
        self.assertTrue(log.close(30))
        self.assertEqual(self.numbers(), [1])
        self.assertNotIn("access log", [thread.name for thread in threading.enumerate()])

    def test_reopen_at_once(self) -> None:
        """Opening anew is done by the writer, which never finds its descriptor closed under a write."""
        self.patch(graceful.logs.access_log, "IDLE_INTERVAL", 60.0)
        log = self.make()
        log.start()
        os.rename(self.path, self.path + ".1")
        opened = threading.Event()
        thread = []

        def open_anew() -> None:
            thread.append(threading.current_thread().name)
            AccessLog._open_anew(log)
            opened.set()

        self.patch(log, "_open_anew", open_anew)
        log.reopen()
        self.assertTrue(opened.wait(30))
        self.assertEqual(thread, ["access log"])
        self.record(log, 1)
        self.assertTrue(log.close(30))
        self.assertEqual(self.numbers(), [1])

    def test_a_stuck_write_holds_up_neither_recording_nor_flush_nor_close(self) -> None:
        """A write that does not return holds up neither who records nor, for long, who flushes or closes."""
        stuck = Stuck()
        log = self.make(write=stuck.write)
        log.start()
        self.record(log, 1)
        self.assertFalse(log.flush(0.01))
        self.assertTrue(stuck.entered.wait(30))
        self.record(log, 2)
        since = time.monotonic()
        self.assertFalse(log.flush(0.01))
        self.assertFalse(log.close(0.01))
        self.assertLess(time.monotonic() - since, 10)
        stuck.let_go.set()
        self.assertTrue(log.close(30))
        self.assertEqual(self.numbers(content=stuck.content), [1, 2])

    def test_an_exchange_whose_line_cannot_be_made_costs_no_other_line(self) -> None:
        """It is told, and the thread goes on."""
        log = self.make()
        log.start()
        self.record(log, 1)
        log.record(None)  # type: ignore[arg-type]
        self.record(log, 2)
        self.assertTrue(log.flush(30))
        self.assertEqual(self.numbers(), [1, 2])
        self.assertTrue(log.close(30))
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_a_batch_that_cannot_be_kept_costs_not_the_thread(self) -> None:
        """Whatever fails in a look is told, and the next look is made all the same."""
        log = self.make()
        log.start()
        with patch.object(log, "_keep", side_effect=MemoryError):
            self.record(log, 1)
            log.flush(30)
        self.record(log, 2)
        self.assertTrue(log.flush(30))
        self.assertEqual(self.numbers(), [2])
        self.assertTrue(log.close(30))
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_at_the_end_a_look_that_fails_does_not_keep_the_file_open(self) -> None:
        """The file is closed when nothing more can be written."""
        log = self.make()
        self.record(log, 1)
        with patch.object(log, "_keep", side_effect=MemoryError):
            log.close()
        self.assertRaises(OSError, os.fstat, log._descriptor)
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_a_thread_that_has_time_makes_the_lines(self) -> None:
        """It makes them in the order of the exchanges, and the next look writes those and what came meanwhile."""
        made: list[int] = []

        def render(exchange: Any, began: float) -> str:
            made.append(threading.get_ident())
            return f"{exchange}\n"

        disk = Disk()
        log = AccessLog(self.path, write=disk.write, render=render)
        self.record(log, *range(PIECE_LINES - 1))
        log.make_lines()  # so few are left to the log's own thread
        self.assertEqual(made, [])
        self.record(log, *range(PIECE_LINES - 1, PIECE_LINES + 5))
        thread = threading.Thread(target=log.make_lines)
        thread.start()
        thread.join()
        self.assertEqual((made, disk.calls), (PIECE_LINES * [thread.ident], 0))
        self.assertEqual(log.write_pending(), PIECE_LINES + 5)
        self.assertEqual(made[PIECE_LINES:], 5 * [threading.get_ident()])
        targets = [int(found) for found in re.findall(rb"target=b'/(\d+)'", disk.content)]
        self.assertEqual(targets, list(range(PIECE_LINES + 5)))

    def test_no_thread_waits_for_another_that_makes_lines(self) -> None:
        """While one makes lines, the others have nothing to do; a flush waits until they are made."""
        entered, go_on = threading.Event(), threading.Event()

        def render(exchange: Any, began: float) -> str:
            if exchange.target == b"/1":
                entered.set()
                go_on.wait(30)
            return f"{exchange.target.decode()}\n"

        disk = Disk()
        log = AccessLog(self.path, write=disk.write, render=render)
        log.start()
        self.record(log, *range(PIECE_LINES))
        thread = threading.Thread(target=log.make_lines)
        thread.start()
        self.assertTrue(entered.wait(30))
        self.record(log, *range(PIECE_LINES, 2 * PIECE_LINES))
        log.make_lines()  # returns at once
        self.assertFalse(log.flush(0.01))
        self.assertEqual(disk.content, b"")
        go_on.set()
        thread.join()
        self.assertTrue(log.flush(30))
        self.assertEqual(disk.content, b"".join(b"/%d\n" % number for number in range(2 * PIECE_LINES)))
        self.assertTrue(log.close(30))

    def test_looks_more_often_under_load(self) -> None:
        """The writer looks four times a second, and sooner after a large batch."""
        log = self.make()
        wake = Wake(
            lambda: self.record(log, *range(99)),
            lambda: self.record(log, *range(100)),
            lambda: None,
            lambda: setattr(log, "_stop", True),
        )
        log._wake = wake  # type: ignore[assignment]
        log._run()
        self.assertEqual(wake.waited, [0.25, 0.25, 0.02, 0.25])

    def test_the_writer_does_not_keep_the_process_alive(self) -> None:
        """The writer does not keep the process alive."""
        log = self.make()
        log.start()
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "access log")
        self.assertTrue(thread.daemon)
        log.close(30)
