"""Loads a server with WebSocket echoes or with event streams, and prints what it saw as wrk does.

    python bench/asgi_load.py websocket 8000 32 2
    python bench/asgi_load.py events 8000 10000 5

The numbers are the port, the connections and the seconds.  An echo's latency is from a message to its echo; that of
an event from the moment when the application has made it (`asgi_app.py`) to its arrival.
"""

from __future__ import annotations

import re
import resource
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.frames import TEXT, frame, request

#: What is sent and comes back.
TEXT_SENT: Final = b"Hello, World!"
MESSAGE: Final = frame(TEXT, TEXT_SENT)
#: A server's frames have no mask.
ECHO: Final = frame(TEXT, TEXT_SENT, mask=False)
EVENT: Final = re.compile(rb"data: (\d+\.\d+)\n\n")
EVENTS: Final = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: Bytes of an event that a read may have cut.
CUT: Final = 64
#: Seconds before the first event that counts.
WARM_UP: Final = 0.5


def connect(port: int, first: bytes, status: bytes) -> tuple[socket.socket, bytes]:
    """Open a connection, send a request, and read the head of its answer; returns what came behind that, too."""
    client = socket.create_connection(("127.0.0.1", port), 30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(first)
    data = b""
    while b"\r\n\r\n" not in data:
        more = client.recv(65536)
        if not more:
            sys.exit(f"the connection ended behind {data!r}")
        data += more
    if data.split(b" ", 2)[1] != status:
        sys.exit(f"answered with {data[:200]!r}")
    return client, data.partition(b"\r\n\r\n")[2]


def websocket(port: int, count: int, seconds: float) -> list[float]:
    """Echo on so many WebSockets; returns the latencies."""
    took = []
    selector = selectors.DefaultSelector()
    sent: dict[int, float] = {}
    got: dict[int, bytes] = {}
    for _ in range(count):
        client, _ = connect(port, request(path=b"/ws", host=b"localhost"), b"101")
        selector.register(client, selectors.EVENT_READ, client)
        got[client.fileno()] = b""
    for key in list(selector.get_map().values()):
        sent[key.fd] = time.monotonic()
        key.data.sendall(MESSAGE)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for key, _ in selector.select(1):
            data = key.data.recv(4096)
            if not data:
                sys.exit("a WebSocket ended")
            got[key.fd] += data
            if got[key.fd] == ECHO:
                now = time.monotonic()
                took.append(now - sent[key.fd])
                got[key.fd], sent[key.fd] = b"", now
                key.data.sendall(MESSAGE)
            elif not ECHO.startswith(got[key.fd]):
                sys.exit(f"no echo: {got[key.fd]!r}")
    return took


def events(port: int, count: int, seconds: float) -> list[float]:
    """Listen to so many event streams; returns how late each event came, without those of the opening."""
    selector = selectors.DefaultSelector()
    tails: dict[int, bytes] = {}
    for _ in range(count):
        client, rest = connect(port, EVENTS, b"200")
        selector.register(client, selectors.EVENT_READ, client)
        tails[client.fileno()] = rest[-CUT:]
    took = []
    began = time.monotonic() + WARM_UP  # what has come while the last ones were connecting would be called late
    while (now := time.monotonic()) < began + seconds:
        for key, _ in selector.select(1):
            data = key.data.recv(65536)
            if not data:
                sys.exit("a stream ended")
            now = time.monotonic()
            data = tails[key.fd] + data
            last = 0
            for found in EVENT.finditer(data):
                last = found.end()
                made = float(found[1])
                if made >= began:
                    took.append(now - made)
            tails[key.fd] = data[last:][-CUT:]
    return took


def say(took: list[float], seconds: float) -> None:
    """Print as `wrk --latency` does."""
    took.sort()
    for part in (50, 99):
        print(f"     {part}%  {1e3 * took[len(took) * part // 100] if took else 0:.3f}ms")
    print(f"  {len(took)} requests in {seconds:.2f}s")
    print(f"Requests/sec: {len(took) / seconds:.2f}")


def main() -> None:
    """Load, and print."""
    kind, port, count, seconds = sys.argv[1], *map(int, sys.argv[2:])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    say({"websocket": websocket, "events": events}[kind](port, count, seconds), seconds)


if __name__ == "__main__":
    main()
