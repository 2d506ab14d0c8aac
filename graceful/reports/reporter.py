"""What the rest of the server knows of reports: that something deserves one."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import uuid4

from graceful.reports.interruption import Interruption
from graceful.reports.outlets import Outlet, added, directory, sentry, to_sentry
from graceful.reports.publisher import Publisher
from graceful.reports.writer import ReportWriter
from graceful.web.exchange import Exchange

ERROR: Final = "error"
DEADLINE: Final = "deadline"


class Reporter:
    """Makes reports, and has them published.

    :param path: the directory that they are written to; None for none.
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
        """An id that no other report has, in the form that OOPS gives them.  Any thread."""
        return f"OOPS-{uuid4().hex}"

    def taken_down(self, what: Interruption) -> None:
        """What was taken down has come to its end, or is abandoned.  Reactor thread; only the first call counts."""
        if not what.reported:
            what.reported = True
            if self.wanted:
                self.publisher.publish(self.writer.interruption(what))

    def slow(self, exchange: Exchange, why: str, stack: str) -> None:
        """An exchange has taken longer than it should.  Reactor thread."""
        if self.wanted:
            self.publisher.publish(self.writer.slow(exchange, why, stack))

    def failed(self, exchange: Exchange, kind: str, error: BaseException) -> None:
        """The application has raised.  In the exchange's thread, while the exception is handled.

        :param kind: `ERROR`, or `DEADLINE` for one that has run out of time by itself.
        """
        if self.wanted:
            self.publisher.publish(self.writer.failure(exchange, kind, error))
