"""Where reports go: a directory, Sentry, and the outlets that the application adds.

An outlet is a callable that takes one report, in the publisher's thread.  It may block; if it raises, the report goes
to the log, with the error.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from graceful.reports.writer import Report

Outlet = Callable[[Report], object]

#: One frame of a traceback, as Python prints it: path, line and function.
_FRAME: Final = re.compile(r'^ *File "(.+)", line (\d+), in (.+)$', re.MULTILINE)

#: The outlets that the application has added, in order; any thread.
added: Final[list[Outlet]] = []


def on_report(outlet: Outlet) -> Outlet:
    """Have a function called with each report, a dictionary, in a thread of its own; can be used as a decorator.

    It may block, but all reports wait for it.  If it raises, that is logged with the report.

    :param outlet: takes the report, which it must not change.
    :return: the function.
    """
    added.append(outlet)
    return outlet


def as_json(what: object) -> str:
    """Return a report, or several, as JSON in one line."""
    return json.dumps(what, default=_plain)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def directory(path: str) -> Outlet:
    """Return an outlet that writes reports to a directory.

    With the extra `graceful-app[oops]` it writes OOPS reports, for the tools of OOPS; else JSON files.
    """
    try:
        from oops import Config
        from oops_datedir_repo import DateDirRepo
    except ImportError:
        return JsonFiles(path)
    config = Config()
    config.publisher = DateDirRepo(path, inherit_id=True).publish
    return lambda report: config.publish(dict(report))


class JsonFiles:
    """Writes each report to a file of its own, which is complete when it gets its name.

    :param path: the directory; it gets a subdirectory for each day, as with OOPS.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, report: Report) -> None:
        day = os.path.join(self._path, report["time"].strftime("%Y-%m-%d"))
        os.makedirs(day, exist_ok=True)
        path = os.path.join(day, f"{report['id']}.json")
        try:
            with open(f"{path}.tmp", "w") as file:
                file.write(as_json(report) + "\n")
            os.rename(f"{path}.tmp", path)
        except OSError:
            if os.path.exists(f"{path}.tmp"):
                os.unlink(f"{path}.tmp")
            raise


def sentry() -> Any:
    """Return the module `sentry_sdk` if the application has initialised it; else None."""
    sdk = sys.modules.get("sentry_sdk")
    return sdk if sdk is not None and sdk.is_initialized() else None


def to_sentry(report: Report) -> None:
    """Send a report to Sentry, as an event."""
    sdk = sentry()
    if sdk is None:
        return
    exception: dict[str, Any] = {
        "type": report["type"],
        "value": report["value"],
        "mechanism": {"type": "graceful", "handled": False},
    }
    frames = [
        {"abs_path": path, "filename": os.path.basename(path), "lineno": int(number), "function": function}
        for path, number, function in _FRAME.findall(report["tb_text"])
    ]
    if frames:
        exception["stacktrace"] = {"frames": frames}
    tags = {"oops": report["id"], "kind": report["kind"], "request_id": report["request_id"]}
    shown = ("kind", "type", "value", "req_vars", "time", "url", "method")
    sdk.capture_event(
        {
            "level": "warning" if report["kind"] == "slow" else "error",
            "logger": "graceful",
            "timestamp": report["time"],
            "transaction": report["topic"],
            "exception": {"values": [exception]},
            "request": {
                "url": report["url"],
                "method": report["method"],
                "headers": {key.removeprefix("HTTP_"): value for key, value in report["req_vars"].items()},
            },
            "tags": tags,
            "extra": {key: value for key, value in report.items() if key not in shown},
        }
    )


def flush_sentry(seconds: float) -> None:
    """Have Sentry send the events that it still holds.

    :param seconds: how long to wait for it, at most.
    """
    sdk = sentry()
    if sdk is not None:
        sdk.flush(timeout=seconds)
