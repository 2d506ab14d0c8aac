"""The progress of a deploy, for people and programs: a line for each event, and a verdict at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any, Final, TextIO

from graceful.humanize import duration


class _Output:
    """Writes lines for as long as the output is open.

    A deploy goes on when its terminal or the reader of its pipe has gone.
    """

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out

    def write(self, line: str) -> None:
        """Write a line."""
        if self._out is None:
            return
        try:
            print(line, file=self._out, flush=True)
        except OSError:
            # Otherwise the interpreter would try to flush it at its end, and fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
            self._out = None


class Lines:
    """Shows progress as plain lines.

    :param out: where they go.
    :param width: of the longest instance's name.
    """

    def __init__(self, out: TextIO, width: int) -> None:
        self._out = _Output(out)
        self._width = width
        self._began = time.monotonic()

    def tell(self, name: str | None, step: str, text: str, **values: Any) -> None:
        """Write an event."""
        self.line(f"{time.monotonic() - self._began:7.1f} s  {name or '':{self._width}}  {step:13} {text}", step)
        for line in values.get("log", ()):
            self.line(f"{'':11}{'':{self._width}} | {line}", "log")

    def line(self, text: str, step: str) -> None:
        """Write a line."""
        self._out.write(text.rstrip())

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        """Write the verdict."""
        for line in verdict_lines(verdict):
            self.line(line, verdict["result"])


class ProgressEvents:
    """One JSON object a line: `time`, `instance`, `step`, `text`, and more by step; the last step is `verdict`.

    :param out: where they go.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = _Output(out)

    def tell(self, name: str | None, step: str, text: str, **values: Any) -> None:
        """Write an event."""
        event = {"time": round(time.time(), 3), "instance": name, "step": step, "text": text, **values}
        self._out.write(json.dumps(event))

    def verdict(self, verdict: Mapping[str, Any]) -> None:
        """Write the verdict."""
        self.tell(None, "verdict", verdict_lines(verdict)[0], **verdict)


def verdict_lines(verdict: Mapping[str, Any]) -> list[str]:
    """Returns the lines of a verdict: the deploy, then each instance with what was lost."""
    head = {"deployed": "deployed", "failed": "FAILED", "interrupted": "INTERRUPTED"}[verdict["result"]]
    counts = [f"{verdict['finished']} finished", f"{verdict['taken_down']} taken down", f"{verdict['killed']} killed"]
    counts += [f"{verdict[key]} {word}" for key, word in _RARE.items() if verdict[key]]
    lines = [f"{head} in {duration(verdict['seconds'])}: {', '.join(counts)}"]
    if verdict["why"]:
        lines.append(f"  {verdict['why']}")
    width = max((len(one["name"]) for one in verdict["instances"]), default=0)
    for one in verdict["instances"]:
        took = f" in {duration(one['seconds'])}" if one["seconds"] is not None else ""
        text = f"  {one['name']:{width}}  {one['result']}{took}"
        if one["pid"]:
            text += f", process {one['pid']}"
        if one["why"]:
            text += f": {one['why']}"
        lines.append(text)
        for old in one["old"]:
            lines += [f"  {'':{width}}    {line}" for line in _old_lines(old)]
    return lines


_RARE: Final = {"vanished": "ended without a last word", "still_leaving": "still on their way out"}


def _old_lines(old: Mapping[str, Any]) -> list[str]:
    """Returns the lines about a server that was replaced, if it did not finish everything."""
    if old["killed"]:
        lost = [
            f"exchange {one['id']} {one['method']} {one['path']}, {duration(one['age'])} old" for one in old["lost"]
        ]
        return [f"process {old['pid']} was killed, in flight: {'; '.join(lost) or 'nothing that is known'}"]
    if old["exit_status"] is None:
        return [f"process {old['pid']} is still on its way out"]
    if old["finished"] is None:
        return [f"process {old['pid']} has ended without a last word"]
    if old["taken_down"]:
        reports = f", reports {' '.join(old['reports'])}" if old["reports"] else ""
        return [
            f"process {old['pid']} had {old['taken_down']} taken down, {old['abandoned']} threads abandoned{reports}"
        ]
    return []
