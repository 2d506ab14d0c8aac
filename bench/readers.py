"""The clients of bench/downloads.py, in a process of their own: one fast client, or thousands of slow ones.

    readers.py fast PORT PATH BYTES
    readers.py slow PORT PATH HOW-MANY BYTES-A-SECOND SECONDS
    readers.py parked PORT PATH HOW-MANY

Reports on standard output, in lines of JSON.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from collections.abc import Callable

BUFFER = 1 << 18
TICKS = 8
"""Reads of each slow client a second."""


def say(**what: object) -> None:
    """Report a line of JSON."""
    print(json.dumps(what), flush=True)


def ask(port: int, path: str) -> socket.socket:
    """Connect, and send a request.  Returns the connection."""
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    return client


def fast(port: int, path: str, size: int) -> None:
    """Read an answer as fast as it comes, and report the seconds."""
    buffer = bytearray(BUFFER)
    begin = time.monotonic()
    client = ask(port, path)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(1)
    if not head.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{path}: {head!r}")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b"")
    left = int(length.split(b":")[1]) if length else size
    while left > 0:
        count = client.recv_into(buffer)
        if not count:
            raise SystemExit(f"{path}: {left} bytes are missing")
        left -= count
    say(seconds=time.monotonic() - begin)


def slow(port: int, path: str, many: int, rate: int, seconds: int) -> None:
    """Read at a given rate from each of many connections, while one more connection asks for a small body.

    :param many: the number of connections.
    :param rate: bytes a second on each.
    :param seconds: how long.
    """
    clients = [ask(port, path) for _ in range(many)]
    taken = [len(client.recv(4096)) for client in clients]
    for client in clients:
        client.setblocking(False)
    beside = ask(port, "/small")
    beside.settimeout(30)
    beside.recv(4096)
    say(connected=many)
    times = []
    begin = time.monotonic()
    share = many // TICKS + 1
    due = 0
    while (now := time.monotonic()) < begin + seconds:
        # Each turn reads for one part of the clients, so that they do not all read at the same moment.
        first = due * share % (share * TICKS)
        for number in range(first, min(first + share, many)):
            allowed = int((now - begin) * rate) + 4096 - taken[number]
            if allowed > 0:
                try:
                    taken[number] += len(clients[number].recv(min(allowed, BUFFER)))
                except BlockingIOError:
                    pass
        asked = time.monotonic()
        beside.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n")
        beside.recv(4096)
        times.append(time.monotonic() - asked)
        due += 1
        time.sleep(max(0.0, begin + due / TICKS / TICKS - time.monotonic()))
    say(slowest=min(taken), beside=times)


def parked(port: int, path: str, many: int) -> None:
    """Wait for news on many connections, and report how many got them."""
    poll = select.epoll()
    clients = {}
    for _ in range(many):
        client = ask(port, path)
        clients[client.fileno()] = client
        poll.register(client.fileno(), select.EPOLLIN)
    say(connected=many)
    sys.stdin.readline()
    answered = 0
    deadline = time.monotonic() + 60
    while answered < many and time.monotonic() < deadline:
        for number, _ in poll.poll(1):
            data = clients[number].recv(4096)
            answered += data.startswith(b"HTTP/1.1 200") and data.endswith(b"news\n")
            poll.unregister(number)
    say(answered=answered)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    kind, port, path, *numbers = sys.argv[1:]
    kinds: dict[str, Callable[..., None]] = {"fast": fast, "slow": slow, "parked": parked}
    kinds[kind](int(port), path, *map(int, numbers))
