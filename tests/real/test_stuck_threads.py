"""Real threads, really stuck, in every way that the documentation's table names.

What the table says is what happens here: this test makes its rows, and compares them with
`docs/how-it-works/stuck.csv`.  GRACEFUL_TEST_TAKEDOWNS says how many takedowns come at random beside traffic: 250 if
it is not set, a thousand on each CPython in `make matrix`.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, request
from tests.support.home import Home
from tests.support.load import Load
from tests.support.postgres import Postgres
from tests.support.reports import reports
from tests.support.server import APPLICATIONS, Server
from tests.support.waiting import wait_for

sys.path.append(str(APPLICATIONS))
import stalls

STUCK = Path(__file__).parents[2] / "docs" / "how-it-works" / "stuck.csv"
STAY = {"lock", "with-lock", "with-rlock", "flock", "fifo", "sleep", "pipe", "join", "swallow"}
"""Those that do not come down."""

TAKEDOWNS = int(os.environ.get("GRACEFUL_TEST_TAKEDOWNS", "250"))
SIDE_BY_SIDE = 24
#: Processes for all kinds that come down.
FEW = 4
Row = tuple[str, str, str]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of our own."""
    with Postgres() as postgres:
        yield postgres


def stalling(home: Home, postgres: Postgres, *options: str, **more: Any) -> Server:
    """A server of the application that gets stuck."""
    environment = {"POSTGRES": postgres.dsn}
    return Server(home, *options, application="stalls:application", environment=environment, **more)


def interrupted(server: Server) -> dict[str, dict[str, Any]]:
    """What the last line of a drain names, by path."""
    line = server.wait_line(r"interrupted: (\[.*\])$")
    return {entry["url"].partition("example")[2]: entry for entry in json.loads(line[1])}


def threads_and_descriptors(server: Server) -> tuple[int, int]:
    """How many the process has."""
    return tuple(len(os.listdir(f"/proc/{server.pid}/{what}")) for what in ("task", "fd"))  # type: ignore[return-value]


def established(server: Server) -> bool:
    """Whether the server has connections with anybody."""
    inodes = set()
    for path in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            inodes.add(os.readlink(path))
    lines = Path(f"/proc/{server.pid}/net/tcp").read_text().splitlines()[1:]
    return any(f"socket:[{line.split()[9]}]" in inodes for line in lines if line.split()[3] != "0A")


def row(kind: str, report: dict[str, Any]) -> Row:
    """A row of the table."""
    steps = [re.sub(r" (socket|child) \d+", r" the \1", step) for step in report["takedown"]]
    if kind == "pg_sleep":
        steps = []  # psycopg looks up ten times a second: whether that or the end of its socket comes first is chance
    beyond = list(dict.fromkeys(step for step in steps if not step.startswith("raised Takedown")))
    down = report["thread"] == "came down"
    return stalls.KINDS[kind].__doc__ or kind, "yes" if down else "no", ", ".join(beyond) if down else "abandoned"


