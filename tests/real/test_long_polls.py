"""Requests that wait for news: answered from anywhere, and never left waiting."""

from __future__ import annotations

import os
import re
import select
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.clients import Connection, get, request
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

APPLICATION = "handover:application"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with two threads, for all tests that do not stop it."""
    home = Home(os.getuid())
    try:
        with Server(home, "--threads", "2", "--idle-grace", "0.5", application=APPLICATION) as server:
            yield server
        assert home.left_behind() == []
    finally:
        home.remove()


def parked(stack: ExitStack, server: Server, target: str) -> Connection:
    """Ask for something that waits, and see that it does."""
    before = server.in_flight("parked")
    connection = stack.enter_context(Connection(server.port))
    connection.send(request(target))
    wait_for(lambda: server.in_flight("parked") == before + 1)
    return connection


def test_the_answer_comes_from_another_requests_thread(server: Server) -> None:
    """The answer comes from another request's thread, is the whole answer, and a second one is harmless."""
    with ExitStack() as stack:
        connection = parked(stack, server, "/park?name=a")
        assert get(server.port, "/answer?name=a&body=news").body == b"True"
        answer = connection.answer()
        assert (answer.status, answer.header("X-News"), answer.body) == (201, "yes", b"news")
        assert answer.header("X-Graceful-Handover") is None
        assert get(server.port, "/answer?name=a&body=more").body == b"False"
        assert connection.get("/echo?next").body == b"next"


def test_answer_before_it_waits(server: Server) -> None:
    """An answer may come before the view has returned."""
    with Connection(server.port) as connection:
        assert connection.get("/park?name=now&now=already").body == b"already"
        assert get(server.port, "/answer?name=now&body=more").body == b"False"
        assert connection.get("/echo?next").body == b"next"


