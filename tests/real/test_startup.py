"""Starting: either a server that serves, or one clear line, a status that is not zero, and nothing left."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.gate import Gate
from tests.support.home import UNPRIVILEGED, Home
from tests.support.ports import free_port
from tests.support.processes import alive
from tests.support.server import KEEPS_READING, LOOPBACK, OPEN, PROGRAMS, Server
from tests.support.waiting import wait_for


@pytest.fixture(params=[False, True], ids=["foreground", "daemon"])
def daemon(request: pytest.FixtureRequest) -> bool:
    """Both ways in which twistd starts."""
    assert isinstance(request.param, bool)
    return request.param


def fails(server: Server, *words: str) -> None:
    """Assert that a start ends soon, not well, and with one line that holds all of the words."""
    ended = server.run()
    lines = ended.stdout.splitlines()
    assert ended.returncode != 0, ended.stdout
    assert not [line for line in lines if "Traceback" in line], ended.stdout
    assert [line for line in lines if all(word in line for word in words)], ended.stdout
    assert server.home.left_behind() == []


def test_start_and_stop(any_home: Home, daemon: bool) -> None:
    """A server starts, serves and stops, in the foreground and as a daemon, as each kind of user."""
    with Server(any_home, daemon=daemon, fresh=True) as server:
        assert get(server.port).body == b"Hello, world!"


def test_without_a_module_the_demo_is_served(home: Home) -> None:
    """Without a MODULE the built-in demo is served."""
    with Server(home, application=None, fresh=True) as server:
        assert b"kill -TERM" in get(server.port).body


def test_address_in_use(home: Home, daemon: bool) -> None:
    """A port that is taken ends the start, even if the one who has it shares it by SO_REUSEPORT."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        fails(Server(home, port=port, daemon=daemon), str(port), "in use")


def test_second_address_in_use(home: Home, daemon: bool) -> None:
    """One bad address among several ends the start, and the good one's socket file is not left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = [f"unix:{home.run}/socket", LOOPBACK.format(port=port)]
        fails(Server(home, listen=listen, daemon=daemon), str(port), "in use")


def test_a_foreign_address_ends_the_start(home: Home, daemon: bool) -> None:
    """An address that is not this machine's ends the start."""
    listen = ["tcp:8080:interface=192.0.2.1"]
    fails(Server(home, listen=listen, daemon=daemon), "192.0.2.1")


def test_application_that_fails_to_import(home: Home, daemon: bool) -> None:
    """The line says which module failed, and why."""
    fails(Server(home, application="broken_import", daemon=daemon), "broken_import", "no database here")


def test_no_such_module(home: Home, daemon: bool) -> None:
    """A module that is not there is named."""
    fails(Server(home, application="nowhere.wsgi", daemon=daemon), "nowhere")


def test_no_such_callable(home: Home, daemon: bool) -> None:
    """A callable that is not in the module is named."""
    fails(Server(home, application="basic:missing", daemon=daemon), "basic", "missing")


@pytest.mark.parametrize(
    "options",
    [
        ("--threads", "0"),
        ("--threads", "many"),
        ("--deadline", "-1"),
        ("--trusted-proxy", "nobody"),
        ("--spool", "/nowhere/spool"),
        ("--max-body", "1X"),
    ],
    ids=" ".join,
)
def test_a_bad_option_is_refused_by_name_and_value(home: Home, options: tuple[str, str], daemon: bool) -> None:
    """A bad value is refused before anything happens, by a line with the option and the value."""
    fails(Server(home, *options, daemon=daemon), options[0], options[1])


def test_a_bad_endpoint_is_named(home: Home, daemon: bool) -> None:
    """An endpoint that nobody understands is named."""
    fails(Server(home, listen=["tpc:8080"], daemon=daemon), "tpc")


def test_access_log_that_cannot_be_opened(home: Home, daemon: bool) -> None:
    """A log that cannot be written is noticed at the start."""
    fails(Server(home, "--access-log", "/nowhere/access.log", daemon=daemon), "/nowhere/access.log")


