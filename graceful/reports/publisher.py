"""The thread that publishes reports, so that no other thread waits for a disk or a network.

Reports come in bursts: two hundred at once at the deadline of a drain, and then the process must end.  So the queue
is bounded, and so is the time to empty it; a report that finds no place in the queue, cannot be written or is not
written in time goes to the log instead, complete.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from graceful.reports.outlets import Outlet, as_json, flush_sentry
from graceful.reports.writer import Report
from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


#: Reports that may wait: several bursts of all threads at once.
QUEUE: Final = 1000
#: Seconds that Sentry has at the end to send what it still holds.
FLUSH: Final = 2.0


class Publisher:
    """Publishes reports in a thread of its own, which is started with the first of them.

    :param outlets: returns where to publish; called for each report.
    """

    def __init__(self, outlets: Callable[[], list[Outlet]]) -> None:
        self._outlets = outlets
        self._changed = threading.Condition()
        # Under the condition's lock:
        self._queue: deque[Report] = deque()
        self._current: Report | None = None
        self._thread: threading.Thread | None = None
        self._ending = self._over = False

    def publish(self, report: Report) -> None:
        """Queue a report to be published.  Any thread; does not block."""
        with self._changed:
            room = len(self._queue) < QUEUE and not self._over
            if room:
                self._queue.append(report)
                if self._thread is None:
                    self._start()
                self._changed.notify()
        if not room:
            self._keep(report, "too many wait already, or it came too late")

    def _start(self) -> None:
        """Start the thread; if the system refuses it, the next report tries again.  Under the condition's lock."""
        try:
            self._thread = start_thread(self._work, "graceful-reports")
        except NoThread as error:
            log.error("reports wait for a thread: {error}", error=error)

    def end(self) -> None:
        """End the thread when it has published what is queued; no more reports come."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether the thread still works.  Any thread."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def give_up(self) -> None:
        """Write the reports that are not published yet to the log."""
        with self._changed:
            self._over = True
            left = [*([self._current] if self._current is not None else []), *self._queue]
            self._queue.clear()
            self._changed.notify()
        for report in left:
            self._keep(report, "there was no more time")

    def _keep(self, report: Report, why: object) -> None:
        log.error("report {id} was not published ({why}): {report}", id=report["id"], why=why, report=as_json(report))

    def _next(self) -> Report | None:
        with self._changed:
            self._current = None
            while not self._queue and not self._ending and not self._over:
                self._changed.wait()
            if self._queue:
                self._current = self._queue.popleft()
            return self._current

    def _work(self) -> None:
        while (report := self._next()) is not None:
            for outlet in self._outlets():
                try:
                    outlet(report)
                except Exception as error:
                    self._keep(report, f"{type(error).__name__}: {error}")
        flush_sentry(FLUSH)
