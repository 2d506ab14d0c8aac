"""Formats for people: `1 min 04 s`, `4.5 MiB`, `2 workers`, `exit status 70`."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Returns a number of bytes as text."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """Returns seconds as text."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def counted(count: int, what: str) -> str:
    """Returns a number of things as text.

    :param what: one of them, whose plural ends with an `s`.
    """
    return f"{count} {what}{'' if count == 1 else 's'}"


def ending(status: int) -> str:
    """Returns how a process has ended as text.

    :param status: its exit status, negative for a signal.
    """
    return f"signal {-status}" if status < 0 else f"exit status {status}"
