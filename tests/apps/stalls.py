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
from contextlib import suppress

import basic
import psycopg

FOREVER = 1000


def loop() -> None:
    """a loop in Python"""
    while True:
        pass


def recv() -> None:
    """`socket.recv`"""
    mine, other = socket.socketpair()
    with mine, other:
        mine.recv(1)


def recv_timeout() -> None:
    """`socket.recv` with a time-out"""
    mine, other = socket.socketpair()
    with mine, other:
        mine.settimeout(FOREVER)
        mine.recv(1)


def poll() -> None:
    """`select.poll`"""
    mine, other = socket.socketpair()
    with mine, other:
        poller = select.poll()
        poller.register(mine, select.POLLIN)
        poller.poll()


def select_() -> None:
    """`select.select`"""
    mine, other = socket.socketpair()
    with mine, other:
        select.select([mine], [], [], FOREVER)


def epoll() -> None:
    """`select.epoll`"""
    mine, other = socket.socketpair()
    with mine, other, select.epoll() as poller:
        poller.register(mine, select.EPOLLIN)
        poller.poll()


def urllib_() -> None:
    """`urllib.request.urlopen`"""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urllib.request.urlopen(f"http://127.0.0.1:{silent.getsockname()[1]}/")


def queue_get() -> None:
    """`Queue.get`"""
    queue.Queue[None]().get()


def queue_timeout() -> None:
    """`Queue.get` with a time-out"""
    queue.Queue[None]().get(timeout=FOREVER)


def event() -> None:
    """`Event.wait`"""
    threading.Event().wait()


def condition() -> None:
    """`Condition.wait`"""
    waiting = threading.Condition()
    with waiting:
        waiting.wait()


def semaphore() -> None:
    """`Semaphore.acquire`"""
    threading.Semaphore(0).acquire()


def future() -> None:
    """`Future.result`"""
    concurrent.futures.Future[None]().result()


def subprocess_run() -> None:
    """`subprocess.run`"""
    subprocess.run(["sleep", str(FOREVER)], check=False)


def subprocess_output() -> None:
    """`subprocess.run` with `capture_output`"""
    subprocess.run(["sleep", str(FOREVER)], check=False, capture_output=True)


def waitpid() -> None:
    """`os.waitpid`"""
    pid = os.posix_spawnp("sleep", ["sleep", str(FOREVER)], os.environ)
    try:
        os.waitpid(pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


def pg_sleep() -> None:
    """a query of PostgreSQL, by psycopg"""
    with psycopg.connect(os.environ["POSTGRES"]) as connection:
        connection.execute("select pg_sleep(%s)", [FOREVER])


def pg_briefly() -> None:
    """a query that is looked after fifty times a second, by code in C: it is never long in one wait, nor in Python"""
    with psycopg.connect(os.environ["POSTGRES"]) as connection:
        wait = connection.wait
        connection.wait = lambda generator: wait(generator, interval=0.02)  # type: ignore[method-assign,misc]
        connection.execute("select pg_sleep(%s)", [FOREVER])


def lock() -> None:
    """`Lock.acquire`"""
    held = threading.Lock()
    held.acquire()
    held.acquire()


def sleep() -> None:
    """`time.sleep`"""
    time.sleep(FOREVER)


def pipe() -> None:
    """`os.read` on a pipe"""
    reading, _writing = os.pipe()
    os.read(reading, 1)


def join() -> None:
    """`Thread.join`"""
    other = threading.Thread(target=time.sleep, args=[FOREVER], daemon=True)
    other.start()
    other.join()


def swallow() -> None:
    """a loop that catches `BaseException`"""
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
"""The ways to get stuck: `/stuck/NAME` before an answer, `/body/NAME` in the middle of it."""

ALL = {**KINDS, "pg-briefly": pg_briefly}
"""With one more, for which the table has a row already."""


def say(text: str) -> None:
    """Write a line to the log, in one piece."""
    os.write(2, f"{text}\n".encode())


def body(name: str) -> Iterable[bytes]:
    """Begin an answer, then get stuck."""
    yield b"first"
    say(f"stuck in the body, in {name}")
    ALL[name]()


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Get stuck in the way that the path names; `/almost/N` for N ms; any other one is answered at once."""
    _, where, *rest = environ["PATH_INFO"].split("/")
    if where == "almost":
        threading.Event().wait(int(rest[0]) / 1000)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"not stuck at all"]
    if where not in ("stuck", "body"):
        return basic.application(environ, start_response)
    if where == "body":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body(rest[0])
    say(f"stuck in {rest[0]}")
    ALL[rest[0]]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"not stuck any more"]
