"""The exchanges of a worker that has died are named in the log, and reported."""

from __future__ import annotations

import json
from typing import Any

from graceful.process.exit import REPORTS
from graceful.reports.reporter import Reporter
from graceful.workers.crash_reports import CrashReports
from tests.fast.workers.workforce import Workforce

SEEN = {
    "id": "1001-7",
    "method": "GET",
    "path": "/slow",
    "phase": "in the application",
    "age": 2.5,
    "bytes_sent": 0,
    "bytes_total": None,
    "peer": "192.0.2.7",
    "thread": "graceful-1",
}


class Published:
    """Collects reports, as a publisher that is busy for as long as a test wants."""

    def __init__(self) -> None:
        self.reports: list[dict[str, Any]] = []
        self.busy = True
        self.calls: list[str] = []

    def publish(self, report: dict[str, Any]) -> None:
        self.reports.append(report)

    def end(self) -> None:
        self.calls.append("end")

    def give_up(self) -> None:
        self.calls.append("give up")


class CrashReportsTests(Workforce):
    """A worker that has died, and reports of its exchanges."""

    def setUp(self) -> None:
        """Have a worker die."""
        super().setUp()
        self.wanted = True
        reports = Reporter()
        self.published = Published()
        self.patch(Reporter, "wanted", property(lambda ignored: self.wanted))
        reports.publisher = self.published  # type: ignore[assignment]
        self.crash_reports = CrashReports(reports, self.clock)
        self.worker = self.open()[0]
        self.worker.status = -9
        self.lines()

    def named(self) -> list[dict[str, Any]]:
        """Returns the exchanges that the log names."""
        said, *interrupted = self.lines()
        self.assertRegex(said, r"worker 1, process \d+, has ended with signal 9; it had \d in flight when it was")
        found: list[dict[str, Any]] = json.loads(interrupted[0].partition(": ")[2]) if interrupted else []
        return found

    def test_logs_each_exchange_with_its_report(self) -> None:
        """The log names each exchange that was lost, with its report."""
        self.worker.picture = {"in_flight": [SEEN], "in_flight_count": 1}
        self.crash_reports.of(self.worker)
        (report,) = self.published.reports
        (line,) = self.named()
        self.assertEqual((line["report"], line["outcome"], line["url"]), (report["id"], "lost", "/slow"))
        self.assertEqual((report["kind"], report["exchange"], report["duration"]), ("lost", "1001-7", 2.5))
        self.assertIn("has ended with signal 9", report["value"])

    def test_exchanges_are_named_without_reports(self) -> None:
        """Without a place for reports, the log still names the exchanges."""
        self.wanted = False
        self.worker.picture = {"in_flight": [SEEN], "in_flight_count": 1}
        self.crash_reports.of(self.worker)
        self.assertEqual((self.published.reports, self.named()[0]["report"]), ([], None))

    def test_a_worker_without_exchanges_has_nothing_to_name(self) -> None:
        """For a worker that had nothing in flight, no exchange is named."""
        for picture in ({}, {"in_flight": [], "in_flight_count": 0}):
            self.worker.picture = picture
            self.crash_reports.of(self.worker)
            self.assertEqual((self.named(), self.published.reports), ([], []))

    def test_end_waits_for_reports_within_a_limit(self) -> None:
        """The end waits for reports that are being written, within a limit."""
        for waits, done in ((1.0, False), (REPORTS + 1, True)):
            ended: list[bool] = []
            self.published.calls.clear()
            self.published.busy = True
            self.crash_reports.end(lambda ended=ended: ended.append(True))  # type: ignore[misc]
            self.clock.pump([0.5] * int(waits / 0.5))
            self.assertEqual((bool(ended), self.published.calls[-1] == "give up"), (done, done))
            self.published.busy = False
            self.clock.advance(1)
            self.assertEqual((ended, self.published.calls), ([True], ["end", "give up"]))
