"""Answers of the event loop that move: downloads go on in the new process byte by byte, and so do event streams."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.real.test_moving import SHORT, ended, replaced_here
from tests.real.test_moving_requests import GONE_IN, gone
from tests.support.clients import Connection, digest, request
from tests.support.home import Home
from tests.support.nginx import Nginx
from tests.support.server import Server
from tests.support.upstream import Upstream, Visit, head
from tests.support.waiting import wait_for

MIB = 1 << 20
BIG = os.urandom(MIB) * 8
APPLICATION = "handover:application"
BY_ASGI = "asgi_handover:app"


@pytest.fixture
def files(home: Home) -> Path:
    """A directory with a large file."""
    made = home.path / "files"
    made.mkdir()
    (made / "big.bin").write_bytes(BIG)
    return made


class Pair:
    """A server that is deployed once, in one of the two ways."""

    def __init__(
        self, stack: ExitStack, home: Home, deploy: str, *options: str, application: str = APPLICATION
    ) -> None:
        self._stack, self._home, self._way, self._application = stack, home, deploy, application
        self._options = (*SHORT, "--access-log", str(home.path / "requests.log"), *options)
        self.old = stack.enter_context(Server(home, *self._options, application=application))
        self.new = 0

    def client(self, **options: int) -> Connection:
        """Returns a new client."""
        return self._stack.enter_context(Connection(self.old.port, **options))  # type: ignore[arg-type]

    def deploy(self) -> None:
        """Replace the process; its successor serves when this returns."""
        if self._way == "takeover":
            options = {"application": self._application, "port": self.old.port, "wait_open": False}
            self._stack.enter_context(Server(self._home, "--takeover", *self._options, **options))  # type: ignore[arg-type]
        self.new = replaced_here(self.old, self._home, self._way)

    def log(self) -> list[str]:
        """Returns the lines of the access log."""
        return (self._home.path / "requests.log").read_text().splitlines()

    def end(self) -> None:
        """Stop the new process, and see that both have ended well."""
        ended(self.old, self.new, self._way)


def test_downloads_of_files_move_and_lose_no_byte(home: Home, stack: ExitStack, files: Path, deploy: str) -> None:
    """By each way in, whole and in part, to clients that take their time, whatever becomes of the file's name."""
    pair = Pair(stack, home, deploy, "--download", f"/files={files}")
    path = files / "big.bin"
    targets = (f"/download?target={path}", f"/wrapped?path={path}", "/files/big.bin", "/files/big.bin")
    clients = [pair.client(receive_buffer=1 << 16) for _ in targets]
    for number, (client, target) in enumerate(zip(clients, targets, strict=True)):
        client.send(request(target, *(["Range: bytes=5-7000000"] if number == 3 else [])) + request("/pid"))
    wait_for(lambda: pair.old.in_flight("downloading") == len(clients))
    pair.deploy()
    path.unlink()
    gone(pair.old)
    for number, client in enumerate(clients):
        answer = client.answer()
        expected = BIG[5:7_000_001] if number == 3 else BIG
        assert (answer.status, digest(answer.body)) == (206 if number == 3 else 200, digest(expected))
        assert client.answer().body == b"%d" % pair.new
    wait_for(lambda: len([line for line in pair.log() if "big.bin" in line]) == len(clients))
    assert sum(f" 200 {8 * MIB} " in line for line in pair.log()) == 3
    assert sum(" 206 6999996 " in line for line in pair.log()) == 1
    pair.end()


def test_downloads_of_urls_move_and_lose_no_byte(home: Home, stack: ExitStack, files: Path, deploy: str) -> None:
    """The new process asks the file store for the rest; one line of the log has all bytes."""
    nginx = stack.enter_context(Nginx(home.path, files))
    pair = Pair(stack, home, deploy, "--download", f"/store={nginx.url}")
    targets = [f"/download?target={nginx.url}/big.bin", "/store/big.bin", "/store/big.bin"]
    clients = [pair.client(receive_buffer=1 << 16) for _ in targets]
    for client, target in zip(clients, targets, strict=True):
        client.send(request(target, *(["Range: bytes=5-7000000"] if client is clients[2] else [])) + request("/pid"))
    wait_for(lambda: pair.old.in_flight("downloading") == len(clients))
    pair.deploy()
    gone(pair.old)
    for number, client in enumerate(clients):
        answer = client.answer()
        expected = BIG[5:7_000_001] if number == 2 else BIG
        assert (answer.status, digest(answer.body)) == (206 if number == 2 else 200, digest(expected))
        assert client.answer().body == b"%d" % pair.new
    wait_for(lambda: len([line for line in pair.log() if "big.bin" in line]) == len(clients))
    assert sum(f" 200 {8 * MIB} " in line for line in pair.log()) == 2
    assert sum(" 206 6999996 " in line for line in pair.log()) == 1
    pair.end()


