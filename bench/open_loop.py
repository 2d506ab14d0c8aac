"""Asks a server at a fixed rate, whether it keeps up or not, and prints what it saw as wrk does.

    python bench/open_loop.py open 8000 32 2

The numbers are the port, the connections and the seconds.  wrk asks again on a connection when it has its answer, so
a server that stands still for a second is asked no more meanwhile, and one slow answer is counted where users would
have had hundreds ("coordinated omission").  Here each request has its moment beforehand.  If all connections are busy
then, it waits for one, and its latency counts from its moment.
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections import deque
from typing import Final

#: Requests that begin in a second.
RATE: Final = 2000
REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD_END: Final = b"\r\n\r\n"
#: How each answer ends.
BODY: Final = b"Hello, World!"
#: Seconds that answers may take, behind the last request.
LATEST: Final = 10.0


def load(port: int, count: int, seconds: float) -> list[float]:
    """Ask for some seconds.  Returns the latency of each answer in seconds."""
    selector = selectors.DefaultSelector()
    free: deque[socket.socket] = deque()
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), 30)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ, client)
        free.append(client)
    took: list[float] = []
    due: deque[float] = deque()
    got: dict[socket.socket, tuple[float, bytes]] = {}
    began = time.monotonic()
    begun, total = 0, int(seconds * RATE)
    while len(took) < total:
        now = time.monotonic()
        while begun < total and began + begun / RATE <= now:
            due.append(began + begun / RATE)
            begun += 1
        while due and free:
            client = free.popleft()
            got[client] = due.popleft(), b""
            client.sendall(REQUEST)
        if now > began + seconds + LATEST:
            sys.exit(f"{total - len(took)} of {total} requests were not answered in time")
        wait = began + begun / RATE - time.monotonic() if begun < total else LATEST
        for key, _ in selector.select(max(wait, 0)):
            client = key.data
            data = client.recv(4096)
            if not data:
                sys.exit("a connection ended")
            since, before = got[client]
            data = before + data
            if HEAD_END in data and data.endswith(BODY):
                took.append(time.monotonic() - since)
                del got[client]
                free.append(client)
            else:
                got[client] = since, data
    return took


def main() -> None:
    """Load, and print."""
    port, count, seconds = map(int, sys.argv[2:])
    took = sorted(load(port, count, seconds))
    for part in (50, 99, 99.9):
        print(f"     {part}%  {1e3 * took[int(len(took) * part / 100)]:.3f}ms")
    print(f"  {len(took)} requests in {seconds:.2f}s")
    print(f"Requests/sec: {len(took) / seconds:.2f}")


if __name__ == "__main__":
    main()
