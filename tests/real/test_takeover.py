"""A real process takes over from another: nobody notices, whatever becomes of the new one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from support.clients import Connection
from support.command import status_of
from support.home import Home
from support.server import Server

SHORT = ("--idle-grace", "0.5")
TOOK_OVER = r"took over from process (\d+)"
HANDED = r"process (\d+) has taken over"
OFFERED = r"process (\d+) gets the sockets"
KILL_POINTS = 50
CHAIN = 20


@contextmanager
def successor(old: Server, *options: str, **others: object) -> Iterator[Server]:
    """A server that takes over from another, in its directory."""
    if "listen" not in others:
        others["port"] = old.port
    with Server(old.home, "--takeover", *SHORT, *options, **others) as server:  # type: ignore[arg-type]
        server.wait_line(TOOK_OVER)
        yield server


def gone(old: Server) -> None:
    """The predecessor has ended well."""
    assert old.wait() == 0
    assert old.drained()[1:] == (0, 0)


def test_the_next_one_gets_the_sockets(any_home: Home) -> None:
    """The old one serves until the new one accepts, says so, and ends; the pid file and the path are its own."""
    with Server(any_home, *SHORT) as old, Connection(old.port) as kept:
        assert kept.get("/echo?1").status == 200
        with successor(old) as new:
            old.wait_line(rf"socket tcp:127.0.0.1:{old.port} handed to {new.pid}$")
            old.wait_line(rf"socket tcp:127.0.0.1:{old.port} closed \(pid {old.pid}\)")
            last = kept.get("/echo?2")
            assert (last.body, last.says_close) == (b"2", True)
            kept.end()
            gone(old)
            assert (any_home.run / "twistd.pid").read_text() == f"{new.pid}\n"
            assert status_of(any_home)["pid"] == new.pid
            assert sorted(path.name for path in any_home.run.iterdir()) == ["graceful.sock", "twistd.pid"]
            with Connection(old.port) as fresh:
                assert fresh.get("/echo?3").body == b"3"
                fresh.close()
