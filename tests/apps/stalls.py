"""An application that gets stuck, in every way that the documentation's table names: see `KINDS`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import os
import queue
import select
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import basic
import psycopg
import psycopg_pool
import requests
import silent_resolver

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


def send() -> None:
    """`socket.sendall` to a peer that does not read"""
    # No `with`: its end would be a place where the exception is met, before the server's own code is reached.
    mine, _other = socket.socketpair()
    mine.sendall(bytes(1 << 24))


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


def download() -> None:
    """a download of `requests`"""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):  # a takedown that comes before the connection has closed the listener
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nfirst")
                    while connection.recv(1 << 16):  # until the client's end
                        pass

        threading.Thread(target=serve, daemon=True).start()
        try:
            requests.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=FOREVER)
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # a close would leave the thread in accept(2)


def ssl_read() -> None:
    """a read of `ssl`"""
    mine, other = socket.socketpair()
    sides = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        side = ssl.SSLContext(protocol)
        side.check_hostname, side.verify_mode = False, ssl.CERT_NONE
        side.maximum_version = ssl.TLSVersion.TLSv1_2
        side.set_ciphers("aNULL:@SECLEVEL=0")  # which needs no certificate
        sides.append(side)

    def serve() -> None:
        with suppress(OSError), sides[0].wrap_socket(other, server_side=True) as peer:
            peer.recv(1)

    threading.Thread(target=serve, daemon=True).start()
    with sides[1].wrap_socket(mine) as client:
        client.recv(1)


def resolve() -> None:
    """`socket.getaddrinfo`"""
    silent_resolver.look_up()


def queue_get() -> None:
    """`Queue.get`"""
    queue.Queue[None]().get()


def queue_timeout() -> None:
    """`Queue.get` with a time-out"""
    queue.Queue[None]().get(timeout=FOREVER)


def queue_put() -> None:
    """`Queue.put` into a full queue"""
    full = queue.Queue[None](1)
    full.put(None)
    full.put(None)


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


def futures_wait() -> None:
    """`concurrent.futures.wait`"""
    concurrent.futures.wait([concurrent.futures.Future[None]()])


def asyncio_run() -> None:
    """`asyncio.run`"""
    asyncio.run(asyncio.sleep(FOREVER))


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


def pg_pool() -> None:
    """a pool of psycopg without a free connection"""
    with psycopg_pool.ConnectionPool(os.environ["POSTGRES"], min_size=1, timeout=FOREVER, open=True) as pool:
        pool.getconn()
        pool.getconn()


def lock() -> None:
    """`Lock.acquire`"""
    held = threading.Lock()
    held.acquire()
    held.acquire()


def with_lock() -> None:
    """`with LOCK`"""
    held = threading.Lock()
    held.acquire()
    with held:
        pass


def with_rlock() -> None:
    """`with RLOCK`"""
    held = threading.RLock()
    other = threading.Thread(target=held.acquire)
    other.start()
    other.join()
    with held:
        pass


def flock() -> None:
    """`fcntl.flock`"""
    held = os.memfd_create("held")
    other = os.open(f"/proc/self/fd/{held}", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    fcntl.flock(other, fcntl.LOCK_EX)


def fifo() -> None:
    """`os.read` on a FIFO"""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "fifo")
        os.mkfifo(path)
        both = os.open(path, os.O_RDWR)  # which does not wait for another end
    os.read(both, 1)


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
    "send": send,
    "poll": poll,
    "select": select_,
    "epoll": epoll,
    "urllib": urllib_,
    "requests": download,
    "ssl": ssl_read,
    "getaddrinfo": resolve,
    "queue": queue_get,
    "queue-timeout": queue_timeout,
    "queue-put": queue_put,
    "event": event,
    "condition": condition,
    "semaphore": semaphore,
    "future": future,
    "futures-wait": futures_wait,
    "asyncio": asyncio_run,
    "subprocess": subprocess_run,
    "subprocess-output": subprocess_output,
    "waitpid": waitpid,
    "pg_sleep": pg_sleep,
    "pg-pool": pg_pool,
    "lock": lock,
    "with-lock": with_lock,
    "with-rlock": with_rlock,
    "flock": flock,
    "fifo": fifo,
    "sleep": sleep,
    "pipe": pipe,
    "join": join,
    "swallow": swallow,
}
"""The ways to get stuck: `/stuck/NAME` before an answer, `/body/NAME` in the middle, `/close/NAME` behind it."""

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


class Closing:
    """A whole answer that gets stuck when it is closed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"whole"])

    def close(self) -> None:
        """Get stuck."""
        say(f"stuck in close, in {self._name}")
        ALL[self._name]()


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Get stuck in the way that the path names; `/almost/N` for N ms; any other one is answered at once."""
    _, where, *rest = environ["PATH_INFO"].split("/")
    if where == "almost":
        threading.Event().wait(int(rest[0]) / 1000)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"not stuck at all"]
    if where == "close":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return Closing(rest[0])
    if where not in ("stuck", "body"):
        return basic.application(environ, start_response)
    if where == "body":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body(rest[0])
    say(f"stuck in {rest[0]}")
    ALL[rest[0]]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"not stuck any more"]
