"""Requests that move: what the old process has read and no application has seen is answered by the new one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.real.test_moving import SHORT, ended, replaced, replaced_here
from tests.support.clients import Connection, chunked, digest, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import OPEN, Server
from tests.support.waiting import wait_for

SMALL = os.urandom(3000)
LARGE = os.urandom(700_000)
GONE_IN = 2.0
"""Seconds that the old process may live when the new one has taken over, and no thread works there."""

CHUNKS = chunked([SMALL[:1000], SMALL[1000:], LARGE[:70_000]], "X-Trailer: yes")


def gone(server: Server) -> None:
    """See that the old process ends soon after it was replaced, whatever its clients do."""
    assert server.wait(10) == 0
    assert float(server.wait_line(r"drained in ([0-9.]+) s")[1]) < GONE_IN


def logged(home: Home, path: str, count: int) -> None:
    """See that the access log has so many lines about a path, each with another id, and no more."""

    def lines() -> list[str]:
        text = (home.path / "access.log").read_text()
        return [line.rpartition(" ")[2] for line in text.splitlines() if f" {path} " in line]

    wait_for(lambda: len(lines()) >= count)
    found = lines()
    assert len(found) == len(set(found)) == count, found


def head(length: int | None, *fields: str) -> bytes:
    """Returns the head of an upload, in chunks or with a length."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return request("/upload", framing, *fields, method="POST")


class Sender:
    """A client that sends one part of a request before a deploy, and the rest behind it.

    :param client: its connection.
    :param data: the request.
    :param first: how many bytes are sent before.
    :param body: what the answer must be.
    """

    def __init__(self, client: Connection, data: bytes, first: int, body: bytes) -> None:
        self.client = client
        self._rest = data[first:]
        self._body = body
        client.send(data[:first])

    def finish(self) -> None:
        """Send the rest, and see the answer, and that the connection carries another request."""
        self.client.send(self._rest)
        answer = self.client.answer("POST")
        assert (answer.status, answer.body, answer.interim) == (200, self._body, ())


def senders(connect: Callable[[], Connection]) -> list[Sender]:
    """Returns a client for each place in a request, in the middle of it."""

    def expected(body: bytes) -> bytes:
        return digest(body).encode()

    small, large = head(len(SMALL)) + SMALL, head(len(LARGE)) + LARGE
    in_chunks, before = head(None) + CHUNKS, len(head(None))
    body = SMALL + LARGE[:70_000]
    found = [Sender(connect(), small, at, expected(SMALL)) for at in (1, 30, len(head(3000)), len(small) - 1)]
    found += [Sender(connect(), large, at, expected(LARGE)) for at in (40_000, 400_000, len(large) - 1)]
    places = (before, before + 2, before + 500, before + 1005, before + 1006, before + 50_000)
    found += [Sender(connect(), in_chunks, at, expected(body)) for at in (*places, len(in_chunks) - 20)]
    return found


def test_half_received_requests_move(any_home: Home, stack: ExitStack, deploy: str) -> None:
    """In heads, bodies and chunks, on TCP, IPv6 and a Unix socket, of any user; the old process ends at once."""
    home = any_home
    path = f"{home.run}/socket"
    listen = ["tcp:0:interface=127.0.0.1", r"tcp6:0:interface=\:\:1", f"unix:{path}"]
    log = ("--access-log", str(home.path / "access.log"), "--spool", str(home.spool))
    server = stack.enter_context(Server(home, *SHORT, *log, listen=listen))
    server.wait_line(OPEN, count=3)
    four, six = server.ports
    found = senders(lambda: stack.enter_context(Connection(four)))
    found += senders(lambda: stack.enter_context(Connection(six, host="::1")))
    found += senders(lambda: stack.enter_context(Connection(path)))
    wait_for(lambda: server.in_flight("receiving") == len(found))
    if deploy == "takeover":
        listen[:2] = [f"tcp:{four}:interface=127.0.0.1", rf"tcp6:{six}:interface=\:\:1"]
        stack.enter_context(Server(home, "--takeover", *SHORT, *log, listen=listen, wait_open=False))
    new = replaced_here(server, home, deploy)
    gone(server)
    for sender in found:
        sender.finish()
        assert sender.client.get("/pid").body == b"%d" % new
    logged(home, "/upload", len(found))
    ended(server, new, deploy)