def test_check_ends_with_0_and_serves_nothing(home: Home) -> None:
    """`--check` ends with 0 when everything is right, and serves nothing."""
    ended = Server(home, "--check").run()
    assert ended.returncode == 0, ended.stdout
    assert " open (pid" not in ended.stdout
    assert home.left_behind() == []


def test_a_check_that_fails_says_why_in_one_line(home: Home) -> None:
    """Also for a daemon, whose failures are logged otherwise: a check has no log."""
    for application in ("broken_import", "nosuch"):
        ended = Server(home, "--check", application=application, daemon=True).run()
        assert ended.returncode == 1
        assert len(ended.stdout.splitlines()) == 1, ended.stdout


def test_check_finds_what_a_start_would(home: Home) -> None:
    """`--check` fails as a start would: for the application, and for an address in use."""
    fails(Server(home, "--check", application="broken_import"), "no database here")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(Server(home, "--check", port=port), str(port), "in use")


def test_pid_file_in_use(home: Home, daemon: bool) -> None:
    """While a server is not yet stopping, a second one with its pid file is refused and touches nothing."""
    with Server(home) as server:
        second = Server(home, daemon=daemon).run()
        assert second.returncode != 0
        assert str(server.pid) in second.stdout
        assert (home.run / "twistd.pid").read_text().strip() == str(server.pid)
        assert get(server.port).status == 200


def test_successor_while_the_first_still_finishes(any_home: Home, daemon: bool) -> None:
    """As soon as one says `closed`, the next may have its directory, pid file and port; each removes its own."""
    home = any_home
    pid_file = home.run / "twistd.pid"
    with Gate(home.path / "gate") as gate:
        first = Server(home, port=free_port())
        with first, Connection(first.port) as connection:
            connection.send(request(gate.target()))
            gate.wait_reached()
            first.terminate()
            first.wait_closed()
            with Server(home, port=first.port, daemon=daemon) as second:
                assert get(second.port).body == b"Hello, world!"
                gate.open()
                assert connection.answer().body == b"passed"
                assert first.wait() == 0
                assert pid_file.read_text().strip() == str(second.pid)
                assert home.left_behind() == ["run/graceful.sock", "run/twistd.pid"]
                assert get(second.port).status == 200


def test_successor_on_a_unix_socket(home: Home) -> None:
    """The first does not remove the socket file of its successor."""
    path = home.run / "socket"
    with Gate(home.path / "gate") as gate:
        first = Server(home, listen=[f"unix:{path}"])
        with first, Connection(str(path)) as connection:
            connection.send(request(gate.target()))
            gate.wait_reached()
            first.terminate()
            first.wait_closed()
            with Server(home, listen=[f"unix:{path}"]):
                gate.open()
                assert connection.answer().body == b"passed"
                assert first.wait() == 0
                assert get(str(path)).body == b"Hello, world!"


def test_successor_that_ends_first(home: Home) -> None:
    """A successor that comes and goes while the first still finishes does not disturb it."""
    with (
        Gate(home.path / "gate") as gate,
        Server(home, port=free_port()) as first,
        Connection(first.port) as connection,
    ):
        connection.send(request(gate.target()))
        gate.wait_reached()
        first.terminate()
        first.wait_closed()
        with Server(home, port=first.port) as second:
            assert get(second.port).status == 200
        assert first.stays(0)
        gate.open()
        assert connection.answer().body == b"passed"
        assert first.wait() == 0


def test_stale_pid_file(home: Home, daemon: bool) -> None:
    """A pid file of a process that is no more does not keep a server from starting."""
    with socket.create_server(("127.0.0.1", 0)):
        ended = os.spawnlp(os.P_NOWAIT, "true", "true")
        os.waitpid(ended, 0)
    (home.run / "twistd.pid").write_text(f"{ended}\n")
    with Server(home, daemon=daemon, fresh=True) as server:
        assert get(server.port).status == 200


