"""The PROXY protocol on the server's own sockets, as a real HAProxy speaks it in `mode tcp`."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import Connection, Failure, get
from tests.support.haproxy import HAProxy
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.waiting import wait_for

ENDPOINT = "tcp:0:interface=127.0.0.1:proxy=127.0.0.0/8"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n"
TCP = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen site
    bind fd@{clients}
    server one {server} {options}
"""


class TCPProxy(HAProxy):
    """An HAProxy that forwards TCP to one server.

    :param server: its address, as HAProxy writes it.
    :param options: of HAProxy's `server` line.
    """

    def __init__(self, directory: Path, server: str, options: str) -> None:
        self._server, self._options = server, options
        super().__init__(directory, 0, 0, "")

    def configuration(self, **values: Any) -> str:
        """Returns HAProxy's configuration."""
        return super().configuration(**values).partition("defaults")[0] + TCP.format(
            clients=values["clients"], server=self._server, options=self._options
        )


def environ_of(port: int, *fields: str) -> dict[str, str]:
    """Returns the environ of a request."""
    found: dict[str, str] = json.loads(get(port, "/environ", *fields).body)
    return found


@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
def test_the_client_of_haproxy_is_known(home: Home, option: str) -> None:
    """Its address and port are the application's; health checks by the same protocol find the server up."""
    with Server(home, listen=[ENDPOINT]) as server:
        options = f"{option} check-send-proxy check inter 100ms rise 1 fall 1"
        with TCPProxy(home.path, f"127.0.0.1:{server.port}", options) as balancer:
            with Connection(balancer.port) as client:
                environ = json.loads(client.get("/environ").body)
                assert environ["REMOTE_ADDR"] == "127.0.0.1"
                assert int(environ["REMOTE_PORT"]) == client.socket.getsockname()[1]
                assert int(environ["SERVER_PORT"]) == balancer.port
            wait_for(lambda: "L4OK" in balancer.ask("show stat"))
            assert ",UP," in balancer.ask("show stat")


def test_a_unix_socket_takes_the_protocol(home: Home) -> None:
    """Behind an HAProxy on the same machine."""
    path = home.run / "site.socket"
    with Server(home, listen=[f"unix:{path}:proxy=unix"]) as server:
        with TCPProxy(home.path, f"unix@{path}", "send-proxy-v2") as balancer:
            assert environ_of(balancer.port)["REMOTE_ADDR"] == "127.0.0.1"
        assert server.pid


def test_only_named_proxies_are_believed(home: Home) -> None:
    """Another peer is refused before it has said a word, and the log says so once."""
    with Server(home, listen=["tcp:0:interface=127.0.0.1:proxy=10.0.0.0/8"]) as server:
        for _ in range(3):
            with Connection(server.port) as client, pytest.raises((Failure, OSError)):
                client.send(LINE)
                client.get("/environ")
        server.wait_line(r"socket tcp:127\.0\.0\.1:\d+: 127\.0\.0\.1 is refused: it is not in proxy=")
        assert len(server.log.find_all("is refused")) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_deploy_keeps_the_protocol_and_what_it_told(home: Home, workers: int) -> None:
    """A connection whose header has come survives a deploy in place; new ones are asked for theirs."""
    become_subreaper()
    with Server(home, "--workers", str(workers), listen=[ENDPOINT]) as server:
        with Connection(server.port) as client:
            client.send(LINE)
            first = json.loads(client.get("/environ").body)
            pid = int(client.get("/pid").body)
            os.kill(server.pid, signal.SIGHUP)

            def fresh() -> dict[str, str]:
                with Connection(server.port) as connection:
                    connection.send(LINE)
                    if int(connection.get("/pid").body) == pid:
                        return {}
                    return dict(json.loads(connection.get("/environ").body))

            if workers > 1:
                server.wait_line("deployed: all workers run", timeout=30)
            wait_for(fresh)
            wait_for(lambda: int(client.get("/pid").body) != pid)
            moved = json.loads(client.get("/environ").body)
            assert moved["REMOTE_ADDR"] == "192.0.2.1"
            assert moved["SERVER_PORT"] == first["SERVER_PORT"] == "443"
            assert fresh()["REMOTE_ADDR"] == "192.0.2.1"
        with socket.create_connection(("127.0.0.1", server.port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                plain.recv(10)
        successor = int((home.run / "twistd.pid").read_text())
        os.kill(successor, signal.SIGTERM)
        if successor != server.pid:
            assert server.wait() == 0
            assert os.waitstatus_to_exitcode(os.waitpid(successor, 0)[1]) == 0
