"""An application that gets stuck, in every way that the documentation's table names: see `KINDS`."""

from __future__ import annotations

import concurrent.futures
import os
import queue
import select
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable

import basic

FOREVER = 1000
kept: list[object] = []
"""What must not be collected, since that would end a wait."""


def pair() -> socket.socket:
    """One end of a connection whose other end says nothing."""
    mine, other = socket.socketpair()
    kept.append(other)
    return mine


def loop() -> None:
    while True:
        pass


def recv() -> None:
    pair().recv(1)


def recv_timeout() -> None:
    mine = pair()
    mine.settimeout(FOREVER)
    mine.recv(1)


def poll() -> None:
    mine = pair()
    poller = select.poll()
    poller.register(mine, select.POLLIN)
    poller.poll()


def select_() -> None:
    mine = pair()
    select.select([mine], [], [], FOREVER)


def epoll() -> None:
    mine = pair()
    with select.epoll() as poller:
        poller.register(mine, select.EPOLLIN)
        poller.poll()


def urllib_() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    kept.append(listener)
    urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/")


def queue_get() -> None:
    queue.Queue[None]().get()


def queue_timeout() -> None:
    queue.Queue[None]().get(timeout=FOREVER)


def event() -> None:
    threading.Event().wait()


def condition() -> None:
    waiting = threading.Condition()
    with waiting:
        waiting.wait()


def semaphore() -> None:
    threading.Semaphore(0).acquire()


def future() -> None:
    concurrent.futures.Future[None]().result()


def subprocess_run() -> None:
    subprocess.run(["sleep", str(FOREVER)], check=False)


def subprocess_output() -> None:
    subprocess.run(["sleep", str(FOREVER)], check=False, capture_output=True)


def waitpid() -> None:
    pid = os.posix_spawnp("sleep", ["sleep", str(FOREVER)], os.environ)
    try:
        os.waitpid(pid, 0)
    finally:
        os.kill(pid, 9)


def pg_sleep() -> None:
    import psycopg

    with psycopg.connect(os.environ["POSTGRES"]) as connection:
        connection.execute("select pg_sleep(%s)", [FOREVER])


def lock() -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def sleep() -> None:
    time.sleep(FOREVER)


def pipe() -> None:
    reading, writing = os.pipe()
    kept.append(writing)
    os.read(reading, 1)


def join() -> None:
    other = threading.Thread(target=time.sleep, args=[FOREVER], daemon=True)
    other.start()
    other.join()


def swallow() -> None:
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass


KINDS: dict[str, Callable[[], None]] = {
    "loop": loop,
    "recv": recv,
    "recv-timeout": recv_timeout,
    "poll": poll,
    "select": select_,
    "epoll": epoll,
    "urllib": urllib_,
    "queue": queue_get,
    "queue-timeout": queue_timeout,
    "event": event,
    "condition": condition,
    "semaphore": semaphore,
    "future": future,
    "subprocess": subprocess_run,
    "subprocess-output": subprocess_output,
    "waitpid": waitpid,
    "pg_sleep": pg_sleep,
    "lock": lock,
    "sleep": sleep,
    "pipe": pipe,
    "join": join,
    "swallow": swallow,
}
"""The ways to get stuck: `/NAME` before an answer, `/body/NAME` in the middle of it."""


def body(kind: Callable[[], None]) -> Iterable[bytes]:
    """Begin an answer, then get stuck."""
    yield b"first"
    os.write(2, f"stuck in the body of {kind.__name__}\n".encode())
    kind()


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Get stuck in the way that the path names; any other one is answered at once."""
    path = environ["PATH_INFO"].removeprefix("/")
    kind = KINDS.get(path.removeprefix("body/"))
    if kind is None:
        return basic.application(environ, start_response)
    if path.startswith("body/"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body(kind)
    os.write(2, f"stuck in {path}\n".encode())
    kind()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"not stuck any more"]
