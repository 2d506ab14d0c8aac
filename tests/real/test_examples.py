"""The examples: each runs as its docstring says, and loses nothing when it is stopped in the middle of a request."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.support.clients import Connection, digest, get, request
from tests.support.home import Home
from tests.support.server import Server
from tests.support.tac import TacServer
from tests.support.waiting import PATIENCE, wait_for

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MIB = 1024 * 1024
PATTERN = bytes(range(256)) * 4096


def example(home: Home, name: str) -> Server:
    """Return a server of the example's tree, not started yet."""
    return Server(home, application=f"{name}:root", environment={"PYTHONPATH": str(EXAMPLES)})


def wait_in_flight(server: Server, target: str) -> None:
    """Wait until the server says that an exchange for this target is in the application."""
    end = time.monotonic() + PATIENCE
    while not server.log.find_all(rf"{target}\S* from .*in the application"):
        assert time.monotonic() < end, f"{target} is not in flight:\n{server.log}"
        asked = len(server.log.find_all(r"\d+ in flight"))
        server.send_signal(signal.SIGUSR2)
        server.wait_line(r"\d+ in flight", count=asked + 1)


def test_each_example_names_its_command() -> None:
    """Each example says, in its docstring, the command that runs it."""
    for path in EXAMPLES.iterdir():
        if path.suffix == ".tac":
            assert f"\n    twistd -ny {path.name}\n" in path.read_text()
        elif path.suffix == ".py":
            command = f"\n    twistd -n graceful-app --listen tcp:8080:interface=127.0.0.1 {path.stem}:root\n"
            assert command in path.read_text()


def test_files_beside_wsgi(home: Home) -> None:
    """A slow request and a slow download are both finished after SIGTERM; status 0."""
    file = home.run / "large"
    file.write_bytes(PATTERN * 8)
    with (
        example(home, "files_beside_wsgi") as server,
        Connection(server.port) as working,
        Connection(server.port, receive_buffer=4096) as reading,
    ):
        assert get(server.port, "/any/where").body == b"This is /any/where of the application.\n"
        assert b"large" in get(server.port, "/files/").body
        working.send(request("/slow?seconds=5"))
        reading.send(request("/files/large"))
        wait_in_flight(server, "/slow")
        wait_in_flight(server, "/files/large")
        server.settle(2)
        server.terminate()
        server.wait_closed()
        assert working.answer().body == b"This is /slow of the application.\n"
        assert reading.answer().body == PATTERN * 8
        working.close()
        reading.close()
        assert server.wait() == 0
        assert server.drained() == (2, 0, 0)
    file.unlink()


def test_klein_beside_wsgi(home: Home) -> None:
    """A Deferred of klein's is waited for after SIGTERM; status 0."""
    with example(home, "klein_beside_wsgi") as server, Connection(server.port) as connection:
        assert get(server.port, "/any").body == b"This is /any of the application.\n"
        assert get(server.port, "/api/hello/world").body == b"Hello, world!\n"
        assert get(server.port, "/api/nothing").status == 404
        connection.send(request("/api/slow/0.5"))
        wait_in_flight(server, "/api/slow")
        server.settle(1)
        server.terminate()
        server.wait_closed()
        answer = connection.answer()
        assert (answer.body, answer.says_close) == (b"0.5 seconds later\n", True)
        connection.close()
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)


def test_client_leaves_klein(home: Home) -> None:
    """A call of the API whose client has left is cancelled, and does not hold a stop."""
    with example(home, "klein_beside_wsgi") as server, Connection(server.port) as connection:
        connection.send(request("/api/slow/60"))
        wait_in_flight(server, "/api/slow")
        connection.close()
        told = server.terminate()
        assert server.wait() == 0
        assert time.monotonic() - told < 5


def test_a_stop_of_the_downloads_example_loses_nothing(home: Home) -> None:
    """A stop tells those who wait, and lets the download go on; status 0."""
    file = home.run / "large"
    file.write_bytes(PATTERN * 12)
    with (
        example(home, "downloads") as server,
        Connection(server.port) as reader,
        Connection(server.port) as listener,
        Connection(server.port) as late,
        Connection(server.port, receive_buffer=4096) as loading,
    ):
        assert b"/news" in get(server.port).body
        assert get(server.port, "/files/nothing").status == 404
        listener.send(request("/events"))
        reader.send(request("/news"))
        wait_for(lambda: server.in_flight("parked") == 2)
        assert get(server.port, "/tell?it%20is%20there").body == b"2 were told.\n"
        assert reader.answer().body == b"it is there\n"
        late.send(request("/news"))
        loading.send(request("/files/large"))
        wait_for(lambda: (server.in_flight("parked"), server.in_flight("downloading")) == (2, 1))
        server.terminate()
        assert late.answer().body == b"Please ask again.\n"
        assert listener.answer().body.startswith(b"data: it is there\n\nretry: ")
        assert digest(loading.answer().body) == digest(PATTERN * 12)
        for connection in (reader, listener, late, loading):
            connection.close()
        assert server.wait() == 0
        assert server.drained()[1:] == (0, 0)
    file.unlink()


def test_the_embedded_server_finishes_what_is_in_flight(home: Home) -> None:
    """The server in somebody's own application finishes what is in flight, and twistd ends as by the signal."""
    with TacServer(home, EXAMPLES / "embedded.tac") as server, Connection(server.port) as connection:
        assert get(server.port).body.startswith(b"The other service has ticked")
        connection.send(request("/slow?0.5"))
        assert get(server.port).status == 200  # what was sent before has been read before
        server.terminate()
        server.wait_closed()
        answer = connection.answer()
        assert (answer.status, answer.says_close) == (200, True)
        connection.close()
        assert server.wait() == -signal.SIGTERM
        assert server.drained()[1:] == (0, 0)
        assert home.left_behind() == []
