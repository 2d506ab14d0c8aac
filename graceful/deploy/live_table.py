"""Shows a deploy live in a terminal, with `rich`: the events, and below them a line for each instance."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TextIO, cast

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from graceful.deploy.progress import Lines
from graceful.deploy.rollout import Rollout
from graceful.humanize import duration

_STYLES: Final = {
    "failed": "bold red",
    "killed": "bold red",
    "warning": "yellow",
    "note": "dim",
    "log": "dim",
    "rolled back": "bold yellow",
    "interrupted": "bold yellow",
    "deployed": "bold green",
    "done": "green",
}
#: Seconds between two drawings of the table.
_EVERY: Final = 0.1


class LiveTable(Lines):
    """Shows progress as lines that scroll, and a table that stays below them.

    :param console: a terminal.
    :param width: of the longest instance's name.
    """

    def __init__(self, console: Console, width: int) -> None:
        super().__init__(cast(TextIO, console.file), width)
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._drawn = 0.0

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        with suppress(OSError):
            self._live.stop()

    def line(self, text: str, step: str) -> None:
        """Write a line above the table."""
        with suppress(OSError):  # the terminal may be gone, the deploy goes on
            self._console.print(Text(text.rstrip(), _STYLES.get(step, "")), highlight=False, soft_wrap=True)

    def look(self, rollouts: Sequence[Rollout]) -> None:
        """Draw the table again, at most every :data:`_EVERY` seconds."""
        now = time.monotonic()
        if now - self._drawn >= _EVERY:
            self._drawn = now
            with suppress(OSError):
                self._live.update(picture(rollouts, now), refresh=True)

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        """Remove the table, and write the verdict."""
        with suppress(OSError):
            self._live.stop()
        super().verdict(verdict)


def picture(rollouts: Sequence[Rollout], now: float) -> Table:
    """Returns a line for each instance: its step, and what its old processes have in flight until when."""
    table = Table.grid(padding=(0, 2))
    for rollout in rollouts:
        working = rollout.result == "under way"
        took = duration(now - rollout.began) if working and rollout.began is not None else ""
        word = rollout.step if working else rollout.result
        style = "bold cyan" if working else _STYLES.get(rollout.result, "dim")
        leaving = "; ".join(
            f"process {old.pid}: {old.in_flight} in flight, gone within {duration(max(0.0, old.until - now))}"
            for old in rollout.olds
            if not old.gone
        )
        table.add_row(Text(rollout.name, "bold"), Text(word, style), took, Text(leaving, "dim"))
    return table
