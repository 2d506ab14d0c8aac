"""Time that an application is told it has, and reports of those that had none: in a real process."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.support.clients import Connection, get, request
from tests.support.home import Home
from tests.support.postgres import Postgres
from tests.support.reports import reports
from tests.support.sentry import Sentry
from tests.support.server import Server
from tests.support.waiting import wait_for

DEADLINES = "deadlines:application"


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of our own."""
    with Postgres() as postgres:
        yield postgres


def in_log(server: Server) -> list[dict[str, Any]]:
    """The reports that could not be written, as the log has them."""
    lines = server.log.find_all(r"report OOPS-\w+ was not published \((.*?)\): (\{.*\})$")
    return [json.loads(match[2]) for _, match in lines]


def queries(postgres: Postgres) -> int:
    """How many queries run."""
    with psycopg.connect(postgres.dsn) as connection:
        found = connection.execute(
            "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_an_application_is_told_how_much_time_it_has(home: Home) -> None:
    """An application is told how much time it has; without a limit, nothing."""
    options = ("--request-timeout", "20", "--request-timeout", "/remaining/long=50")
    with Server(home, *options, application=DEADLINES) as server:
        one, other, draining = get(server.port, "/remaining").body.split()
        assert 19 < float(other) <= float(one) <= 20
        assert draining == b"False"
    with Server(home, application=DEADLINES) as server:
        assert get(server.port, "/remaining").body == b"None None False"


def test_out_of_time(home: Home) -> None:
    """Code that looks at the clock ends by itself: 503, with a time to come again; nothing is taken down."""
    options = ("--request-timeout", "2", "--reports", str(home.logs))
    with Server(home, *options, application=DEADLINES) as server:
        answer = get(server.port, "/until-over")
        assert (answer.status, answer.header("Retry-After")) == (503, "5")
        server.wait_line(rf"has no time left \({answer.header('X-Oops-Id')}\)")
        assert server.log.find_all("taking down") == []
    (report,) = reports(home)
    assert (report["kind"], report["type"], report["id"]) == (
        "deadline",
        "DeadlineExceeded",
        answer.header("X-Oops-Id"),
    )


def test_a_drain_shortens_the_limit_to_its_deadline(home: Home) -> None:
    """A drain leaves as much as its deadline, less a margin; who obeys is finished, not taken down."""
    with Server(home, "--deadline", "2", application=DEADLINES) as server, ExitStack() as stack:
        one, other = (stack.enter_context(Connection(server.port)) for _ in range(2))
        one.send(request("/until-drain"))
        other.send(request("/until-over"))
        server.wait_line("waits for the drain")
        server.wait_line("works until it is over")
        server.terminate()
        assert 1 < float(one.answer().body) <= 1.5
        assert other.answer().status == 503
        stack.close()
        assert server.wait() == 0
        assert server.drained() == (2, 0, 0)
        server.wait_line(r"on_drain in graceful-aside-\d+, draining: True")
        server.wait_line(r"on_exit in graceful-aside-\d+")


def test_stuck_at_exit(home: Home) -> None:
    """What an application does at the exit may take 5 seconds; then the process ends without it."""
    with Server(home, application=DEADLINES, environment={"STUCK_AT_EXIT": "1"}) as server:
        told = server.terminate()
        assert server.wait() == 0
        assert 4.5 < time.monotonic() - told < 10
        server.wait_line("exit_comes.*has not returned in 5 s")


def test_a_hook_is_called_in_another_thread_at_the_takedown(home: Home) -> None:
    """What only the application can end, it ends: its hook is called in another thread."""
    with Server(home, "--request-timeout", "0.2", "--threads", "1", application=DEADLINES) as server:
        assert get(server.port, "/hook").status == 503
        server.wait_line(r"hook in graceful-aside-\d+")
        server.wait_line("its thread has come down")
        assert get(server.port, "/remaining").status == 200


@pytest.mark.parametrize(
    ("application", "path"),
    [(DEADLINES, "/query"), (DEADLINES, "/alchemy"), ("django_query:application", "/query")],
    ids=["psycopg", "sqlalchemy", "django"],
)
def test_the_database_ends_a_query_whose_time_is_over(
    home: Home, postgres: Postgres, application: str, path: str
) -> None:
    """The database ends a query when its time is over, and at the takedown of its request it is cancelled."""
    environment = {"POSTGRES": postgres.dsn}
    with Server(home, "--request-timeout", "2", application=application, environment=environment) as server:
        for _ in range(3):  # the first one has a connection on which no limit has been set yet
            asked = time.monotonic()
            assert get(server.port, path).status == 503
            assert 1.9 < time.monotonic() - asked < 7
        assert server.log.find_all("taking down") == []
        assert queries(postgres) == 0
    with Server(home, "--deadline", "30", application=application, environment=environment) as server:
        with Connection(server.port) as connection:
            connection.send(request(path))
            wait_for(lambda: queries(postgres) == 1)
            server.terminate()
            server.wait_closed()
            server.send_signal(signal.SIGQUIT)
            assert connection.answer().status == 503
        assert server.wait() == 70
        wait_for(lambda: queries(postgres) == 0)


def test_django_answers_503_wherever_the_time_runs_out(home: Home, postgres: Postgres) -> None:
    """In a middleware within ours, and in what Django leaves to psycopg: a copy, and rows one by one."""
    environment = {"POSTGRES": postgres.dsn}
    with Server(
        home, "--request-timeout", "2", application="django_query:application", environment=environment
    ) as server:
        server.tracebacks = None  # Django logs what the middleware has raised
        for path in ("/inner", "/copy", "/rows"):
            for _ in range(2):
                asked = time.monotonic()
                answer = get(server.port, path)
                assert (path, answer.status, answer.header("Retry-After")) == (path, 503, "5")
                assert 1.9 < time.monotonic() - asked < 7
                assert queries(postgres) == 0
        assert server.log.find_all("taking down") == []
        assert get(server.port, "/beside").body == b"0"


def test_djangos_pool_gets_a_connection_back_without_a_limit(home: Home, postgres: Postgres) -> None:
    """A request's limit is on its connection while it lasts, its stream included, and never behind it."""
    options = ("--request-timeout", "20", "--request-timeout", "/stream=2", "--threads", "1")
    environment = {"POSTGRES": postgres.dsn}
    with Server(home, *options, application="django_query:application", environment=environment) as server:

        def limit(said: bytes) -> float:
            if said.endswith(b"ms"):
                return int(said.removesuffix(b"ms")) / 1000
            assert said.endswith(b"s"), said
            return float(said.removesuffix(b"s"))

        assert 18 < limit(get(server.port, "/quick").body) <= 20.001
        assert get(server.port, "/beside").body == b"0"
        said, ended = get(server.port, "/stream").body.splitlines()
        assert 1 < limit(said) <= 2.001
        assert ended == b"DeadlineExceeded"
        assert get(server.port, "/beside").body == b"0"


def test_failures_slow_requests_and_takedowns_are_reported_once(home: Home) -> None:
    """What failed, was slow, and was taken down is reported once each, and says nothing that it must not say."""
    options = (
        *("--reports", str(home.logs), "--report-slower-than", "0.3", "--report-hide", "token", "--deadline", "0.5"),
        *("--request-timeout", "/slow=0.2:report"),
    )
    with Server(home, *options, application=DEADLINES) as server:
        server.tracebacks = 1
        secrets = ("Cookie: id=secret", "Authorization: Basic secret", "Token: secret")
        with Connection(server.port) as connection:
            failed = connection.get("/fails?token=secret&page=1", *secrets)
        assert failed.status == 500
        server.wait_line(rf"the application failed \({failed.header('X-Oops-Id')}\)")
        assert get(server.port, "/slow").body == b"slow"
        with Connection(server.port) as connection:
            connection.send(request("/timeline"))
            server.wait_line("works until it is over")
            server.terminate()
            taken = connection.answer()
        assert server.wait() == 70
    found = {report["kind"]: report for report in reports(home)}
    assert len(found) == len(reports(home)) == 3
    error = found["error"]
    assert (error["id"], error["type"]) == (failed.header("X-Oops-Id"), "ZeroDivisionError")
    assert "a deliberate failure" in error["value"]
    assert "in fails" in error["tb_text"]
    assert error["url"] == "http://test.example/fails?token=<hidden>&page=1"
    assert "secret" not in json.dumps(error, default=str)
    assert "in slow" in found["slow"]["tb_text"]
    assert 0.8 <= found["slow"]["duration"] < 3
    assert "tried out" in found["slow"]["value"]
    down = found["takedown"]
    assert (down["id"], down["thread"]) == (taken.header("X-Oops-Id"), "came down")
    assert "in timeline" in down["tb_text"]
    assert [action[3] for action in down["timeline"]] == ["select 1", "select pg_sleep(1000)"]
    assert "ended its wait for a condition" in down["takedown"]


def test_two_hundred_takedowns_give_two_hundred_reports(home: Home) -> None:
    """Two hundred that are taken down in one instant give two hundred reports."""
    options = ("--reports", str(home.logs), "--threads", "200", "--deadline", "0")
    with Server(home, *options, application="stalls:application") as server, ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(Connection(server.port))
            connection.send(request(f"/stuck/event?{number}"))
        server.wait_line("stuck in event", 60, count=200)
        server.terminate()
        assert server.wait() == 70
        assert server.drained() == (0, 200, 0)
        stack.close()
    found = reports(home)
    assert len({report["url"] for report in found}) == len({report["id"] for report in found}) == len(found) == 200
    assert in_log(server) == []


def test_directory_that_takes_nothing(home: Home) -> None:
    """What cannot be written is in the log, whole."""
    with Server(home, "--reports", str(home.logs), "--deadline", "0.5", application=DEADLINES) as server:
        server.tracebacks = 2  # the failure's, and that in its report
        (home.logs / time.strftime("%Y-%m-%d", time.gmtime())).write_text("in the way of the day's directory")
        failed = get(server.port, "/fails")
        with Connection(server.port) as connection:
            connection.send(request("/until-drain"))
            server.wait_line("waits for the drain")
            assert server.wait_line("was not published")
            server.terminate()
            assert connection.answer().status == 200
        assert server.wait() == 0
        (report,) = in_log(server)
        assert (report["id"], report["type"]) == (failed.header("X-Oops-Id"), "ZeroDivisionError")
        assert "a deliberate failure" in report["tb_text"]


def test_sentry_gets_an_event_of_each_report(home: Home) -> None:
    """Where the application has initialised Sentry, that gets an event of each, too."""
    with (
        Sentry() as sentry,
        Server(
            home,
            *("--deadline", "0.5", "--report-hide", "token"),
            application="with_sentry:application",
            environment={"SENTRY": sentry.dsn},
        ) as server,
    ):
        server.tracebacks = 1
        failed = get(server.port, "/fails?token=secret")
        with Connection(server.port) as connection:
            connection.send(request("/hook"))
            server.wait_line("waits for its hook")
            server.terminate()
            taken = connection.answer()
        assert server.wait() == 70
    events = {event["tags"]["kind"]: event for event in sentry.events}
    assert set(events) == {"error", "takedown"}
    assert events["error"]["tags"]["oops"] == failed.header("X-Oops-Id")
    assert events["takedown"]["tags"]["oops"] == taken.header("X-Oops-Id")
    (exception,) = events["error"]["exception"]["values"]
    assert (exception["type"], exception["stacktrace"]["frames"][-1]["function"]) == ("ZeroDivisionError", "fails")
    (exception,) = events["takedown"]["exception"]["values"]
    assert exception["stacktrace"]["frames"][-1]["function"] == "hook"
    assert "secret" not in json.dumps(sentry.events)
