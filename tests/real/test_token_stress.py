"""No byte for one client ever reaches another.

A thread that sends holds a number, not a socket: if the connection is closed in that moment and another one is
accepted, the number is reused, and the rest of one client's answer goes to another client.  On one processor,
with every send(2) delayed, that happens within seconds in a server that closes connections carelessly.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.support.clients import Connection, Failure, request
from tests.support.home import Home
from tests.support.preload import library
from tests.support.server import Server

SECONDS = 8.0
CLIENTS = 24


def one_client(port: int, name: int, until: float) -> Counter[str]:
    """Alternate, at random, between resetting a connection under its answer and an honest request.

    :returns: how the honest requests ended.
    """
    chance = random.Random(name)
    counts: Counter[str] = Counter()
    while time.monotonic() < until:
        word = f"{name}-{chance.getrandbits(60)}"
        with Connection(port, timeout=5) as connection:
            if chance.random() < 0.5:
                connection.send(request(f"/echo?{word}"))
                time.sleep(chance.uniform(0, 0.002))
                connection.reset()
                continue
            # Whatever was meant for the connection that had our number before comes now.
            time.sleep(chance.uniform(0.0005, 0.0045))
            try:
                connection.closed_while_idle()
                connection.send(request(f"/echo?{word}"))
                counts["ok" if connection.answer().body == word.encode() else "bad"] += 1
            except Failure as failure:
                counts[failure.outcome] += 1
    return counts


def test_no_byte_reaches_another_client(home: Home) -> None:
    """While connections close and reopen under sending threads, every honest client gets its own answer only.

    None of these requests is forgotten, either: each is answered long before the client's timeout.
    """
    slow_send = library("slow_send", home.path)
    with (
        Server(home, "--idle-grace", "0.5", preload=slow_send, cpu=0) as server,
        ThreadPoolExecutor(CLIENTS) as executor,
    ):
        until = time.monotonic() + SECONDS
        clients = [executor.submit(one_client, server.port, name, until) for name in range(CLIENTS)]
        counts = sum((client.result() for client in clients), Counter[str]())
    assert set(counts) == {"ok"}, counts
    assert counts["ok"] > 500, counts
