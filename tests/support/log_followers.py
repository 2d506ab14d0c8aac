"""Threads that bring what a process writes into its `Log`, as it is written."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path
from typing import IO, Protocol

from tests.support.log import Log


class Follower(Protocol):
    """Follows what a process writes."""

    def process_has_ended(self) -> None:
        """Wait until all that the process has written is in the log."""


class PipeFollower:
    """Follows a pipe, to its end or beyond the end of the process that was started with it.

    A successor that the process has started writes to the same pipe, so the end of the process is not its end.

    :param pipe: its reading end, which is closed when the pipe has ended.
    :param log: gets the lines.
    """

    def __init__(self, pipe: IO[str], log: Log) -> None:
        self._pipe = pipe
        self._log = log
        self._asked, self._ask = socket.socketpair()
        self._is_empty = threading.Event()
        threading.Thread(target=self._follow, name="log reader", daemon=True).start()

    def process_has_ended(self) -> None:
        """Wait until the pipe is found empty."""
        self._ask.send(b"!")
        self._is_empty.wait(10)

    def _follow(self) -> None:
        pipe = self._pipe.fileno()
        line = b""
        while True:
            ready = select.select([pipe, self._asked.fileno()], [], [])[0]
            if pipe not in ready:
                self._asked.recv(1)
                self._is_empty.set()
                continue
            piece = os.read(pipe, 1 << 16)
            if not piece:
                break
            *lines, line = (line + piece).split(b"\n")
            for whole in lines:
                self._log.add(whole.decode(errors="replace"))
        if line:
            self._log.add(line.decode(errors="replace"))
        self._log.end()
        self._is_empty.set()
        self._pipe.close()


class FileFollower:
    """Follows a file until its process has ended.

    :param path: the file.
    :param log: gets the lines.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log
        self._no_more = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="log reader", daemon=True)
        self._thread.start()

    def process_has_ended(self) -> None:
        """Read the rest of the file, and no more."""
        self._no_more.set()
        self._thread.join(10)

    def _follow(self) -> None:
        with self._path.open(errors="replace") as lines:
            partial = ""
            while True:
                last = self._no_more.is_set()
                while piece := lines.readline():
                    partial += piece
                    if partial.endswith("\n"):
                        self._log.add(partial.rstrip("\n"))
                        partial = ""
                if last:
                    break
                self._no_more.wait(0.01)
        self._log.end()
