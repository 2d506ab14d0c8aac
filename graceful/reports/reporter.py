"""The server's entry to reports: which events are reported."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import uuid4

from graceful.reports.interruption import Interruption
from graceful.reports.outlets import Outlet, added, directory, sentry, to_sentry
from graceful.reports.publisher import Publisher
from graceful.reports.writer import ReportWriter
from graceful.web.exchange import Exchange

#: The kind of a report: the application has raised.
ERROR: Final = "error"
#: The kind of a report: the application has raised DeadlineExceeded.
DEADLINE: Final = "deadline"


class Reporter:
    """Makes reports, and has them published.

    :param path: the directory for reports; None for none.
    :param hide: names of query values and header fields that must not be shown.
    """

    def __init__(self, path: str | None = None, hide: Collection[str] = ()) -> None:
        self._directory = [directory(path)] if path is not None else []
        self.writer = ReportWriter(hide)
        self.publisher = Publisher(self._outlets)

    def _outlets(self) -> list[Outlet]:
        return [*self._directory, *([to_sentry] if sentry() is not None else []), *added]

    @property
    def wanted(self) -> bool:
        """Whether reports go anywhere."""
        return bool(self._outlets())

    @staticmethod
    def new_id() -> str:
        """Return a unique id for a report, in the form of OOPS.  Any thread."""
        return f"OOPS-{uuid4().hex}"

    def taken_down(self, what: Interruption) -> None:
        """Report an exchange that was taken down: its thread has ended, or is abandoned.  Reactor thread.

        Only the first call for an exchange counts.
        """
        if not what.reported:
            what.reported = True
            if self.wanted:
                self.publisher.publish(self.writer.interruption(what))

    def slow(self, exchange: Exchange, why: str, stack: str) -> None:
        """Report an exchange that has taken too long.  Reactor thread.

        :param why: the limit that it has exceeded.
        :param stack: of its thread when it did.
        """
        if self.wanted:
            self.publisher.publish(self.writer.slow(exchange, why, stack))

    def failed(self, exchange: Exchange, kind: str, error: BaseException) -> None:
        """Report that the application has raised.  In the exchange's thread, while the exception is handled.

        :param kind: `ERROR`, or `DEADLINE` if the application has found that its time is over.
        """
        if self.wanted:
            self.publisher.publish(self.writer.failure(exchange, kind, error))
