"""Lines for systemd's journal, which has the time of each, and by whose priorities `journalctl -p err` finds errors.

systemd reads a priority from `<3>` at the beginning of each line that a service writes, sd-daemon(3), and takes it
away.  A line without one is informational, and so is what Twisted's `info` logs: those lines have no prefix.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.logger import LogLevel, eventAsText

ERROR: Final = "<3>"
#: Twisted's critical is what an exception is logged with: an error, no critical condition of the machine.
_PREFIXES: Final = {LogLevel.critical: ERROR, LogLevel.error: ERROR, LogLevel.warn: "<4>", LogLevel.debug: "<7>"}


def is_journal(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to a descriptor goes to the journal: it is the stream that JOURNAL_STREAM names."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def without_time(event: Any) -> str | None:
    """Returns the line that twistd's log has of an event, without its time: the journal has that already."""
    text = eventAsText(event, includeTimestamp=False)
    return text.replace("\n", "\n\t") + "\n" if text else None


def with_priority(line: Callable[[Any], str | None]) -> Callable[[Any], str | None]:
    """Returns a formatter of events that begins each line with the priority of its event.

    :param line: formats an event; the text may have several lines, such as those of a traceback.
    """

    def prefixed(event: Any) -> str | None:
        text = line(event)
        prefix = _PREFIXES.get(event.get("log_level"))
        if not text or prefix is None:
            return text
        return "".join(prefix + each for each in text.splitlines(keepends=True))

    return prefixed
