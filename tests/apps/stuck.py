"""Applications that hold the process, each in another place, so that it cannot end by itself."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable

import basic

FOREVER = 1000


def stay() -> None:
    """Say that this place is reached, and never return."""
    os.write(2, b"stuck\n")
    time.sleep(FOREVER)


def own_thread() -> None:
    """Leave a thread of the application that is no daemon and does not end."""
    threading.Thread(target=stay).start()


def reactor_pool() -> None:
    """Give the reactor's own thread pool a job that does not end."""
    from twisted.internet import reactor

    reactor.callFromThread(reactor.callInThread, stay)  # type: ignore[attr-defined]


def reactor_thread() -> None:
    """Block the reactor, and return when it is blocked."""
    from twisted.internet import reactor

    blocked = threading.Event()

    def block() -> None:
        blocked.set()
        stay()

    reactor.callFromThread(block)  # type: ignore[attr-defined]
    blocked.wait()


def interpreter() -> None:
    """Call C code that keeps the interpreter's lock and does not return."""
    os.write(2, b"stuck\n")
    ctypes.PyDLL(None).sleep(FOREVER)


PLACES: dict[str, Callable[[], None]] = {
    "/own-thread": own_thread,
    "/reactor-pool": reactor_pool,
    "/reactor-thread": reactor_thread,
    "/interpreter": interpreter,
}


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Wait at the gate of the query, if there is one, then get stuck in the path's place and answer."""
    place = PLACES.get(environ["PATH_INFO"])
    if place is None:
        return basic.application(environ, start_response)
    gate = basic.query(environ).get("path")
    if gate is not None:
        with open(gate, "rb") as fifo:
            fifo.read()
    place()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"stuck"]