def test_a_download_without_a_strong_validator_stays(home: Home, stack: ExitStack, deploy: str) -> None:
    """Nothing says that the rest would be of the same file, so the old process sends all of it."""

    def script(visit: Visit) -> None:
        visit.send(head(f"Content-Length: {8 * MIB}", 'ETag: W/"weak"', "Accept-Ranges: bytes"))
        visit.flood(8 * MIB)

    upstream = stack.enter_context(Upstream(script))
    pair = Pair(stack, home, deploy, "--download", f"/store={upstream.url}")
    client = pair.client(receive_buffer=1 << 16)
    client.send(request("/store/x"))
    wait_for(lambda: pair.old.in_flight("downloading") == 1)
    pair.deploy()
    assert pair.old.stays(GONE_IN)
    answer = client.answer()
    assert digest(answer.body) == digest(bytes(8 * MIB))
    assert client.get("/pid").body == b"%d" % pair.new
    gone_late(pair.old)
    pair.end()


def gone_late(server: Server) -> None:
    """See the old process end, however long it has waited."""
    assert server.wait(10) == 0
    assert server.drained() == (1, 0, 0)


def test_parked_requests_that_say_so_move(home: Home, stack: ExitStack, deploy: str) -> None:
    """Their views are called again by the new process; other clients are told to come back."""
    pair = Pair(stack, home, deploy)
    moves = [pair.client() for _ in range(20)]
    for number, client in enumerate(moves):
        client.send(request(f"/park?name=m{number}&move=1") + request("/pid"))
    stays, posts = pair.client(), pair.client()
    stays.send(request("/park?name=stays&drain=say"))
    posts.send(request("/park?name=posts&drain=say&move=1", method="POST"))
    wait_for(lambda: pair.old.in_flight("parked") == len(moves) + 2)
    pair.deploy()
    assert stays.answer().body.startswith(b"come back, stays")
    assert posts.answer("POST").body.startswith(b"come back, posts")
    gone(pair.old)
    asks = pair.client()
    for number, client in enumerate(moves):
        wait_for(lambda number=number: asks.get(f"/answer?name=m{number}&body=news{number}").body == b"True")
        answer = client.answer()
        assert (answer.status, answer.body) == (201, b"news%d" % number)
        assert client.answer().body == b"%d" % pair.new
    for number in range(len(moves)):
        wait_for(lambda number=number: sum(f"name=m{number}&move" in line for line in pair.log()) == 1)
    pair.end()


@pytest.mark.parametrize("application", [APPLICATION, BY_ASGI])
def test_an_event_stream_moves_behind_its_last_event(
    home: Home, stack: ExitStack, deploy: str, application: str
) -> None:
    """One answer on the wire, with the events of both processes: the new one is asked from the last id on."""
    pair = Pair(stack, home, deploy, application=application)
    reader, asks = pair.client(), pair.client()
    reader.send(request("/feed?name=a", "Last-Event-ID: 3") + request("/pid"))
    wait_for(lambda: asks.get("/send?name=a&id=7&body=first").body == b"True")
    asks.get("/send?name=a&body=second")
    old = pair.old.pid
    pair.deploy()
    gone(pair.old)
    wait_for(lambda: asks.get("/send?name=a&id=8&body=third").body == b"True")
    assert asks.get("/send?name=a").body == b"True"
    answer = reader.answer()
    assert answer.header("Content-Type") == "text/event-stream"
    assert answer.body.decode() == (
        f"data: {old} 3\n\nid: 7\ndata: first\n\ndata: second\n\ndata: {pair.new} 7\n\nid: 8\ndata: third\n\n"
    )
    assert reader.answer().body == b"%d" % pair.new
    wait_for(lambda: any("/feed" in line for line in pair.log()))
    (line,) = (line for line in pair.log() if "/feed" in line)
    assert f" 200 {len(answer.body)} " in line
    pair.end()