def test_requests_that_wait_for_a_thread_move(home: Home, stack: ExitStack, deploy: str) -> None:
    """All threads are used up: what waits is answered by the new process, before the old one has a thread free."""
    options = (*SHORT, "--threads", "1", "--access-log", str(home.path / "access.log"))
    server = stack.enter_context(Server(home, *options))
    gate = stack.enter_context(Gate(home.path / "gate"))
    busy = stack.enter_context(Connection(server.port))
    busy.send(request(gate.target()) + request("/pid") + head(len(SMALL)) + SMALL[:100])
    gate.wait_reached()
    queued = [stack.enter_context(Connection(server.port)) for _ in range(30)]
    for number, client in enumerate(queued):
        client.send(request("/pid") if number % 2 else request("/upload", method="POST", body=LARGE))
        if number % 3 == 0:
            client.half_close()
    wait_for(lambda: server.in_flight("queued") == len(queued) + 1)
    if deploy == "takeover":
        stack.enter_context(Server(home, "--takeover", *options, port=server.port, wait_open=False))
    new = replaced_here(server, home, deploy)
    for number, client in enumerate(queued):
        answer = client.answer("GET" if number % 2 else "POST")
        assert answer.body == (b"%d" % new if number % 2 else digest(LARGE).encode())
        if number % 3 == 0:
            client.end()
    gate.open()
    assert busy.answer().body == b"passed"
    assert busy.answer().body == b"%d" % new
    gone(server)
    busy.send(SMALL[100:])
    assert busy.answer("POST").body == digest(SMALL).encode()
    assert server.drained() == (1, 0, 0)
    logged(home, "/pid", 16)
    logged(home, "/upload", 16)
    ended(server, new, deploy)


def test_continue_is_said_once_whichever_process_says_it(home: Home, stack: ExitStack, deploy: str) -> None:
    """A client that has it sends its body to the new process, and one that waits for it gets it from there."""
    server = stack.enter_context(Server(home, *SHORT))
    told = stack.enter_context(Connection(server.port))
    expects = head(len(SMALL), "Expect: 100-continue")
    told.send(expects)
    told.wait_continue()
    half = stack.enter_context(Connection(server.port))
    half.send(expects[:-7])
    gate = stack.enter_context(Gate(home.path / "gate"))
    waits = stack.enter_context(Connection(server.port))
    waits.send(request(gate.target()) + expects)
    gate.wait_reached()
    wait_for(lambda: server.in_flight("receiving") == 3)
    new = replaced(stack, server, home, deploy)
    gate.open()
    assert waits.answer().body == b"passed"
    gone(server)
    half.send(expects[-7:])
    for client in (half, waits):
        client.wait_continue()
    for client in (told, half, waits):
        client.send(SMALL)
        answer = client.answer("POST")
        assert (answer.interim, answer.body) == ((), digest(SMALL).encode())
    ended(server, new, deploy)


def test_an_answer_that_its_client_takes_slowly_moves(home: Home, stack: ExitStack, deploy: str) -> None:
    """Its thread is free: the new process sends what is left of it, byte by byte the same."""
    options = (*SHORT, "--access-log", str(home.path / "access.log"))
    server = stack.enter_context(Server(home, *options))
    client = stack.enter_context(Connection(server.port, receive_buffer=4096))
    target = "/one?bytes=1000000"
    client.send(request(target))
    wait_for(lambda: server.in_flight("sending") == 1)
    if deploy == "takeover":
        stack.enter_context(Server(home, "--takeover", *options, port=server.port, wait_open=False))
    new = replaced_here(server, home, deploy)
    gone(server)
    answer = client.answer()
    assert digest(answer.body) == digest((bytes(range(256)) * 3_907)[:1_000_000])
    assert client.get("/pid").body == b"%d" % new
    logged(home, target, 1)
    ended(server, new, deploy)


def test_a_successor_that_dies_leaves_what_it_has_not_taken(home: Home, stack: ExitStack) -> None:
    """Requests behind one in the application are answered by the old process, which reads on in a body."""
    server = stack.enter_context(Server(home, *SHORT))
    gate = stack.enter_context(Gate(home.path / "gate"))
    client = stack.enter_context(Connection(server.port))
    client.send(request(gate.target()) + request("/pid") + head(len(SMALL)) + SMALL[:100])
    gate.wait_reached()
    successor = Server(home, "--takeover", *SHORT, port=server.port, wait_open=False)
    stack.callback(successor.kill)
    successor.start()
    server.wait_line(r"process \d+ has taken over")
    successor.kill()
    home.disturbed = True
    server.wait_line(r"process \d+, has crashed")
    start = time.monotonic()
    gate.open()
    assert client.answer().body == b"passed"
    assert client.answer().body == b"%d" % server.pid
    client.send(SMALL[100:])
    assert client.answer("POST").body == digest(SMALL).encode()
    assert time.monotonic() - start < 10
    assert server.wait(10) == 0
