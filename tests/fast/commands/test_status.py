"""The texts of `graceful status` and `graceful top`, for one process and for several workers."""

from __future__ import annotations

import io
import os
import time
from argparse import ArgumentTypeError
from typing import Any

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from graceful.commands.common import exchange_id
from graceful.commands.status import text_of
from graceful.commands.top import picture

PLAIN: dict[str, Any] = {
    "pid": 4700,
    "state": "finishing",
    "since": 0,
    "deadline": 100.0,
    "sockets": [{"name": "tcp:0.0.0.0:8080", "state": "closed"}, {"name": "unix:/run/x", "state": "closed"}],
    "in_flight": [
        {
            "id": 17,
            "method": "GET",
            "path": "/report",
            "phase": "sending",
            "age": 75.3,
            "bytes_sent": 512,
            "bytes_total": 2048,
            "peer": "192.0.2.1",
            "thread": "graceful-3",
        }
    ],
    "in_flight_count": 1,
    "threads": {"busy": 1, "size": 20, "queued": 0},
    "connections": {"idle": 2, "busy": 1},
    "finished": 41,
    "taken_down": 0,
    "latest_exit": 112.0,
    "rotation": "leaving",
    "app_version": "r42",
}
TEXT = """\
process 4700: finishing since 1970-01-01 00:00:00, version r42
  deadline     in 1 min 40 s, gone at the latest in 1 min 52 s
  sockets      tcp:0.0.0.0:8080 closed
               unix:/run/x closed
  threads      1 of 20 busy, 0 requests wait
  connections  1 busy, 2 idle
  finished     41, taken down 0
  in flight    1
  ID         AGE  PHASE    SENT                     THREAD      PEER       REQUEST
  17  1 min 15 s  sending  512 B of 2.0 KiB (25 %)  graceful-3  192.0.2.1  GET /report"""
WORKERS = [
    {
        "number": 1,
        "pid": 4711,
        "state": "finishing",
        "in_flight_count": 1,
        "threads": {"busy": 1, "size": 20, "queued": 0},
        "memory": 90_000_000,
    },
    {"number": 2, "pid": 4712, "state": "silent", "in_flight_count": None, "threads": None, "memory": None},
]


class StatusTextTests(SynchronousTestCase):
    """A status in words."""

    def setUp(self) -> None:
        """Have the time of nowhere in particular."""
        before = os.environ.get("TZ")
        os.environ["TZ"] = "UTC"
        time.tzset()

        def restore() -> None:
            os.environ.pop("TZ")
            if before is not None:
                os.environ["TZ"] = before
            time.tzset()

        self.addCleanup(restore)

    def test_plain_instance_shows_no_workers(self) -> None:
        """The text of a plain instance does not mention workers."""
        self.assertEqual(text_of(PLAIN), TEXT)

    def test_moved_connections_are_told(self) -> None:
        """They are told once there are any, in either direction."""
        for moved, expected in (
            ({"in": 0, "out": 0}, "2 idle\n"),
            ({"in": 38, "out": 0}, "2 idle, 38 moved here\n"),
            ({"in": 38, "out": 5}, "2 idle, 38 moved here, 5 moved to the successor\n"),
        ):
            self.assertIn(f"  connections  1 busy, {expected}", text_of({**PLAIN, "moved": moved}))

    def test_each_worker_has_a_line(self) -> None:
        """Each has a line with what is known of it; an exchange has the id that it can be taken down by."""
        told = {
            **PLAIN,
            "in_flight": [{**PLAIN["in_flight"][0], "id": "4711-17", "worker": 4711}],
            "workers": WORKERS,
        }
        text = text_of(told)
        self.assertIn(
            "  workers      1, process 4711: finishing, 1 in flight, 1 of 20 threads busy, 85.8 MiB\n"
            "               2, process 4712: silent\n"
            "  in flight    1\n"
            "       ID  ",
            text,
        )
        self.assertIn("\n  4711-17  1 min 15 s  sending", text)

    def test_top_shows_workers(self) -> None:
        """The live picture shows the workers, too."""
        for told, expected in ((PLAIN, False), ({**PLAIN, "workers": WORKERS}, True)):
            console = Console(file=io.StringIO(), width=120)
            console.print(picture(told))
            shown = console.file.getvalue()  # type: ignore[attr-defined]
            self.assertEqual("worker 1, process 4711: finishing, 1 in flight" in shown, expected)
            self.assertEqual("worker 2, process 4712: silent" in shown, expected)
            self.assertIn("GET /report", shown)

    def test_ids_are_a_number_or_pid_and_number(self) -> None:
        """An exchange is named by its number, or by its worker's process and its number."""
        for text in ("17", "4712-17"):
            self.assertEqual(exchange_id(text), text)
        for text in ("", "x", "-17", "4712-", "4712-17-3", "17/../stop", "1\n", "²"):
            self.assertRaises(ArgumentTypeError, exchange_id, text)
