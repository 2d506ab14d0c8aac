"""Many WebSockets whose clients send nothing: what each costs, and how a stop closes them.

GRACEFUL_TEST_WEBSOCKETS says how many there are: 500 if it is not set.
"""

from __future__ import annotations

import os
import selectors
import time
from collections import Counter
from contextlib import ExitStack

from tests.support.frames import close, code_of
from tests.support.home import Home
from tests.support.server import Server, resident
from tests.support.waiting import wait_for
from tests.support.websocket import WebSocket

APPLICATION = "asgi_websockets:app"
MANY = int(os.environ.get("GRACEFUL_TEST_WEBSOCKETS", "500"))
#: How many are there before the memory is looked at.
FIRST = 20
#: Seconds over which a stop spreads the closes; none comes in the first fifth, or the first second.
SPREAD = max(2.0, MANY / 500)
#: Into how many parts of the time the closes are counted.
PARTS = 4


def test_silent_ones_cost_little_memory_and_are_closed_evenly(home: Home, stack: ExitStack) -> None:
    """Each costs at most 16 KiB with the application's task, and is told 1012 in its turn."""
    options = ("--idle-grace", "0.2", "--close-spread", str(SPREAD), "--websocket-ping-interval", "0")
    with Server(home, *options, application=APPLICATION) as server:
        first = [stack.enter_context(WebSocket(server.port)) for _ in range(FIRST)]
        before = resident(server.pid)
        clients = [stack.enter_context(WebSocket(server.port)) for _ in range(MANY)]
        each = (resident(server.pid) - before) / MANY
        print(f"{each / 1024:.1f} KiB for each of {MANY} silent WebSockets")
        assert each < 16 * 1024
        clients[-1].say("still here")
        assert clients[-1].hear() == "still here"
        clients += first
        wait_for(lambda: server.in_flight("websocket") == len(clients))
        told = closed(clients, server.terminate())
        for client in clients:
            client.nothing_more()
        assert server.wait() == 0
        assert server.drained() == (len(clients), 0, 0)
    begin, end = min(told), max(told)
    print(f"closed from {begin:.2f} s to {end:.2f} s after SIGTERM")
    assert begin >= min(1.0, SPREAD / 5) - 0.1
    assert SPREAD / 2 < end - begin < SPREAD + 2.0
    parts = Counter(int((moment - begin) / (end - begin + 0.001) * PARTS) for moment in told)
    assert all(parts[part] in range(MANY // PARTS // 2, 2 * MANY // PARTS) for part in range(PARTS)), parts


def closed(clients: list[WebSocket], began: float) -> list[float]:
    """Answer the server's close on each of them, which must be 1012.

    :returns: the seconds since `began` at which each came.
    """
    told: list[float] = []
    with selectors.DefaultSelector() as waiting:
        for client in clients:
            waiting.register(client.socket, selectors.EVENT_READ, client)
        while len(told) < len(clients):
            ready = waiting.select(20.0)
            assert ready, f"{len(clients) - len(told)} are not told"
            for key, _ in ready:
                client = key.data
                assert code_of(client.next()) == 1012
                told.append(time.monotonic() - began)
                waiting.unregister(client.socket)
                client.send(close(1012))
    return told
