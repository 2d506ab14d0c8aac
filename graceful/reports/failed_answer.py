"""What becomes of an exchange whose application has raised: its answer, a line in the log, and a report."""

from __future__ import annotations

from asyncio import CancelledError

from twisted.logger import Logger

from graceful.application.deadlines import DeadlineExceeded, Takedown
from graceful.reports.reporter import DEADLINE, ERROR, Reporter
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.site import RETRY_AFTER

log = Logger(namespace="graceful")


def answer_failure(exchange: Exchange, error: BaseException, reports: Reporter) -> None:
    """Answer 500 for an application that raised; if its answer has begun, cut the body visibly.

    In the `except` block, in the thread that ran the application, and never while a takedown's exception may be
    raised there.
    """
    owed = report_failure(exchange, error, reports)
    if owed is not None:
        try:
            exchange.fail(*owed)
        except Disconnected:
            exchange.abandon()


def report_failure(exchange: Exchange, error: BaseException, reports: Reporter) -> tuple[int, str] | None:
    """Log and report an application that raised; where :func:`answer_failure` does.

    :returns: the status of the answer that its client is owed, and more lines of its head; None if it is owed none.
    """
    if isinstance(error, Disconnected):
        exchange.abandon()
        return None
    if exchange.takedown is not None:
        # The client has its answer.  The application may have turned the takedown into another exception.
        exchange.abandon()
        if not isinstance(error, Takedown | CancelledError):
            log.info("{exchange}: the takedown ended in {error!r}", exchange=exchange, error=error)
        return None
    exchange.report = exchange.report or reports.new_id()
    if isinstance(error, DeadlineExceeded):
        kind, status, extra = DEADLINE, 503, RETRY_AFTER
        log.warn(
            "{exchange} [{request}]: {error} ({report})",
            exchange=exchange,
            request=exchange.request_id,
            error=error,
            report=exchange.report,
        )
    else:
        kind, status, extra = ERROR, 500, ""
        log.failure(
            "{exchange} [{request}]: the application failed ({report})",
            exchange=exchange,
            request=exchange.request_id,
            report=exchange.report,
        )
    exchange.error = status
    reports.failed(exchange, kind, error)
    return status, extra
