"""`graceful top`: shows what is in flight, live in a terminal, with `rich` from the extra `graceful-app[cli]`."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graceful.commands.common import DONE, connect, control_path
from graceful.commands.status import moved_of, row_of, worker_of
from graceful.control.client import ControlClient, Vanished
from graceful.humanize import duration

_STYLES: Final = {"serving": "bold green", "starting": "bold cyan", "takedown": "bold red", "gone": "bold"}

#: Seconds between two drawings at least: faster helps no reader, and costs the server.
_FASTEST: Final = 0.1


def top(arguments: argparse.Namespace) -> int:
    """Show a server's status until the server is gone, or Ctrl-C."""
    console = Console()
    with connect(control_path(arguments)) as client:
        try:
            with Live(picture(_look(client, console)), console=console, screen=console.is_terminal) as live:
                while True:
                    time.sleep(max(_FASTEST, arguments.interval))
                    live.update(picture(_look(client, console)), refresh=True)
        except Vanished:
            console.print("the server is gone")
        except KeyboardInterrupt:
            pass
    return DONE


def _look(client: ControlClient, console: Console) -> dict[str, Any]:
    room = max(1, console.height - 7)
    status: dict[str, Any] = client.get(f"/status?limit={room}")
    status["in_flight"] = status["in_flight"][: max(1, room - len(status.get("workers", ())))]
    return status


def picture(status: dict[str, Any]) -> RenderableType:
    """Returns the contents of the screen."""
    head = Text.assemble(
        (f" {status['state']} ", f"reverse {_STYLES.get(status['state'], 'bold yellow')}"),
        f"  process {status['pid']}",
        f"  version {status['app_version']}" if status["app_version"] else "",
        "  out of the rotation" if status["rotation"] == "away" else "",
        (f"  deadline in {duration(status['deadline'])}", "bold") if status["deadline"] is not None else "",
    )
    threads, connections = status["threads"], status["connections"]
    facts = Text(
        f" in flight {status['in_flight_count']}   threads {threads['busy']}/{threads['size']}   "
        f"waiting {threads['queued']}   connections {connections['busy']} busy, {connections['idle']} idle"
        f"{moved_of(status)}   "
        f"finished {status['finished']}   taken down {status['taken_down']}"
    )
    sockets = Text(" " + "   ".join(f"{socket['name']} {socket['state']}" for socket in status["sockets"]), "dim")
    workers = [Text(f" worker {worker_of(worker)}", "dim") for worker in status.get("workers", ())]
    table = Table(box=None, expand=True, header_style="dim")
    for title in ("id", "age"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("phase", "sent", "thread", "peer"):
        table.add_column(title, no_wrap=True)
    table.add_column("request", no_wrap=True, ratio=1)
    for exchange in status["in_flight"]:
        table.add_row(*(Text(cell) for cell in row_of(exchange)))
    left_out = status["in_flight_count"] - len(status["in_flight"])
    more = [Text(f" and {left_out} more", "dim")] if left_out > 0 else []
    return Group(head, facts, sockets, *workers, table, *more)