def test_all_side_by_side(home: Home, postgres: Postgres) -> None:
    """All kinds at once: every client has its 503 at once, and what comes down does so within the same 5 s."""
    with (
        stalling(home, postgres, "--deadline", "1", "--threads", "40", "--reports", str(home.logs)) as server,
        ExitStack() as stack,
    ):
        connections = {kind: stack.enter_context(Connection(server.port)) for kind in stalls.KINDS}
        for kind, connection in connections.items():
            connection.send(request(f"/stuck/{kind}"))
        for kind in connections:
            server.wait_line(f"stuck in {kind}$")
        in_body = stack.enter_context(Connection(server.port))
        in_body.send(request("/body/event"))
        server.wait_line("stuck in the body, in event$")
        server.terminate()
        closed = server.wait_closed()
        ids = {}
        for kind, connection in connections.items():
            answer = connection.answer()
            assert (answer.status, answer.says_close) == (503, True), kind
            assert int(answer.header("Retry-After") or 0) > 0
            ids[kind] = answer.header("X-Oops-Id")
        assert time.monotonic() - closed < 1 + 4, "clients are told at once, not when their threads end"
        with pytest.raises(Failure, match="truncated"):
            in_body.answer()
        stack.close()
        assert server.wait() == 71
        assert time.monotonic() - closed < 1 + 5 + 5  # the deadline, the takedown and the reports, as promised
        assert server.drained() == (0, len(stalls.KINDS) + 1, len(STAY))
        named = interrupted(server)
        for kind in stalls.KINDS:
            entry = named[f"/stuck/{kind}"]
            assert entry["outcome"] == ("abandoned" if kind in STAY else "taken down"), kind
            assert entry["report"] == ids[kind]
            server.wait_line(rf"taking down .*/stuck/{kind} .*{ids[kind]}")
        assert named["/body/event"]["sent"] == 5
        found = {report["url"].rpartition("/")[2]: report for report in reports(home) if "/stuck/" in report["url"]}
        assert set(found) == set(stalls.KINDS)
        for kind, report in found.items():
            assert report["id"] == ids[kind]
            assert stalls.KINDS[kind].__name__ in report["tb_text"]
    rows = [("The thread is in", "it comes down", "what it took, beside the exception")] + [
        row(kind, found[kind]) for kind in stalls.KINDS
    ]
    with STUCK.open() as file:
        shown = [tuple(line) for line in csv.reader(file)]
    assert shown == rows, "docs/how-it-works/stuck.csv should be:\n" + "\n".join(
        ",".join(f'"{cell}"' for cell in one) for one in rows
    )


def test_the_status_says_whether_a_stuck_thread_was_abandoned(home: Home, postgres: Postgres) -> None:
    """A process whose stuck threads all come down ends with 70; one that abandons a thread of any kind, with 71."""
    down = sorted(set(stalls.KINDS) - STAY)
    together = [*((kind,) for kind in sorted(STAY)), *(tuple(down[first::FEW]) for first in range(FEW))]
    with ExitStack() as stack:
        servers = {}
        for kinds in together:
            few = ("--deadline", "1", "--threads", str(len(kinds)))
            server = stalling(home, postgres, *few, twistd_options=("--pidfile=",), wait_open=False)
            server.start()
            stack.callback(server.kill)
            servers[kinds] = server
        for kinds, server in servers.items():
            server.wait_open(60)
            for kind in kinds:
                connection = stack.enter_context(Connection(server.port, timeout=60))
                connection.send(request(f"/stuck/{kind}"))
                server.wait_line(f"stuck in {kind}$")
            server.terminate()
        statuses = {kinds: server.wait(60) for kinds, server in servers.items()}
        wrong = {kinds for kinds, status in statuses.items() if status != (71 if kinds[0] in STAY else 70)}
        assert not wrong, "".join(f"{kinds} ended with {statuses[kinds]}:\n{servers[kinds].log}" for kinds in wrong)


def test_waits_over_and_over(home: Home, postgres: Postgres) -> None:
    """A thread that C code has wait for a moment, over and over, meets no exception, and comes down all the same."""
    with (
        stalling(home, postgres, "--deadline", "0.5", "--threads", "1") as server,
        Connection(server.port) as connection,
    ):
        connection.send(request("/stuck/pg-briefly"))
        server.wait_line("stuck in pg-briefly$")
        server.terminate()
        assert connection.answer().status == 503
        connection.end()
        assert server.wait() == 70


def test_back_to_work(home: Home, postgres: Postgres) -> None:
    """In normal running a thread that was stuck answers the next request, on the same connection."""
    with stalling(home, postgres, "--request-timeout", "/stuck/=0.2", "--threads", "1") as server:
        for kind in sorted(set(stalls.KINDS) - STAY):
            with Connection(server.port) as connection:
                connection.send(request(f"/stuck/{kind}") + request("/echo?behind"))
                answer = connection.answer()
                assert (answer.status, answer.says_close) == (503, False), kind
                assert connection.answer().body == b"behind"
                assert connection.get("/echo?next").body == b"next"
    assert server.drained()[1:] == (0, 0)


