"""Reports: what is in them, what must not be, and that none is lost when publishing fails."""

from __future__ import annotations

import builtins
import io
import json
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import skipIf

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.reports import outlets
from graceful.reports import publisher as publisher_module
from graceful.reports.interruption import Interruption
from graceful.reports.outlets import JsonFiles, as_json, directory, to_sentry
from graceful.reports.publisher import Publisher
from graceful.reports.reporter import ERROR, Reporter
from graceful.reports.writer import HIDDEN, Report, ReportWriter
from graceful.web.exchange import APPLICATION, Exchange
from graceful.wsgi.runner import Runner
from tests.fast.doubles import Case, get, parse_answers
from tests.support.reports import NO_OOPS
from tests.support.waiting import wait_for

SOON = 10
SECRET = (
    b"GET /a?token=secret&page=1&To%6Ben=secret&flag HTTP/1.1\r\nHost: site.example\r\n"
    b"Cookie: id=secret\r\nAuthorization: Basic secret\r\nX-Key: secret\r\nAccept: a\r\nAccept: b\r\n\r\n"
)


def report(number: int = 1, **more: Any) -> Report:
    """A report."""
    return {"id": f"OOPS-{number}", "time": datetime(2026, 11, 24, tzinfo=timezone.utc), "kind": "error", **more}


class WriterTests(Case):
    """The content of a report."""

    def setUp(self) -> None:
        """With two names that are hidden."""
        super().setUp()
        self.writer = ReportWriter(["Token", "x-key"])

    def interruption(self, data: bytes = get(1), **more: Any) -> Interruption:
        """Something that was interrupted."""
        _, exchange = self.ask(data)
        exchange.phase, exchange.report = APPLICATION, "OOPS-1"
        what = Interruption.of(exchange, "at the deadline", exchange.started + 12.5, "the stack")
        for name, value in more.items():
            setattr(what, name, value)
        return what

    def test_takedown_report_has_the_facts(self) -> None:
        """A takedown's report has everything by which the request can be found and understood."""
        told = self.writer.interruption(self.interruption(down=True, story=["raised it"]))
        self.assertEqual(
            {
                key: told[key]
                for key in ("id", "kind", "type", "method", "url", "client", "duration", "phase", "sent")
            },
            {
                "id": "OOPS-1",
                "kind": "takedown",
                "type": "Takedown",
                "method": "GET",
                "url": "http://a/1",
                "client": "192.0.2.1",
                "duration": 12.5,
                "phase": "in the application",
                "sent": 0,
            },
        )
        self.assertEqual(
            (told["tb_text"], told["takedown"], told["thread"]), ("the stack", ["raised it"], "came down")
        )
        self.assertEqual(told["value"], "taken down at the deadline after 12.5 s")
        self.assertEqual(self.writer.interruption(self.interruption(down=False))["thread"], "abandoned")
        self.assertEqual(self.writer.interruption(self.interruption())["thread"], "none")

    def test_cookies_and_credentials_are_hidden(self) -> None:
        """Cookies, credentials, and what the operator has named do not stand in it."""
        told = self.writer.interruption(self.interruption(SECRET))
        self.assertNotIn("secret", as_json(told))
        self.assertEqual(told["url"], f"http://site.example/a?token={HIDDEN}&page=1&To%6Ben={HIDDEN}&flag")
        self.assertEqual(told["req_vars"]["HTTP_COOKIE"], HIDDEN)
        self.assertEqual(told["req_vars"]["HTTP_ACCEPT"], "a, b")
        self.assertNotIn("secret", as_json(self.writer.line(self.interruption(SECRET))))

    def test_has_the_applications_timeline(self) -> None:
        """A timeline that the application keeps is in it; something else of that name is no harm."""
        action = SimpleNamespace(logTuple=lambda: (0, 5, "sql", "select", None))
        environ = {"timeline.timeline": SimpleNamespace(actions=[action])}
        told = self.writer.interruption(self.interruption(environ=environ))
        self.assertEqual(told["timeline"], [[0, 5, "sql", "select", None]])
        told = self.writer.interruption(self.interruption(environ={"timeline.timeline": 5}))
        self.assertEqual(told["timeline"], [])

    def test_drain_line_has_the_outcome(self) -> None:
        """The line of a drain names it, and what became of it."""
        told = self.writer.line(self.interruption(down=False))
        self.assertEqual((told["report"], told["age"], told["outcome"]), ("OOPS-1", 12.5, "abandoned"))
        self.assertEqual(self.writer.line(self.interruption())["outcome"], "taken down")

    @skipIf(NO_OOPS, NO_OOPS)
    def test_can_be_written_as_bson(self) -> None:
        """A report can be written as BSON."""
        from oops_datedir_repo import serializer_bson

        told = self.writer.interruption(self.interruption(SECRET))
        file = io.BytesIO()
        serializer_bson.write(told, file)
        file.seek(0)
        self.assertEqual(serializer_bson.read(file)["url"], told["url"])