def test_a_hundred_requests_wait_without_a_thread(server: Server) -> None:
    """A hundred requests wait in no thread, and one broadcast answers them all."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.port)) for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.send(request(f"/park?name=m{number}"))
        wait_for(lambda: server.in_flight("parked") == 100)
        assert get(server.port).status == 200
        assert get(server.port, "/broadcast").body == b"100"
        for connection in connections:
            assert connection.answer().body == b"for all"
            assert connection.get("/echo?next").body == b"next"


def test_a_parked_request_is_answered_with_204_after_its_time(server: Server) -> None:
    """When its time is over it is answered with 204, and the connection goes on."""
    with Connection(server.port) as connection:
        answer = connection.get("/park?name=t&timeout=0.2")
        assert (answer.status, answer.body, answer.says_close) == (204, b"", False)
        assert get(server.port, "/answer?name=t&body=late").body == b"False"
        assert connection.get("/echo?next").body == b"next"


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
def test_a_client_that_sends_fin_while_parked_is_gone(server: Server, how: str) -> None:
    """A browser tab that is closed only sends FIN: who waits is gone, the ticket says so, an answer is too late."""
    with ExitStack() as stack:
        connection = parked(stack, server, f"/park?name={how}")
        {"closes": connection.close, "half-closes": connection.half_close, "resets": connection.reset}[how]()
        wait_for(lambda: how in get(server.port, "/gone").body.decode().split(","))
        assert server.in_flight("parked") == 0
        assert get(server.port, f"/answer?name={how}&body=late").body == b"False"


def test_gone_before_it_parks(server: Server) -> None:
    """A client that has half-closed before its request parks is gone as well."""
    with Connection(server.port) as connection:
        connection.send(request("/park?name=early"))
        connection.half_close()
        wait_for(lambda: "early" in get(server.port, "/gone").body.decode().split(","))


def test_an_event_stream_begins_at_once_and_takes_events(server: Server) -> None:
    """An event stream begins at once, takes events one by one, and ends when it is finished."""
    with ExitStack() as stack:
        connection = parked(stack, server, "/events?name=e")
        head = connection.some(15)
        assert head == b"HTTP/1.1 200 OK"
        for word in ("one", "two"):
            assert get(server.port, f"/send?name=e&body={word}").body == b"True"
            got = b""
            while word.encode() not in got:
                got += connection.some(1)
        assert get(server.port, "/send?name=e").body == b"True"
        assert get(server.port, "/send?name=e&body=late").body == b"False"
        rest = b""
        while not rest.endswith(b"0\r\n\r\n"):
            rest += connection.some(1)
        assert connection.get("/echo?next").body == b"next"


def test_events_at_drain(home: Home) -> None:
    """A stop ends event streams with the time after which a browser shall come back, and a poll with 204."""
    with Server(home, "--idle-grace", "0.5", application=APPLICATION) as server, ExitStack() as stack:
        stream, poll = parked(stack, server, "/events?name=e"), parked(stack, server, "/park?name=p")
        get(server.port, "/send?name=e&body=one")
        server.settle(2)
        server.terminate()
        server.wait_closed()
        answer = stream.answer()
        assert answer.header("Content-Type") == "text/event-stream"
        last = re.fullmatch(rb"data: one\n\nretry: (\d+)\n\n", answer.body)
        assert last is not None
        assert 1000 <= int(last[1]) <= 2000
        polled = poll.answer()
        assert (polled.status, polled.says_close) == (204, True)
        stream.end()
        poll.end()
        assert server.wait() == 0
        assert server.drained() == (2, 0, 0)


def test_spread_at_drain(home: Home) -> None:
    """Those who wait are told over a second, so that they do not all come back in one instant."""
    with Server(home, application=APPLICATION) as server, ExitStack() as stack:
        waiting = {}
        for number in range(100):
            connection = stack.enter_context(Connection(server.port))
            connection.send(request(f"/park?name=s{number}"))
            waiting[connection.socket] = connection
        wait_for(lambda: server.in_flight("parked") == 100)
        server.terminate()
        moments: Counter[float] = Counter()
        while waiting:
            for ready in select.select(list(waiting), [], [], 10)[0]:
                connection = waiting.pop(ready)
                assert connection.answer().status == 204
                connection.close()
                moments[round(time.monotonic(), 1)] += 1
        assert max(moments.values()) < 60, moments
        assert server.wait() == 0


def test_parking_while_stopping(home: Home) -> None:
    """Who parks when the sockets are closed already is answered after a moment: not at once, nor by its time-out."""
    with Server(home, "--idle-grace", "5", application=APPLICATION) as server, Connection(server.port) as connection:
        connection.get("/")
        server.terminate()
        server.wait_closed()
        asked = time.monotonic()
        answer = connection.get("/park?name=late&drain=1")
        assert (answer.status, answer.body[:16], answer.says_close) == (200, b"come back, late ", True)
        assert time.monotonic() - asked > 0.9
        connection.end()
        assert server.wait() == 0
        assert server.drained()[1:] == (0, 0)


def test_nothing_is_told_in_the_lame_duck(home: Home) -> None:
    """While the sockets still accept nobody is sent away: who polls again would come straight back."""
    options = ("--lame-duck", "1", "--idle-grace", "0.5")
    with Server(home, *options, application=APPLICATION) as server, ExitStack() as stack:
        connection = parked(stack, server, "/park?name=duck")
        server.terminate()
        assert get(server.port, "/answer?name=duck&body=news").body == b"True"
        assert connection.answer().body == b"news"
        connection.close()
        other = stack.enter_context(Connection(server.port))
        other.send(request("/park?name=other"))
        closed = server.wait_closed()
        assert other.answer().status == 204
        other.end()
        assert time.monotonic() >= closed
        assert server.wait() == 0


def test_at_drain_fails(home: Home) -> None:
    """An application that fails when it is asked for its last word leaves its clients with 204."""
    with Server(home, application=APPLICATION) as server, ExitStack() as stack:
        connection = parked(stack, server, "/park?name=fail&drain=fail")
        server.terminate()
        assert connection.answer().status == 204
        connection.end()
        assert server.wait() == 0
        server.tracebacks = 1