def test_the_server_runs_under_twist(home: Home) -> None:
    """Under `twist`, which has no daemons and no pid file, it serves and stops in the same way."""
    with Server(home, program="twist") as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as connection:
            connection.send(request(gate.target()))
            gate.open_in_a_stop(server)
            assert connection.answer().body == b"passed"
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)


def test_with_uid_the_application_runs_as_that_user(home: Home, daemon: bool) -> None:
    """With `--uid` the application is imported and runs as that user."""
    uid, prefix = (UNPRIVILEGED, KEEPS_READING) if os.getuid() == 0 else (os.getuid(), ())
    for directory in (home.run, home.logs, home.spool):
        directory.chmod(0o777)
    with Server(
        home,
        "--spool",
        str(home.spool),
        application="who:application",
        daemon=daemon,
        twistd_options=[f"--uid={uid}", f"--gid={uid}"],
        prefix=prefix,
    ) as server:
        assert get(server.port).body == f"imported by {uid}, served by {uid}".encode()


def test_an_inherited_socket_is_served_until_the_stop(home: Home) -> None:
    """A listening socket that the process inherits is served, and no longer accepts when it has stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        number = listening.fileno()
        with Server(home, listen=[f"fd:{number}"], pass_fds=[number]) as server:
            assert get(port).status == 200
            server.terminate()
            assert server.wait() == 0
        # Somebody else still holds the socket: nobody may have shut it down.
        with Connection(port) as connection:
            connection.send(request())
            accepted, _ = listening.accept()
            accepted.close()


def test_unix_socket_of_a_living_server(home: Home) -> None:
    """The socket file of a server that still accepts is not taken away from it."""
    path = home.run / "socket"
    with Server(home, listen=[f"unix:{path}"], twistd_options=["--pidfile="]):
        second = Server(home, listen=[f"unix:{path}"], twistd_options=["--pidfile="]).run()
        assert second.returncode != 0
        assert str(path) in second.stdout
        assert get(str(path)).status == 200


def test_unix_socket_of_a_dead_server(home: Home) -> None:
    """The socket file that a killed server left is taken over."""
    path = home.run / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(Failure, match="refused"):
        Connection(str(path))
    with Server(home, listen=[f"unix:{path}"]):
        assert get(str(path)).status == 200


def test_graceful_serve_is_the_same_server(home: Home) -> None:
    """`graceful serve` serves a module of the working directory, takes twistd's options, and deploys in place."""
    module, pid_file = home.run / "shop.py", home.run / "shop.pid"
    module.write_text("def application(environ, start):\n    start('200 OK', [])\n    return [b'one']\n")
    options = ("--listen", LOOPBACK.format(port=0), "--pidfile", "shop.pid")
    command = [str(PROGRAMS / "graceful"), "serve", "shop", *options]
    try:
        with Server(home, command=command, environment={"PYTHONDONTWRITEBYTECODE": "1"}) as server:
            assert get(server.port).body == b"one"
            assert int(pid_file.read_text()) == server.pid
            module.write_text(module.read_text().replace("one", "another"))
            server.send_signal(signal.SIGHUP)
            successor = int(server.wait_line(OPEN, count=2)["pid"])
            try:
                server.wait_line("took over from process")
                assert get(server.port).body == b"another"
                wait_for(lambda: int(pid_file.read_text()) == successor)
            finally:
                os.kill(successor, signal.SIGTERM)
            server.wait_line("drained in", count=2)
            wait_for(lambda: not alive(successor))
            assert not pid_file.exists()
            assert server.wait() == 0
    finally:
        module.unlink()


def test_graceful_serve_says_where_it_looked(home: Home) -> None:
    """A module that is not there is refused in one line, with the directories in which it was looked for."""
    server = Server(home, command=[str(PROGRAMS / "graceful"), "serve", "nowhere.wsgi"])
    fails(server, "nowhere.wsgi cannot be imported", f"looked in {home.run}")
