"""System calls that fail, in a real process, at each step from accept to stop and takeover.

After each: the next request is served, or was refused honestly; SIGTERM ends the process in time and with the right
status; no client waits for ever.  Each row sees in the log that its failure has really happened.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.waiting import wait_for

APPLICATION = "faults:application"
LARGE = 300_000


def post(target: str, size: int) -> bytes:
    """A request with a large body."""
    return request(target, f"Content-Length: {size}", method="POST") + b"x" * size


def fail(server: Server, name: str, number: str, count: int = -1) -> None:
    """Have a system call fail from now on."""
    start = len(server.log)
    assert get(server.port, f"/fail?name={name}&errno={number}&count={count}").body == b"done"
    server.wait_line(f"ordered: {name}$", start=start)


# -- while it serves --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all rows: what one failure leaves behind, the next ones would find."""
    home = Home(os.getuid())
    files = tmp_path_factory.mktemp("files")
    (files / "file").write_bytes(b"f" * LARGE)
    try:
        with Server(home, "--download", f"/files={files}", "--deadline", "5", application=APPLICATION) as server:
            server.tracebacks = None
            yield server
            server.settle()
            server.terminate()
            assert server.wait() == 0
            assert server.drained()[1:] == (0, 0)
        assert home.left_behind() == []
    finally:
        home.remove()


#: The system call, its error and how often it is raised; what is asked for; and what a client may get: the status of
#: an answer, or None for a connection that is closed.
WHILE_SERVING = [
    ("thread", "EAGAIN", 1, "upload", {500}),
    ("thread", "EAGAIN", 1, "/files/file", {500}),
    *(
        ("accept", number, 3, "/", {200})
        for number in ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ECONNABORTED", "EPERM")
    ),
    ("accept", "9999", 3, "/", {200}),
    ("setblocking", "ENOMEM", 1, "/", {None}),
    ("epoll", "ENOSPC", 1, "/", {None}),
    ("epoll", "ENOMEM", 1, "/files/file", {None}),
    ("getsockname", "ENOBUFS", 1, "/", {None, 200}),
    ("recv", "ENOMEM", 1, "/", {None, 200}),
    ("send", "ENOBUFS", 1, "/", {None}),
    ("open", "EMFILE", 1, "/files/file", {500}),
    ("open", "ENOMEM", 1, "/files/file", {500}),
    ("fstat", "EIO", 1, "/files/file", {500}),
    ("sendfile", "EPERM", -1, "/files/file", {200}),
    ("sendfile", "ENOSYS", -1, "/files/file", {200}),
    ("sendfile", "ENOMEM", 1, "/files/file", {None}),
    ("tempfile", "EMFILE", 1, "upload", {500}),
    ("tempfile", "ENOSPC", 1, "upload", {507}),
    ("setsockopt", "ENOBUFS", -1, "/files/file", {200}),
    ("shutdown", "ENOTCONN", 1, "close", {200}),
]


@pytest.mark.parametrize(
    ("name", "number", "count", "what", "seen"),
    WHILE_SERVING,
    ids=[f"{row[0]}-{row[1]}-{row[3]}" for row in WHILE_SERVING],
)
def test_a_failure_costs_one_client_at_most(
    serving: Server, name: str, number: str, count: int, what: str, seen: set[int | None]
) -> None:
    """That client has a clear answer, or its connection is closed; the next one is served."""
    port = serving.port
    before = len(serving.log)
    fail(serving, name, number, count)
    data = post("/upload", LARGE) if what == "upload" else request("/" if what == "close" else what)
    if what == "close":
        data = request("/", "Connection: close")
    status: int | None = None
    try:
        with Connection(port, timeout=10) as connection:
            connection.send(data)
            status = connection.answer().status
    except (Failure, OSError):
        pass
    assert status in seen
    if count > 0 and name not in ("thread", "getsockname", "shutdown"):
        serving.wait_line(f"fault: {name}$", start=before)
    for _ in range(3):
        try:
            assert get(port, "/heal").body == b"done"
            break
        except (Failure, OSError):
            continue
    assert get(port, "/echo?x").body == b"x"
    serving.settle()


# -- at a stop --------------------------------------------------------------------------------------------

AT_A_STOP = [
    ("setitimer", "EPERM"),
    ("thread", "EAGAIN"),
    ("rename", "EROFS"),
    ("open", "EMFILE"),
    ("shutdown", "ENOTCONN"),
    ("setsockopt", "EPERM"),
    ("getsockname", "ENOBUFS"),
    ("accept", "EMFILE"),
    ("fstat", "EIO"),
    ("epoll", "ENOSPC"),
]


