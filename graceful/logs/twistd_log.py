"""twistd's log file, shared by an instance and its successor, and moved away by logrotate.

twistd opens its log without O_APPEND: an instance that still drains and its successor would overwrite each other's
lines.  And to rotate, twistd closes the log before it opens it again; if the process has shed the privileges to write
in that directory, it has no log then.  This module corrects both on the descriptor, beneath Twisted's file object.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

from twisted.logger import FileLogObserver, Logger, eventAsJSON, formatEvent, globalLogPublisher
from twisted.python.logfile import BaseLogFile, LogFile

from graceful.logs.journal import is_journal, with_priority, without_time

log = Logger(namespace="graceful")

STANDARD_OUTPUT: Final = 1

_twistd: dict[str, Any] = {}


def _files() -> Iterator[BaseLogFile]:
    for observer in globalLogPublisher._observers:
        file = getattr(observer, "_outFile", None)
        if isinstance(file, BaseLogFile):
            yield file


def write(options: dict[str, Any], as_json: bool) -> None:
    """Have twistd write its log by an observer of ours, from the first line on.

    :param options: twistd's, while they are parsed.  They name a function, so what it needs is kept here.
    :param as_json: one object a line: `twisted.logger`'s own form, with `log_text` in it.
    """
    global _twistd
    _twistd = options
    options["logger"] = f"{__name__}.{(json_observer if as_json else text_observer).__name__}"


def text_observer() -> FileLogObserver:
    """Make the observer that twistd would have made; what another process writes before its first line stays."""
    from twisted.scripts._twistd_unix import UnixAppLogger

    try:
        observer: FileLogObserver = UnixAppLogger(_twistd)._getLogObserver()
    except OSError as error:
        why = f"cannot write the log file {error.filename}: {error.strerror}"
        raise SystemExit(f"{why}; give another --logfile") from None
    if isinstance(observer._outFile, BaseLogFile):
        _append_only(observer._outFile)
    return _observer(observer._outFile, observer.formatEvent, without_time)


def _observer(
    file: Any, line: Callable[[Any], str | None], in_journal: Callable[[Any], str | None]
) -> FileLogObserver:
    to_journal = not isinstance(file, BaseLogFile) and is_journal(STANDARD_OUTPUT)
    return FileLogObserver(file, with_priority(in_journal) if to_journal else line)


def json_observer() -> FileLogObserver:
    """Return an observer that writes JSON to the same file."""

    def line(event: Any) -> str:
        return eventAsJSON({**event, "log_text": formatEvent(event)}) + "\n"

    return _observer(text_observer()._outFile, line, line)


def append_only() -> None:
    """Set O_APPEND on the log files, also those that twistd itself has opened."""
    for file in _files():
        _append_only(file)


def _append_only(file: BaseLogFile) -> None:
    fd = file._file.fileno()
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)


def reopen() -> None:
    """Open the log again by its path, after logrotate moved the file.  If that fails, the old file is kept."""
    for file in _files():
        try:
            fresh = os.open(file.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            log.error(
                "the log {path} cannot be reopened, it goes on in the old file: {error}",
                path=file.path,
                error=error,
            )
            continue
        os.dup2(fresh, file._file.fileno(), inheritable=False)
        os.close(fresh)
        if isinstance(file, LogFile):
            file.size = os.fstat(file._file.fileno()).st_size  # by which it knows when to rotate
    log.info("log files opened anew")
