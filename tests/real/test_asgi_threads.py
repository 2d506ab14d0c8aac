"""Takedowns of what ASGI frameworks run in threads: interrupted as WSGI is, reported, and counted if it goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.command import graceful, status_of
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

SHORT = ("--idle-grace", "0.5", "--deadline", "1")
APPLICATION = "asgi_threads:app"


def status_after(server: Server, path: str, *working: str) -> int:
    """Ask for what does not end by itself, stop the server when it works there, and see 503.

    :param working: what the application says that it works on.
    :returns: the server's exit status.
    """
    with Connection(server.port) as client:
        client.send(request(path))
        for where in working:
            server.wait_line(f"{where}: working")
        server.terminate()
        assert client.answer().status == 503
        return server.wait()


@contextmanager
def others(server: Server, path: str, count: int = 2) -> Iterator[list[int | str]]:
    """Have other clients ask for what is quick, again and again.  Yields each status, or how a request has failed."""
    over, answers = threading.Event(), []

    def ask() -> None:
        while not over.is_set():
            try:
                answers.append(get(server.port, path).status)
            except Failure as failure:
                answers.append(str(failure))

    clients = [threading.Thread(target=ask) for _ in range(count)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        over.set()
        for client in clients:
            client.join()


@pytest.mark.parametrize("work", ["sleeps", "receives"])
@pytest.mark.parametrize("way", ["endpoint", "asyncio", "asgiref"])
@pytest.mark.parametrize("application", [APPLICATION, "asgi_threads:wrapped"])
def test_a_thread_is_interrupted_at_the_deadline(home: Home, way: str, work: str, application: str) -> None:
    """Its code gets `Takedown`, where it waits or works, and the report shows where that was."""
    reports = home.logs / "reports"
    options = (*SHORT, "--reports", str(reports))
    with Server(home, *options, application=application) as server:
        assert status_after(server, f"/{way}/{work}", way) == 70
        server.wait_line(f"{way}: Takedown")
        assert server.drained() == (0, 1, 0)
        (report,) = [path.read_text(errors="replace") for path in reports.rglob("*") if path.is_file()]
        assert f"in {work}" in report
        assert "raised Takedown" in report


@pytest.mark.parametrize("work", ["sleeps", "receives"])
def test_a_view_of_djangos_is_interrupted(home: Home, work: str) -> None:
    """Django cancels its view itself when it is told that the client has left."""
    with Server(home, *SHORT, application="asgi_django_threads:app") as server:
        assert status_after(server, f"/{work}", "view") == 70
        server.wait_line("view: Takedown")
        assert server.drained() == (0, 1, 0)


def test_a_function_in_c_is_ended(home: Home) -> None:
    """The exception is set while it sleeps, and met when what it waits for is ended."""
    with Server(home, *SHORT, application=APPLICATION) as server:
        assert status_after(server, "/c", "c") == 70
        server.wait_line("c: Takedown")


def test_all_threads_of_a_request_are_interrupted(home: Home) -> None:
    """A task may wait for several."""
    with Server(home, *SHORT, application=APPLICATION) as server:
        assert status_after(server, "/two", "first", "second") == 70
        server.wait_line("first: Takedown")
        server.wait_line("second: Takedown")


def test_a_thread_that_goes_on_is_named_and_counted(home: Home) -> None:
    """The task is over at once, but its thread is not: exit status 71."""
    with Server(home, *SHORT, application=APPLICATION) as server:
        assert status_after(server, "/endpoint/insists", "endpoint") == 71
        server.wait_line(r"its task could not be brought down \(raised Takedown \d times, .*\) and is abandoned")
        assert "in insists" in str(server.log).partition("and is abandoned")[2]
        assert server.drained() == (0, 1, 1)


def test_a_thread_that_goes_on_behind_its_task_is_counted(home: Home) -> None:
    """`gather` ends with the first exception, and waits no longer for the others."""
    with Server(home, *SHORT, application=APPLICATION) as server:
        assert status_after(server, "/gathered", "first", "second") == 71
        server.wait_line("first: Takedown")
        assert server.drained() == (0, 1, 1)


def test_at_the_deadline_all_is_interrupted(home: Home) -> None:
    """Also the threads of tasks that the request does not own, since the process ends."""
    with Server(home, *SHORT, application=APPLICATION) as server:
        assert status_after(server, "/left", "left") == 70
        server.wait_line("left: Takedown")


def test_the_status_shows_where_a_thread_is(home: Home) -> None:
    """Not only that its task waits for it."""
    with Server(home, *SHORT, application=APPLICATION) as server, Connection(server.port) as client:
        client.send(request("/endpoint/receives"))
        server.wait_line("endpoint: working")
        server.send_signal(signal.SIGUSR2)
        server.wait_line("its thread 'AnyIO worker thread' is here:")
        server.wait_line("in receives")
        server.terminate()
        client.answer()
        assert server.wait() == 70


@pytest.mark.parametrize("application", ["asgi_threads:app", "asgi_threads:wrapped"])
def test_what_a_thread_has_begun_is_cleaned_up_in_order(home: Home, application: str) -> None:
    """The end of a dependency runs in a thread, too, and is not interrupted for a second."""
    with Server(home, *SHORT, application=application) as server:
        with Connection(server.port) as client, Connection(server.port) as other:
            client.send(request("/dependency/receives"))
            server.wait_line("dependency: working")
            other.send(request("/cleans"))
            server.wait_line("cleans: working")
            server.terminate()
            assert client.answer().status == 503
            assert other.answer().status == 503
        assert server.wait() == 70
        text = str(server.log)
        assert text.index("dependency: Takedown") < text.index("cleanup: working") < text.index("cleanup: done")
        assert text.index("cleans: Takedown") < text.index("task: done")


def test_a_task_that_works_for_all_requests_is_left_alone(home: Home) -> None:
    """It was begun by a request that is taken down, and has its context."""
    with Server(home, "--idle-grace", "0.5", application=APPLICATION) as server:
        with Connection(server.port) as first:
            first.send(request("/shared/returns?hang=1"))
            wait_for(lambda: [one["phase"] for one in status_of(home)["in_flight"]] == ["in the application"])
            number = status_of(home)["in_flight"][0]["id"]
            with others(server, "/shared/returns") as answers:
                assert graceful(home, "takedown", str(number)).returncode == 0
                assert first.answer().status == 503
                server.wait_line("its task has come down")
        assert (set(answers), len(answers) > 5) == ({200}, True)
        server.terminate()
        assert server.wait() == 0


def test_a_request_limit_frees_the_thread(home: Home) -> None:
    """The server goes on, with all its threads, and no other request is harmed."""
    limit = ("--request-timeout", "/endpoint/receives=0.5", "--idle-grace", "0.5")
    with Server(home, *limit, application=APPLICATION) as server:
        with others(server, "/endpoint/returns", 4) as answers:
            for _ in range(3):
                with Connection(server.port) as connection:
                    connection.send(request("/endpoint/receives"))
                    assert connection.answer().status == 503
            server.wait_line("endpoint: Takedown", count=3)
            server.wait_line("its task has come down", count=3)
        assert set(answers) == {200}
        server.terminate()
        assert server.wait() == 0


def test_a_thread_that_is_lost_holds_no_later_stop(home: Home) -> None:
    """It was abandoned while the server went on: the stop does not wait for it, and its status tells of it."""
    limit = ("--request-timeout", "/endpoint/insists=0.5", "--idle-grace", "0.5", "--deadline", "60")
    with Server(home, *limit, application=APPLICATION) as server:
        with Connection(server.port) as connection:
            connection.send(request("/endpoint/insists"))
            assert connection.answer().status == 503
        server.wait_line("could not be brought down")
        server.terminate()
        assert server.wait() == 71
