"""`basic`, in a process whose system calls can be made to fail: see `FAULTS`.

A failure is ordered by `/fail?name=NAME&errno=NUMBER&count=COUNT`.  It holds for the next COUNT calls after that
answer is sent, or for all if COUNT is -1; `/heal` ends them.  The file that the environment's FAULTS_OF_SUCCESSOR
names, if it exists, has such an order for a process that imports this module.  Standard error notes each failure.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

import basic

active: dict[str, list[int]] = {}
"""The number of the error, how often it is still raised, and how many calls come before."""


def fails(name: str) -> bool:
    """Whether this call is to fail."""
    order = active.get(name)
    if order is None or not order[1]:
        return False
    if order[2]:
        order[2] -= 1
        return False
    order[1] -= 1
    os.write(2, b"fault: %s\n" % name.encode())
    return True


def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that fails if it was ordered to, and else is the real one."""

    def call(*arguments: Any, **options: Any) -> Any:
        number = active[name][0] if name in active else 0  # before it may be healed
        if fails(name):
            raise RuntimeError("can't start new thread") if name == "thread" else OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call


class Epoll:
    """An epoll that may have no room."""

    def __init__(self) -> None:
        self._real = select_epoll()
        self.register = wrapped("epoll", self._real.register)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


select_epoll = select.epoll

#: What can fail: where, and by which name there.
FAULTS: dict[str, tuple[Any, str]] = {
    "accept": (socket.socket, "_accept"),
    "setblocking": (socket.socket, "setblocking"),
    "recv": (socket.socket, "recv"),
    "send": (socket.socket, "send"),
    "listen": (socket.socket, "listen"),
    "shutdown": (socket.socket, "shutdown"),
    "getsockname": (socket.socket, "getsockname"),
    "setsockopt": (socket.socket, "setsockopt"),
    "socketpair": (socket, "socketpair"),
    "sendfile": (os, "sendfile"),
    "open": (os, "open"),
    "fstat": (os, "fstat"),
    "pipe": (os, "pipe"),
    "rename": (os, "rename"),
    "unlink": (os, "unlink"),
    "pidfd": (os, "pidfd_open"),
    "tempfile": (tempfile, "TemporaryFile"),
    "thread": (threading.Thread, "start"),
    "setitimer": (signal, "setitimer"),
    "fork": (subprocess, "_fork_exec"),
}

for fault, (where, attribute) in FAULTS.items():
    if hasattr(where, attribute):
        setattr(where, attribute, wrapped(fault, getattr(where, attribute)))
select.epoll = Epoll  # type: ignore[assignment, misc]


def order(text: str) -> None:
    """Have something fail from now on."""
    given = dict(parse_qsl(text))
    number = getattr(errno, given.get("errno", "EIO"), 0) or int(given["errno"])
    active[given["name"]] = [number, int(given.get("count", "-1")), int(given.get("after", "0"))]
    os.write(2, b"ordered: %s\n" % given["name"].encode())


path = os.environ.get("FAULTS_OF_SUCCESSOR", "")
if os.path.exists(path):
    with open(path) as file:
        order(file.read())


class Then:
    """An answer that has an effect when it is sent."""

    def __init__(self, effect: Callable[[], object]) -> None:
        self._effect = effect

    def __iter__(self) -> Any:
        return iter([b"done"])

    def close(self) -> None:
        """It is sent."""
        self._effect()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Order a failure, end all, or answer as `basic` does."""
    if environ["PATH_INFO"] not in ("/fail", "/heal"):
        return basic.application(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close"), ("Content-Length", "4")])
    if environ["PATH_INFO"] == "/heal":
        active.clear()
        return [b"done"]
    return Then(lambda: order(environ["QUERY_STRING"]))


print("faults can be ordered", file=sys.stderr, flush=True)