@pytest.mark.parametrize(("name", "number"), AT_A_STOP, ids=[row[0] for row in AT_A_STOP])
def test_a_stop_comes_whatever_fails(home: Home, name: str, number: str) -> None:
    """The request in flight is answered, and the process ends by itself, with 0, long before its last limit."""
    with (
        Server(home, "--deadline", "5", "--idle-grace", "0.5", application=APPLICATION) as server,
        Gate(home.path / "gate") as gate,
        Connection(server.port) as connection,
    ):
        server.tracebacks = None
        connection.send(request(gate.target()))
        gate.wait_reached()
        fail(server, name, number)
        server.terminate()
        server.wait_line("stopping|closing|SIGTERM|closed")
        gate.open()
        assert connection.answer().status == 200
        assert server.wait(10) == 0
        home.disturbed = name in ("rename", "fstat")  # its pid file cannot be moved, or not be told from others


# -- at a deploy ------------------------------------------------------------------------------------------

IN_THE_PREDECESSOR = [
    ("fork", "EAGAIN"),
    ("pipe", "EMFILE"),
    ("pidfd", "EPERM"),
    ("socketpair", "EMFILE"),
    ("thread", "EAGAIN"),
]

#: The system call, its error, how many calls come before, and how often it is raised.
IN_THE_SUCCESSOR = [
    *(("thread", "EAGAIN", after, -1) for after in range(6)),
    ("setitimer", "EPERM", 0, -1),
    ("listen", "ENOBUFS", 0, -1),
    ("epoll", "ENOSPC", 0, 3),
    ("open", "EMFILE", 0, -1),
    ("getsockname", "ENOBUFS", 0, -1),
    ("setsockopt", "ENOBUFS", 0, -1),
    ("rename", "EROFS", 0, -1),
]


def main_process(home: Home) -> int:
    """Returns the process in the pid file."""
    with suppress(FileNotFoundError):
        return int((home.run / "twistd.pid").read_text() or "0")
    return 0


def deployed_or_refused(server: Server, home: Home) -> None:
    """Send SIGHUP, wait for its end, and see that the site is served, and stops."""
    first = server.pid
    server.tracebacks = None
    server.send_signal(signal.SIGHUP)
    # Not the words of a successor that stops: it may still answer.
    server.wait_line(r"no deploy|this one serves on|has taken over")
    wait_for(lambda: served(server.port))
    for _ in range(10):
        assert get(server.port, "/echo?x").body == b"x"
    if server.log.find_all("has taken over"):
        wait_for(lambda: main_process(home) not in (0, first))
    last = main_process(home)
    for _ in range(10):
        assert get(server.port, "/pid").body == b"%d" % last
    os.kill(last, signal.SIGTERM)
    if last == first:
        assert server.wait() == 0
    else:
        assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
        assert server.wait() == 0


def served(port: int) -> bool:
    """Whether a request is answered."""
    try:
        return get(port, "/echo?x").body == b"x"
    except (Failure, OSError):
        return False


@pytest.mark.parametrize(("name", "number"), IN_THE_PREDECESSOR, ids=[row[0] for row in IN_THE_PREDECESSOR])
def test_a_deploy_that_cannot_be_begun_leaves_the_server_as_it_is(home: Home, name: str, number: str) -> None:
    """It is refused in one line, or comes off; in both cases one process serves."""
    become_subreaper()
    with Server(home, "--idle-grace", "0.5", application=APPLICATION) as server:
        fail(server, name, number)
        deployed_or_refused(server, home)


@pytest.mark.parametrize(
    ("name", "number", "after", "count"), IN_THE_SUCCESSOR, ids=[f"{row[0]}-{row[2]}" for row in IN_THE_SUCCESSOR]
)
def test_a_successor_that_fails_ends_and_only_it(home: Home, name: str, number: str, after: int, count: int) -> None:
    """The predecessor serves on; or the successor did not need what failed, and serves."""
    become_subreaper()
    orders = home.path / "orders"
    environment = {"FAULTS_OF_SUCCESSOR": str(orders)}
    options = ("--idle-grace", "0.5", "--threads", "2", "--access-log", str(home.logs / "access.log"))
    with Server(home, *options, application=APPLICATION, environment=environment) as server:
        orders.write_text(f"name={name}&errno={number}&after={after}&count={count}")
        deployed_or_refused(server, home)
        orders.unlink()
        home.disturbed = name == "rename"  # its pid file cannot be moved
