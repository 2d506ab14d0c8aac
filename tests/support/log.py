"""The log of a process under test, while it is being written."""

from __future__ import annotations

import re
import threading
import time


class Log:
    """The lines that a process has written so far, with the moment each was read (`time.monotonic`)."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lines: list[tuple[float, str]] = []
        self._ended = False

    def __str__(self) -> str:
        with self._changed:
            return "".join(f"  | {line}\n" for _, line in self._lines)

    def add(self, line: str) -> None:
        """Append a line; called by the reading thread."""
        with self._changed:
            self._lines.append((time.monotonic(), line))
            self._changed.notify_all()

    def end(self) -> None:
        """Say that no more lines will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._lines)

    def find_all(self, pattern: str, start: int = 0, end: int | None = None) -> list[tuple[float, re.Match[str]]]:
        """Return the moments and matches of a pattern in the lines from number `start` on, and before `end`."""
        with self._changed:
            found = [(moment, re.search(pattern, line)) for moment, line in self._lines[start:end]]
        return [(moment, match) for moment, match in found if match is not None]

    def wait(self, pattern: str, timeout: float, count: int = 1, start: int = 0) -> tuple[float, re.Match[str]]:
        """Wait for the `count`-th line from number `start` on that matches, written before or later.

        :raises AssertionError: with the whole log, if it does not come.
        """
        end = time.monotonic() + timeout
        found: list[tuple[float, re.Match[str]]] = []
        while True:
            with self._changed:
                known, ended = len(self._lines), self._ended
            # Each line once: of a stack for each of hundreds of exchanges, every further one would cost as much.
            found += self.find_all(pattern, start, known)
            start = max(start, known)
            if len(found) >= count:
                return found[count - 1]
            remaining = end - time.monotonic()
            if ended or remaining <= 0:
                when = "before the log ended" if ended else f"in {timeout} s"
                raise AssertionError(f"no line {pattern!r} {when}:\n{self}")
            with self._changed:
                if len(self._lines) == known and not self._ended:
                    self._changed.wait(remaining)
