"""One report as a dictionary, with the keys of OOPS where OOPS has one.

All values can be written as JSON and as BSON, and none is a secret: cookies and credentials are hidden, and so are
the names that the operator has given.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Collection
from datetime import datetime, timezone
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote_plus

from graceful.reports.interruption import Interruption
from graceful.web.exchange import PHASES, Exchange

#: Stands in place of a secret.
HIDDEN: Final = "<hidden>"
#: Header fields that are never shown, by lower-case name.
ALWAYS_HIDDEN: Final = frozenset({"cookie", "authorization", "proxy-authorization"})
#: The key of the WSGI environ under which the package `timeline` keeps its timeline.
TIMELINE: Final = "timeline.timeline"

Report = dict[str, Any]


class ReportWriter:
    """Makes reports of exchanges.

    :param hide: names of query values and header fields that must not be shown, besides cookies and credentials.
    """

    def __init__(self, hide: Collection[str] = ()) -> None:
        self._hide = frozenset(name.lower() for name in hide)
        self._hostname = socket.gethostname()

    def facts(self, exchange: Exchange, age: float, phase: str, sent: int, environ: dict[str, Any] | None) -> Report:
        """Return what every report has: which exchange it is, and how far it was.

        :param age: seconds.
        :param sent: bytes of its answer.
        """
        report: Report = {
            "id": exchange.report,
            "time": datetime.now(timezone.utc),
            "reporter": "graceful",
            "hostname": self._hostname,
            "pid": os.getpid(),
            "topic": f"{exchange.method} {exchange.shown_target.partition('?')[0]}",
            "exchange": exchange.id,
            "request_id": exchange.request_id,
            "trace_id": exchange.trace_id,
            "method": exchange.method,
            "url": self.url(exchange),
            "client": exchange.peer or "unix",
            "status": exchange.status,
            "duration": round(age, 3),
            "phase": phase,
            "sent": sent,
            "req_vars": self._fields(exchange),
        }
        timeline = environ.get(TIMELINE) if environ is not None else None
        if timeline is not None:
            report["timeline"] = _timeline(timeline)
        return report

    def interruption(self, what: Interruption) -> Report:
        """Return the report of an exchange that was taken down."""
        report = self.facts(what.exchange, what.age, what.phase, what.sent, what.environ)
        report["status"] = what.status  # the exchange's own is what its thread has said since
        report["kind"] = "takedown"
        report["type"] = "Takedown"
        report["value"] = f"taken down {what.why} after {what.age:.1f} s"
        report["tb_text"] = what.stack
        report["takedown"] = what.story
        report["thread"] = {None: "none", True: "came down", False: "abandoned"}[what.down]
        return report

    def failure(self, exchange: Exchange, kind: str, error: BaseException) -> Report:
        """Return the report of an application that has raised.  In its thread, while it handles the exception."""
        report = self._now(exchange)
        report["kind"] = kind
        report["type"] = type(error).__name__
        report["value"] = str(error)
        report["tb_text"] = "".join(traceback.format_exception(error))
        return report

    def slow(self, exchange: Exchange, why: str, stack: str) -> Report:
        """Return the report of an exchange that has taken too long."""
        report = self._now(exchange)
        report["kind"] = "slow"
        report["type"] = "Slow"
        report["value"] = f"took {report['duration']:.1f} s, longer than {why}"
        report["tb_text"] = stack
        return report

    def line(self, what: Interruption) -> Report:
        """Return the entry of an exchange that was taken down in the last line of a drain."""
        exchange = what.exchange
        return {
            "exchange": exchange.id,
            "request_id": exchange.request_id,
            "report": exchange.report,
            "method": exchange.method,
            "url": self.url(exchange),
            "client": exchange.peer or "unix",
            "age": round(what.age, 3),
            "phase": what.phase,
            "sent": what.sent,
            "outcome": what.outcome,
        }

    def url(self, exchange: Exchange) -> str:
        """Return the URL of the request, without the values that must not be shown."""
        host = next((value.decode("latin-1") for name, value in exchange.headers if name.lower() == b"host"), "")
        path, mark, query = exchange.shown_target.partition("?")
        return f"{exchange.scheme}://{host}{path}{mark}{'&'.join(map(self._value, query.split('&')))}"

    def _value(self, pair: str) -> str:
        name, equals, _ = pair.partition("=")
        return name + equals + HIDDEN if equals and unquote_plus(name).lower() in self._hide else pair

    def _fields(self, exchange: Exchange) -> dict[str, str]:
        """Return the header fields by their names in CGI."""
        fields: dict[str, str] = {}
        for raw, value in exchange.headers:
            name = raw.decode("latin-1").lower()
            key = "HTTP_" + name.upper().replace("-", "_")
            hidden = name in ALWAYS_HIDDEN or name in self._hide
            shown = HIDDEN if hidden else value.decode("latin-1")
            fields[key] = f"{fields[key]}, {shown}" if key in fields else shown
        return fields

    def _now(self, exchange: Exchange) -> Report:
        age = (exchange.ended or monotonic()) - exchange.started
        return self.facts(exchange, age, PHASES[exchange.phase], exchange.sent, exchange.environ)


def _timeline(timeline: Any) -> list[list[Any]]:
    """Return the timeline of the package `timeline`: of each action start and end in ms, category, detail, stack."""
    try:
        return [list(action.logTuple()) for action in list(timeline.actions)]
    except Exception:
        return []  # something else of that name
