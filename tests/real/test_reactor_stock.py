"""What the documentation says of the stock reactor: it is why there is another one.

Each of these services is in the middle of the same work as in test_reactor.py, and gets SIGTERM.
"""

from __future__ import annotations

import ftplib
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import APPLICATIONS
from tests.support.service import Service, files
from tests.support.ssh import make_key, ssh
from tests.support.waiting import wait_for

MIB = 1024 * 1024
LOOPBACK = "tcp:0:interface=127.0.0.1"


def stock(home: Home, *arguments: str, **environment: str) -> Service:
    """A service under the stock reactor."""
    return Service(home, *arguments, reactor="epoll", environment=environment)


def test_a_streamed_answer(home: Home) -> None:
    """It is cut after what was sent, and the process hangs: thread and reactor wait for each other."""
    with (
        stock(home, "web", "--listen", LOOPBACK, "--wsgi", "streaming.application") as service,
        Gate(home.path / "gate") as gate,
        Connection(service.port) as connection,
    ):
        connection.send(request(gate.target("/")))
        gate.wait_reached()
        service.terminate()
        with pytest.raises(Failure, match="truncated"):
            connection.answer()
        gate.open()
        assert service.stays(2)
        service.kill()


def test_on_the_stock_reactor_a_download_ends_too_early(home: Home) -> None:
    """curl is told of a transfer that ends too early."""
    directory, large = files(home, 32 * MIB)
    with stock(home, "web", "--listen", LOOPBACK, "--path", str(directory)) as service:
        url = f"http://127.0.0.1:{service.port}/large"
        curl = subprocess.Popen(["curl", "-sf", "--limit-rate", "16M", url], stdout=subprocess.PIPE)
        assert curl.stdout is not None
        first = curl.stdout.read(MIB)
        service.terminate()
        assert len(first + curl.stdout.read()) < len(large)
        assert curl.wait() in (18, 56)  # a part of the file; or a failure to receive
        assert service.wait() == -signal.SIGTERM


def test_a_slow_deferred(home: Home) -> None:
    """Its client gets nothing at all."""
    arguments = ("web", "--listen", LOOPBACK, "--class", "slow_klein.resource")
    with stock(home, *arguments) as service, Connection(service.port) as slow:
        slow.send(request("/slow"))
        wait_for(lambda: get(service.port, "/waiting").body == b"1")
        service.terminate()
        with pytest.raises(Failure, match="truncated"):
            slow.answer()
        assert service.wait() == -signal.SIGTERM


def test_an_ssh_session(home: Home, tmp_path: Path) -> None:
    """It is closed in the middle of a command."""
    key = make_key(tmp_path)
    with (
        stock(home, "-y", str(APPLICATIONS / "ssh.tac"), KEY=str(key)) as service,
        ssh(service.port, key, "echo begun; read word; echo got $word") as client,
    ):
        assert client.stdin is not None and client.stdout is not None
        assert client.stdout.readline() == b"begun\n"
        service.terminate()
        assert client.stdout.read() == b""
        assert client.wait(10) == 255
        assert service.wait() == -signal.SIGTERM


def test_an_ftp_transfer(home: Home) -> None:
    """It is cut; the client is told so, after the fact."""
    directory, large = files(home, 16 * MIB)
    with (
        stock(home, "-y", str(APPLICATIONS / "ftp.tac"), ROOT=str(directory)) as service,
        ftplib.FTP() as client,
    ):
        client.connect("127.0.0.1", service.port, timeout=10)
        client.login()
        with client.transfercmd("RETR large") as transfer, transfer.makefile("rb") as received:
            first = received.read(1000)
            service.terminate()
            assert len(first + received.read()) < len(large)
        with pytest.raises(ftplib.error_temp, match="426"):
            client.voidresp()
        client.close()
        assert service.wait() == -signal.SIGTERM


def test_a_thread_that_never_ends(home: Home) -> None:
    """It holds the process for ever."""
    with stock(home, "-y", str(APPLICATIONS / "threads.tac"), JOBS="never") as service:
        service.wait_line("never is here")
        service.terminate()
        assert service.stays(2)
        service.kill()
