"""The thread that publishes reports, so that nobody else waits for a disk or a network.

Reports come in bursts: at the deadline of a drain two hundred in one instant, and then the process wants to end.  So
there is a queue with an end, and a moment after which nobody waits any more; what finds no place in the queue, cannot
be written or is not written in time goes to the log instead, whole.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.logger import Logger

from graceful.reports.outlets import Outlet, as_json, flush_sentry
from graceful.reports.writer import Report

log = Logger(namespace="graceful")


QUEUE: Final = 1000
FLUSH: Final = 2.0


class Publisher:
    """Publishes reports in a thread of its own, which is started with the first of them.

    :param outlets: where to publish them; asked for each report.
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
        """Publish a report, later.  Any thread; does not wait."""
        with self._changed:
            room = len(self._queue) < QUEUE and not self._over
            if room:
                self._queue.append(report)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="graceful-reports", daemon=True)
                    self._thread.start()
                self._changed.notify()
        if not room:
            self._keep(report, "too many wait already, or it came too late")

    def end(self) -> None:
        """No more will come: publish what there is, and let the thread end."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    @property
    def busy(self) -> bool:
        """Whether the thread still has something to do.  Any thread."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def give_up(self) -> None:
        """Wait no longer: what is not published goes to the log."""
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