def test_a_wait_that_ends_in_an_error_leaves_the_thread_usable(home: Home) -> None:
    """A thread whose wait raises an error of its own beside the takedown goes on; before, in and behind an answer."""
    limits = [f"--request-timeout=/{where}/=0.2" for where in ("stuck", "body", "close")]
    with Server(home, *limits, "--threads", "1", "--deadline", "5", application="stalls:application") as server:
        for _ in range(5):
            with Connection(server.port) as connection:
                connection.send(request("/stuck/send"))
                assert connection.answer().status == 503
            with Connection(server.port) as connection:
                connection.send(request("/body/send"))
                try:
                    assert connection.answer().status == 503  # on a busy machine its limit is over before it begins
                except Failure as failure:
                    assert failure.outcome == "truncated"
            with Connection(server.port) as connection:
                connection.send(request("/close/send") + request("/echo?behind"))
                answer = connection.answer()
                assert answer.body == b"whole" or answer.status == 503
                assert connection.answer().body == b"behind"
        for where in ("the body", "close"):
            server.wait_line(f"stuck in {where}, in send$")
        server.terminate()
        closed = server.wait_closed()
        assert server.wait() == 0
        assert time.monotonic() - closed < 5
        for trouble in ("could not be brought down", "goes on after this"):
            assert server.log.find_all(trouble) == []


def test_lost_thread_is_replaced(home: Home) -> None:
    """In normal running a thread that does not come down is named, and another one takes its place."""
    options = ("--request-timeout", "/stuck/=0.2", "--threads", "1", "--deadline", "1")
    with Server(home, *options, application="stalls:application") as server:
        with Connection(server.port) as connection:
            connection.send(request("/stuck/pipe") + request("/echo?behind"))
            assert connection.answer().status == 503
            assert connection.answer().body == b"behind"
        server.wait_line(r"/stuck/pipe.*could not be brought down \(raised Takedown.*another one takes its place")
        server.terminate()
        assert server.wait() == 71
        assert server.drained()[1:] == (0, 1)


def test_takedowns_at_random_harm_no_other_request(home: Home) -> None:
    """Takedowns at random, beside normal traffic: nobody else is harmed, and no thread or descriptor is lost.

    Some requests come to their end just when they are taken down: they are answered in one way or the other.
    """
    kinds = sorted(set(stalls.KINDS) - STAY - {"pg_sleep", "pg-pool", "loop"})
    options = ("--request-timeout", "/stuck/=0.2", "--request-timeout", "/body/=0.2", "--threads", "40")
    options += ("--request-timeout", "/almost/=0.2")
    with Server(home, *options, application="stalls:application") as server:
        with Load(server.port) as load:  # so that all threads which normal traffic needs are there
            load.mark()
            load.stop().check()
        wait_for(lambda: not established(server))
        before = threads_and_descriptors(server)
        wrong: list[str] = []
        rounds = iter(range(TAKEDOWNS))
        lock = threading.Lock()

        def stall(number: int) -> None:
            chance = random.Random(number)
            while True:
                with lock:
                    if next(rounds, None) is None:
                        return
                kind, where = chance.choice(kinds), chance.choice(("stuck", "stuck", "body", "almost"))
                if where == "almost":
                    kind = str(chance.randint(250, 500))
                with Connection(server.port) as connection:
                    connection.send(request(f"/{where}/{kind}") + request("/echo?behind"))
                    try:
                        answer = connection.answer()
                        if where == "almost":
                            whole = answer.status == 503 or answer.body == b"not stuck at all"
                            if not whole or connection.answer().body != b"behind":
                                wrong.append(f"{where} {kind}: {answer}")
                        # One that is still in the queue at its limit gets an honest 503, whatever it asks for.
                        elif answer.status != 503 or connection.answer().body != b"behind":
                            wrong.append(f"{where} {kind}: {answer}")
                    except Failure as failure:
                        if where != "body" or failure.outcome != "truncated":
                            wrong.append(f"{where} {kind}: {failure}")

        with Load(server.port) as load:
            threads = [threading.Thread(target=stall, args=[number]) for number in range(SIDE_BY_SIDE)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            load.stop().check()
        assert wrong == []
        # The exception may come while CPython calls a finalizer, such as asyncio's: that says so, and goes on.
        server.tracebacks = len(server.log.find_all("Exception ignored .*__del__"))
        assert server.log.find_all("could not be brought down") == []
        wait_for(lambda: not established(server))
        assert threads_and_descriptors(server) == before