class FailureTests(Case):
    """An application that fails."""

    def test_reports_traceback_and_tells_the_id(self) -> None:
        """A failure is reported with its traceback, and the client is told the id."""
        found: list[Report] = []
        self.patch(outlets, "added", [])
        reports = Reporter()
        self.patch(reports.publisher, "publish", found.append)

        def application(environ: Any, start_response: Any) -> Any:
            raise ZeroDivisionError("on purpose")

        def answer(exchange: Exchange) -> None:
            exchange.handler = SimpleNamespace(application=application)
            Runner(reports)(exchange)

        self.engine.handler.answer = answer
        client = self.engine.connect().send(get(1))
        (answered,) = parse_answers(client.take())
        self.assertEqual(found, [], "with nobody to publish it, none is made")
        self.patch(reports, "_outlets", lambda: [print])
        client = self.engine.connect().send(get(1))
        (answered,) = parse_answers(client.take())
        (told,) = found
        self.assertEqual((answered.status, answered.fields["x-oops-id"]), (500, told["id"]))
        self.assertEqual((told["kind"], told["type"], told["value"]), (ERROR, "ZeroDivisionError", "on purpose"))
        self.assertIn("in application", told["tb_text"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)


class PublisherTests(SynchronousTestCase):
    """The thread that publishes."""

    def setUp(self) -> None:
        """With one outlet."""
        self.outlets: list[Callable[[Report], object]] = []
        self.published: list[str] = []
        self.outlets.append(lambda report: self.published.append(report["id"]))
        self.publisher = Publisher(lambda: self.outlets)
        self.addCleanup(self.publisher.end)

    def unpublished(self, events: list[Any]) -> list[str]:
        """The ids of the reports that are in the log, whole."""
        texts = [formatEvent(event) for event in events]
        lines = [text.partition(": {")[2] for text in texts if "was not published" in text]
        return [json.loads("{" + line)["id"] for line in lines]

    def test_publishes_all_in_a_thread(self) -> None:
        """All are published, in another thread, which ends when it is told to."""
        threads: set[int] = set()
        self.outlets.append(lambda report: threads.add(threading.get_ident()))
        for number in range(200):
            self.publisher.publish(report(number))
        self.publisher.end()
        wait_for(lambda: not self.publisher.busy)
        self.assertEqual(self.published, [f"OOPS-{number}" for number in range(200)])
        self.assertNotIn(threading.get_ident(), threads)

    def test_starts_no_thread_without_reports(self) -> None:
        """With nothing to publish there is no thread."""
        self.assertFalse(self.publisher.busy)
        self.publisher.end()
        self.assertFalse(self.publisher.busy)

    def test_logs_what_cannot_be_published(self) -> None:
        """A report that cannot be published is in the log; other outlets, and other reports, are not affected."""
        self.outlets.insert(0, lambda report: 1 / 0)
        with capturedLogs() as events:
            self.publisher.publish(report(1))
            self.publisher.publish(report(2))
            self.publisher.end()
            wait_for(lambda: not self.publisher.busy)
        self.assertEqual(self.unpublished(events), ["OOPS-1", "OOPS-2"])
        self.assertIn("ZeroDivisionError", formatEvent(events[0]))
        self.assertEqual(self.published, ["OOPS-1", "OOPS-2"])

    def hang(self) -> Callable[[], None]:
        """Have an outlet that hangs until the returned function is called."""
        begun, end = threading.Event(), threading.Event()
        self.addCleanup(end.set)

        def outlet(report: Report) -> None:
            begun.set()
            end.wait(SOON)

        self.outlets[:] = [outlet]
        self.publisher.publish(report(0))
        self.assertTrue(begun.wait(SOON))
        return end.set

    def test_logs_what_does_not_fit_the_queue(self) -> None:
        """A report that does not fit the queue is in the log at once."""
        self.patch(publisher_module, "QUEUE", 2)
        self.hang()
        with capturedLogs() as events:
            for number in range(1, 5):
                self.publisher.publish(report(number))
        self.assertEqual(self.unpublished(events), ["OOPS-3", "OOPS-4"])

    def test_logs_what_is_not_published_in_time(self) -> None:
        """Reports that are not published in time, or come later, are in the log; nothing blocks."""
        self.hang()
        self.publisher.publish(report(1))
        self.publisher.end()
        with capturedLogs() as events:
            self.publisher.give_up()
            self.publisher.publish(report(2))
        self.assertEqual(self.unpublished(events), ["OOPS-0", "OOPS-1", "OOPS-2"])

    def test_application_adds_an_outlet(self) -> None:
        """The application can add an outlet of its own."""
        self.patch(outlets, "added", [])

        @graceful.on_report
        def mine(report: Report) -> None: ...

        self.assertEqual(outlets.added, [mine])


class DirectoryTests(SynchronousTestCase):
    """Reports in a directory."""

    def setUp(self) -> None:
        """Have one."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name)

    @skipIf(NO_OOPS, NO_OOPS)
    def test_writes_oops_with_the_extra(self) -> None:
        """With the extra they are OOPS reports, which its own tools read."""
        from oops_datedir_repo.serializer import read

        directory(str(self.path))(report(tb_text="a stack"))
        (path,) = self.path.glob("*-*-*/OOPS-*")
        with path.open("rb") as file:
            found = read(file)
        self.assertEqual((found["id"], found["tb_text"]), ("OOPS-1", "a stack"))

    def test_writes_json_without_the_extra(self) -> None:
        """Without it each is a JSON file."""
        real = builtins.__import__

        def without_oops(name: str, *more: Any) -> Any:
            if name.startswith("oops"):
                raise ImportError(name)
            return real(name, *more)

        self.patch(builtins, "__import__", without_oops)
        directory(str(self.path))(report(tb_text="a stack"))
        text = (self.path / "2026-11-24" / "OOPS-1.json").read_text()
        self.assertEqual(json.loads(text), {**report(tb_text="a stack"), "time": "2026-11-24T00:00:00+00:00"})

    def test_removes_incomplete_file(self) -> None:
        """A file that cannot be completed is not left behind."""
        self.patch(os, "rename", self.fails)
        self.assertRaises(OSError, JsonFiles(str(self.path)), report())
        self.assertEqual([path for path in self.path.rglob("*") if path.is_file()], [])

    def fails(self, *ignored: object) -> None:
        """Have no room."""
        raise OSError(28, "No space left on device")


class SentryTests(SynchronousTestCase):
    """Events for Sentry."""

    def setUp(self) -> None:
        """Have a client that keeps what it is given."""
        self.events: list[dict[str, Any]] = []
        self.ready = True
        fake = SimpleNamespace(is_initialized=lambda: self.ready, capture_event=self.events.append)
        self.patch(sys, "modules", {**sys.modules, "sentry_sdk": fake})

    def full(self) -> Report:
        """A report with everything that an event needs."""
        stack = '  File "/srv/app.py", line 5, in view\n    wait()\n  File "/srv/db.py", line 7, in wait\n    x\n'
        more = {
            "type": "Takedown",
            "value": "v",
            "tb_text": stack,
            "request_id": "r",
            "topic": "GET /",
            "method": "GET",
        }
        return report(url="http://a/", req_vars={"HTTP_ACCEPT": "a"}, duration=1.5, **more)

    def test_event_has_stack_request_and_id(self) -> None:
        """An event has the stack, the request, and the id."""
        to_sentry(self.full())
        (event,) = self.events
        frames = event["exception"]["values"][0]["stacktrace"]["frames"]
        self.assertEqual(
            [(frame["filename"], frame["function"]) for frame in frames], [("app.py", "view"), ("db.py", "wait")]
        )
        self.assertEqual((event["tags"]["oops"], event["extra"]["duration"]), ("OOPS-1", 1.5))
        self.assertEqual(event["request"]["headers"], {"ACCEPT": "a"})

    def test_sends_nothing_if_not_initialised(self) -> None:
        """An application that has only imported Sentry gets no events."""
        self.ready = False
        to_sentry(self.full())
        self.assertEqual(self.events, [])
