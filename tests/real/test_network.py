"""No request is lost over a line with a delay: clients use their connections until the last moment that is announced.

On the loopback interface these tests would prove nothing: there, the server sees a request in the moment in which it
is sent, and never closes a connection to which one is on its way.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.support.clients import request
from tests.support.home import Home
from tests.support.network import SERVER, Network
from tests.support.server import Server

#: Seconds that a packet takes, and the part that is lost.
DELAY = 0.02
LOSS = 0.01
CLIENTS = 250
#: Connections in a second before a stop, and a quarter of them after it.
CONNECTS = 400
#: `--idle-grace`: 2 seconds are announced.  Clients that are told more would come around the end of the grace.
GRACE = 7.0
AFTER_GRACE = GRACE + 1.2
#: The last requests come in these seconds before the latest moment at which they may.
SPREAD = 1.4
#: Seconds after which a client uses its connection again while no stop has begun.
THINKS = 0.6
LIMIT = 25.0
LISTEN = (f"tcp:8080:interface={SERVER}",)
OPTIONS = ("--idle-grace", str(GRACE))


@pytest.fixture
def network() -> Iterator[Network]:
    """A line with a delay and losses; no test here makes sense without it, so that none is skipped."""
    with Network(DELAY, LOSS) as line:
        yield line


class Visitors:
    """Clients with a connection each, of which they make the last use that they may when a stop has begun.

    :param stopping: whether the process with this number has begun to stop.
    :param moved: whether an answer of this process shows that the connection has moved, which is a good end as well.
    :ivar ends: how often which end has come: `answered` is the good one.
    """

    def __init__(self, network: Network, stopping: Callable[[int], bool], moved: Callable[[int], bool]) -> None:
        self.ends: Counter[str] = Counter()
        self._asked = 0
        self._network = network
        self._stopping = stopping
        self._moved = moved
        self._chance = random.Random(7)

    async def come(self, then: Callable[[], object]) -> None:
        """Connect all; when each has had an answer, call `then`; end when the last one has had its last answer."""
        visits = [asyncio.create_task(self._visit()) for _ in range(CLIENTS)]
        while self._asked < CLIENTS:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(then)
        self.ends.update(await asyncio.gather(*visits))

    async def _visit(self) -> str:
        sock = self._network.client_socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (SERVER, 8080))
        reader, writer = await asyncio.open_connection(sock=sock)
        first = True
        try:
            while True:
                writer.write(request("/pid"))
                head, pid = await _answer(reader)
                if "connection: close" in head or self._moved(pid):
                    return "answered"
                self._asked += first
                first = False
                await self._think(time.monotonic(), _announced(head), pid)
                if reader.at_eof():
                    return "closed too early"
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            return f"lost: {type(error).__name__}"
        finally:
            writer.close()

    async def _think(self, answered: float, announced: float, pid: int) -> None:
        """Wait with the next request: a while, or until the last moment if the process has begun to stop."""
        until = answered + THINKS
        while not self._stopping(pid):
            await asyncio.sleep(0.05)
            if time.monotonic() > until:
                return
        last = answered + min(announced, AFTER_GRACE) - self._chance.uniform(0, SPREAD)
        await asyncio.sleep(last - time.monotonic())


async def _answer(reader: asyncio.StreamReader) -> tuple[str, int]:
    """Read an answer; returns its head in lower case, and the number of the process in its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    (length,) = (line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:"))
    return head, int(await reader.readexactly(int(length)))


def _announced(head: str) -> float:
    """How long a client may use the connection by what an answer says, seconds."""
    told = [line.partition("timeout=")[2] for line in head.split("\r\n") if line.startswith("keep-alive:")]
    return float(told[0]) if told else float("inf")


def all_answered(
    network: Network,
    stopping: Callable[[int], bool],
    then: Callable[[], object],
    moved: Callable[[int], bool] = lambda pid: False,
) -> None:
    """Assert that each client got an answer to its last request: one that says close, or is of another process."""
    visitors = Visitors(network, stopping, moved)
    asyncio.run(asyncio.wait_for(visitors.come(then), LIMIT))
    assert visitors.ends == Counter(answered=CLIENTS)


def test_stop_loses_no_request_on_its_way(home: Home, network: Network) -> None:
    """SIGTERM: each idle client may come once more, in the time that it was told."""
    told: list[float] = []
    with Server(home, *OPTIONS, listen=LISTEN, prefix=network.server_prefix) as server:
        all_answered(network, lambda pid: bool(told), lambda: told.append(server.terminate()))
        assert server.wait() == 0


def test_takeover_loses_no_request_on_its_way(home: Home, network: Network) -> None:
    """The clients' connections move to the successor, which answers."""
    with ExitStack() as stack:
        start = partial(Server, home, listen=LISTEN, prefix=network.server_prefix)
        old = stack.enter_context(start(*OPTIONS))
        handed = partial(old.log.find_all, "handed to")
        new = start("--takeover", *OPTIONS)
        stopping, moved = lambda pid: bool(handed()), lambda pid: pid != old.pid
        all_answered(network, stopping, lambda: stack.enter_context(new), moved)
        assert old.wait() == 0


def test_hang_up_with_workers_loses_no_request_on_its_way(home: Home, network: Network) -> None:
    """The clients' connections move to the workers that take the places of the old ones, which answer."""
    with Server(home, *OPTIONS, "--workers", "2", listen=LISTEN, prefix=network.server_prefix) as server:
        accept = [match for _, match in server.log.find_all(r"worker (\d), process (\d+), accepts")]
        numbers = {int(match[2]): match[1] for match in accept}

        def stops(pid: int) -> bool:
            return pid in numbers and bool(server.log.find_all(rf"worker {numbers[pid]} stops"))

        def moved(pid: int) -> bool:
            return pid not in numbers

        all_answered(network, stops, lambda: server.send_signal(signal.SIGHUP), moved)


# -- handshakes ---------------------------------------------------------------------------------------------


async def _connect(network: Network, number: int) -> str:
    """Connect and ask once; returns how that ends."""
    sock = network.client_socket()
    sock.setblocking(False)
    if number % 2:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)  # as a balancer on the same link may
    try:
        await asyncio.get_running_loop().sock_connect(sock, (SERVER, 8080))
        reader, writer = await asyncio.open_connection(sock=sock)
    except ConnectionRefusedError:
        sock.close()
        return "refused"
    try:
        writer.write(request("/pid", "Connection: close"))
        await _answer(reader)
        return "answered"
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        return f"lost: {type(error).__name__}"
    finally:
        writer.close()


async def _storm(network: Network, stop: Callable[[], object]) -> Counter[str]:
    """Connect at a steady rate, before the stop and after it; returns how often it ended how."""
    tasks = []
    for number in range(CONNECTS + CONNECTS // 4):
        if number == CONNECTS:
            stop()
        tasks.append(asyncio.create_task(_connect(network, number)))
        await asyncio.sleep(1 / CONNECTS)
    return Counter(await asyncio.gather(*tasks))


def test_stop_resets_no_client_whose_handshake_is_under_way(any_home: Home) -> None:
    """A client that believes itself connected is answered, also if that took a second; all others are refused.

    Each third handshake loses a segment, and is complete only a second later.
    """
    with (
        Network(DELAY, syn_ack_loss=0.3) as network,
        Server(any_home, listen=LISTEN, prefix=network.server_prefix) as server,
    ):
        ends = asyncio.run(asyncio.wait_for(_storm(network, server.terminate), LIMIT))
        assert server.wait() == 0
    assert ends["refused"] >= CONNECTS // 8
    assert ends == Counter(answered=ends["answered"], refused=ends["refused"])
