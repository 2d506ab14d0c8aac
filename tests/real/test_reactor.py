"""`twistd --reactor=graceful`: services that know nothing of graceful, stopped in the middle of real work."""

from __future__ import annotations

import ftplib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.clients import Connection, Failure, get, request
from tests.support.docs_blocks import ROOT
from tests.support.docs_site import replaced
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.http2 import HTTP2
from tests.support.server import APPLICATIONS, CLOSED, PROGRAMS
from tests.support.service import Service, files
from tests.support.ssh import make_key, ssh
from tests.support.tls import Certificate, TLSConnection
from tests.support.waiting import wait_for

MIB = 1024 * 1024
LOOPBACK = "tcp:0:interface=127.0.0.1"
WSGI = ("web", "--listen", LOOPBACK, "--wsgi", "streaming.application")
WHOLE = b"chunk" * 12


# -- twistd web ---------------------------------------------------------------------------------------------


def test_a_streamed_answer_is_finished(home: Home) -> None:
    """A WSGI application under `twistd web` streams to its end; the sockets were closed long before."""
    with Service(home, *WSGI) as service, Gate(home.path / "gate") as gate, Connection(service.port) as connection:
        connection.send(request(gate.target("/")))
        gate.wait_reached()
        service.terminate()
        service.wait_line(rf"socket tcp:127\.0\.0\.1:{service.port} closed \(pid {service.pid}\)")
        with pytest.raises(Failure, match="refused"):
            Connection(service.port)
        gate.open()
        assert connection.answer().body == WHOLE
        connection.end()
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)
        service.wait_line(r'"GET /\?path=\S+ HTTP/1.1" 200 60')  # its site has not stopped with its port


def test_a_download_is_finished(home: Home) -> None:
    """curl gets the whole of a large file from `twistd web --path`, though the service was told to stop meanwhile."""
    directory, large = files(home, 32 * MIB)
    with Service(home, "web", "--listen", LOOPBACK, "--path", str(directory)) as service:
        url = f"http://127.0.0.1:{service.port}/large"
        curl = subprocess.Popen(["curl", "-sSf", "--limit-rate", "16M", url], stdout=subprocess.PIPE)
        assert curl.stdout is not None
        first = curl.stdout.read(MIB)
        service.terminate()
        service.wait_line(CLOSED)
        assert first + curl.stdout.read() == large
        assert curl.wait() == 0
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)


def test_an_idle_connection_may_ask_once_more(home: Home) -> None:
    """A request that comes on a kept connection in the drain is answered, as its connection's last one."""
    with Service(home, *WSGI) as service, Connection(service.port) as idle, Connection(service.port) as busy:
        assert idle.get().body == WHOLE
        with Gate(home.path / "gate") as gate:
            busy.send(request(gate.target("/")) + request("/pipelined") + request("/last"))
            gate.wait_reached()
            service.terminate()
            service.wait_line(CLOSED)
            last = idle.get("/more")
            assert (last.body, last.says_close) == (WHOLE, True)
            idle.end()
            gate.open()
        answers = [busy.answer() for _ in range(3)]
        assert [answer.body for answer in answers] == [WHOLE] * 3
        assert [answer.says_close for answer in answers] == [False, False, True]
        busy.end()
        assert service.wait() == 0
        assert service.drained() == (4, 0, 0)


def test_the_last_bytes_are_waited_for(home: Home) -> None:
    """The process ends when the client's kernel has everything, not when its own has."""
    directory, large = files(home, 64 * 1024)
    with (
        Service(home, "web", "--listen", LOOPBACK, "--path", str(directory)) as service,
        Connection(service.port, receive_buffer=4096) as slow,
    ):
        slow.send(request("/large"))
        service.wait_line("GET /large HTTP/1.1. 200 65536")
        service.send_signal(signal.SIGINT)
        service.wait_line(CLOSED)
        assert service.stays(0.5)
        assert slow.answer().body == large
        slow.end()
        assert service.wait() == 0


def test_an_interrupt_waits_for_no_idle_connection(home: Home) -> None:
    """At SIGINT, idle connections are closed at once; at the second one, also what is in flight."""
    with Service(home, *WSGI) as service, Connection(service.port) as idle, Connection(service.port) as busy:
        assert idle.get().body == WHOLE
        with Gate(home.path / "gate") as gate:
            busy.send(request(gate.target("/")))
            gate.wait_reached()
            service.send_signal(signal.SIGINT)
            idle.end()
            assert service.stays(0.2)
            service.send_signal(signal.SIGINT)
            with pytest.raises(Failure, match="reset"):
                busy.answer()
            gate.open()
        assert service.wait() == 70
        assert service.drained() == (0, 1, 0)


def test_what_outlasts_the_deadline_is_taken_down(home: Home) -> None:
    """At the deadline, a begun answer is cut, one that has not begun is a 503, and all of it is named."""
    arguments = ("web", "--listen", LOOPBACK, "--wsgi", "basic.application")
    with (
        Service(home, *arguments, environment={"GRACEFUL_DEADLINE": "0.5"}) as service,
        Gate(home.path / "one") as one,
        Gate(home.path / "two") as two,
        Connection(service.port) as begun,
        Connection(service.port) as waits,
    ):
        begun.send(request(one.target("/half-gate")))
        waits.send(request(two.target()))
        one.wait_reached()
        two.wait_reached()
        service.terminate()
        assert waits.answer().status == 503
        waits.end()
        with pytest.raises(Failure, match="reset"):
            begun.answer()
        service.wait_line(r"taking down exchange \d+ GET /half-gate\S+ from 127\.0\.0\.1: sending for at least")
        service.wait_line(r"taking down exchange \d+ GET /gate\S+ from 127\.0\.0\.1: in the application for at least")
        # The threads are still there: they do not end, and are named.
        assert service.wait() == 71
        assert len(service.log.find_all("abandoning thread")) == 2
        assert service.drained() == (0, 2, 2)


def test_a_second_signal_says_what_is_waited_for(home: Home) -> None:
    """SIGTERM, again, changes nothing: it writes down what is still in flight."""
    with Service(home, *WSGI) as service, Gate(home.path / "gate") as gate, Connection(service.port) as connection:
        connection.send(request(gate.target("/")))
        gate.wait_reached()
        service.terminate()
        service.wait_line(CLOSED)
        service.terminate()
        service.wait_line(r"exchange \d+ GET /\?path=\S+ from 127\.0\.0\.1: sending for at least")
        gate.open()
        assert connection.answer().body == WHOLE
        assert service.wait() == 0


def test_a_daemon_on_a_unix_socket(home: Home) -> None:
    """The drain works after the fork of a daemon, and a Unix socket's file is gone with the socket."""
    path = home.run / "site.socket"
    with (
        Service(home, *WSGI, "--listen", f"unix:{path}", daemon=True) as service,
        Gate(home.path / "gate") as gate,
        Connection(service.port) as connection,
        Connection(str(path)) as idle,
    ):
        connection.send(request(gate.target("/")))
        gate.wait_reached()
        service.send_signal(signal.SIGINT)
        service.wait_line(f"socket unix:{path} closed")
        assert not path.exists()
        idle.end()
        gate.open()
        assert connection.answer().body == WHOLE
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)


def test_a_slow_deferred_is_finished(home: Home) -> None:
    """A klein site answers what waits for a Deferred of its own; another request fires it, on a kept connection."""
    arguments = ("web", "--listen", LOOPBACK, "--class", "slow_klein.resource")
    with Service(home, *arguments) as service, Connection(service.port) as slow, Connection(service.port) as other:
        slow.send(request("/slow"))
        wait_for(lambda: other.get("/waiting").body == b"1")
        service.terminate()
        service.wait_line(CLOSED)
        assert other.get("/go").body == b"gone"
        answer = slow.answer()
        assert (answer.body, answer.says_close) == (b"at last", True)
        assert service.wait() == 0
        assert service.drained() == (2, 0, 0)


# -- TLS ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for all services here."""
    return Certificate(tmp_path_factory.mktemp("certificate"))


def test_an_answer_over_tls_is_finished(home: Home, certificate: Certificate) -> None:
    """An answer over TLS is finished, the connection ends with TLS's goodbye, and the socket is named `ssl:`."""
    with (
        Service(home, "web", "--listen", certificate.endpoint, "--wsgi", "streaming.application") as service,
        Gate(home.path / "gate") as gate,
        TLSConnection(service.port, certificate.context()) as connection,
    ):
        connection.send(request(gate.target("/")))
        gate.wait_reached()
        service.terminate()
        service.wait_line(rf"socket ssl:127\.0\.0\.1:{service.port} closed")
        gate.open()
        assert connection.answer().body == WHOLE
        connection.end()
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)


def test_a_peer_that_never_says_goodbye(home: Home, certificate: Certificate) -> None:
    """A client that does not answer TLS's goodbye does not hold the exit until the deadline."""
    with (
        Service(home, "web", "--listen", certificate.endpoint, "--wsgi", "streaming.application") as service,
        TLSConnection(service.port, certificate.context()) as connection,
    ):
        assert connection.get().body == WHOLE
        service.send_signal(signal.SIGINT)
        assert service.wait(15) == 0
        assert service.drained() == (0, 0, 0)


def test_http2_streams_are_finished(home: Home, certificate: Certificate) -> None:
    """A client is told twice that the connection ends; a stream that it opens in between is served, too."""
    arguments = ("web", "--listen", certificate.endpoint, "--wsgi", "streaming.application")
    with (
        Service(home, *arguments) as service,
        Gate(home.path / "gate") as gate,
        HTTP2(service.port, certificate) as client,
    ):
        begun = client.ask(gate.target("/"))
        before = client.ask("/before")
        client.read_until(lambda: before in client.complete)
        gate.wait_reached()
        service.terminate()
        client.read_until(lambda: len(client.last_streams) == 2, lambda last: last > 5 and client.ask("/between"))
        between = before + 2
        assert client.last_streams == [2**31 - 1, between]
        client.read_until(lambda: between in client.complete)
        assert service.stays(0.2)
        gate.open()
        client.read_until(lambda: begun in client.complete)
        assert [client.bodies[stream] for stream in (begun, before, between)] == [WHOLE] * 3
        client.read_until(lambda: client.ended)
        client.close()
        assert service.wait() == 0
        assert service.drained() == (2, 0, 0)


# -- other protocols ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key, of the SSH server and of its user."""
    return make_key(tmp_path_factory.mktemp("ssh"))


def test_an_ssh_session_is_finished(home: Home, key: Path) -> None:
    """A command that runs in an SSH session goes on, and its output and status come over."""
    arguments = ("-y", str(APPLICATIONS / "ssh.tac"))
    with Service(home, *arguments, environment={"KEY": str(key)}) as service:
        with ssh(service.port, key, "echo begun; read word; echo got $word; exit 3") as client:
            assert client.stdin is not None and client.stdout is not None
            assert client.stdout.readline() == b"begun\n"
            service.terminate()
            service.wait_line(CLOSED)
            client.stdin.write(b"something\n")
            client.stdin.flush()
            assert client.stdout.readline() == b"got something\n"
            assert client.wait(10) == 3
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)


def test_an_open_ssh_session_ends_at_the_deadline(home: Home, key: Path) -> None:
    """A session that is left open ends at the deadline, and not before; it is named."""
    environment = {"KEY": str(key), "GRACEFUL_DEADLINE": "1.5"}
    with Service(home, "-y", str(APPLICATIONS / "ssh.tac"), environment=environment) as service:
        with ssh(service.port, key, "echo begun; cat") as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"begun\n"
            service.terminate()
            closed = service.wait_closed()
            assert client.stdout.read() == b""
            ended = time.monotonic()
        assert 1.4 < ended - closed < 4
        service.wait_line(r"taking down \d+, connection of SSHServerTransport with 127\.0\.0\.1")
        assert service.wait() == 70
        assert service.drained() == (0, 1, 0)


def test_an_ftp_transfer_is_finished(home: Home) -> None:
    """A running transfer ends whole, and the client may begin another one before it leaves.

    Another client has been told a port to connect to for its transfer: that one is still there.
    """
    directory, large = files(home, 16 * MIB)
    with (
        Service(home, "-y", str(APPLICATIONS / "ftp.tac"), environment={"ROOT": str(directory)}) as service,
        ftplib.FTP() as client,
        ftplib.FTP() as other,
    ):
        for one in (client, other):
            one.connect("127.0.0.1", service.port, timeout=10)
            one.login()
        address = other.makepasv()
        with client.transfercmd("RETR large") as transfer, transfer.makefile("rb") as received:
            first = received.read(1000)
            service.terminate()
            service.wait_line(CLOSED)
            assert first + received.read() == large
        assert client.voidresp().startswith("226")
        pieces: list[bytes] = []
        client.retrbinary("RETR large", pieces.append)
        assert b"".join(pieces) == large
        with socket.create_connection(address, 10) as transfer, transfer.makefile("rb") as received:
            other.voidcmd("TYPE I")
            assert other.sendcmd("RETR large").startswith("1")
            assert received.read() == large
        assert other.voidresp().startswith("226")
        other.quit()
        assert service.stays(0.2)
        client.quit()
        assert service.wait() == 0
        assert service.drained() == (5, 0, 0)


def line(connection: Connection) -> bytes:
    """Read a line of a protocol that is not HTTP."""
    data = b""
    while not data.endswith(b"\r\n"):
        data += connection.socket.recv(1) or b"\r\n"
    return data.removesuffix(b"\r\n")


def test_a_protocol_says_when_it_is_idle(home: Home) -> None:
    """A connection that is idle by its protocol's word is closed at once, another one when it has become idle."""
    conversation = home.path / "conversation.tac"
    conversation.write_text(replaced((ROOT / "examples" / "conversation.tac").read_text(), {"4025": "0"}))
    with (
        Service(home, "-y", str(conversation)) as service,
        Connection(service.port) as idle,
        Connection(service.port) as busy,
    ):
        for connection, word in ((idle, b"end"), (busy, b"begin")):
            connection.send(word + b"\r\n")
            assert line(connection) == b"yes, " + word
        service.terminate()
        idle.end()
        busy.send(b"more\r\n")
        assert line(busy) == b"yes, more"
        busy.send(b"end\r\n")
        assert line(busy) == b"yes, end"
        busy.end()
        assert service.wait() == 0
        assert service.drained() == (2, 0, 0)


# -- threads ------------------------------------------------------------------------------------------------


def jobs(home: Home, *names: str, **environment: str) -> Service:
    """A service that runs jobs in threads."""
    return Service(
        home, "-y", str(APPLICATIONS / "threads.tac"), environment={"JOBS": " ".join(names), **environment}
    )


def test_a_thread_that_never_ends_is_abandoned(home: Home) -> None:
    """A pool's thread has until the deadline, and is named with its stack if it is still there."""
    with jobs(home, "never", GRACEFUL_DEADLINE="1") as service:
        service.wait_line("never is here")
        told = service.terminate()
        assert service.wait() == 71
        assert 0.9 < time.monotonic() - told < 5
        service.wait_line("abandoning thread PoolThread-twisted.internet.reactor-0")
        service.wait_line(r"in never$")
        assert service.drained() == (0, 0, 1)


def test_two_interrupts_wait_for_no_thread(home: Home) -> None:
    """A person who presses Ctrl-C twice does not wait for the deadline of a thread."""
    with jobs(home, "never") as service:
        service.wait_line("never is here")
        service.send_signal(signal.SIGINT)
        service.wait_line("stopping: 0 in flight")
        assert service.stays(0.5)
        service.send_signal(signal.SIGINT)
        assert service.wait() == 71
        assert service.drained() == (0, 0, 1)


def test_a_thread_that_asks_the_reactor_is_let_go(home: Home) -> None:
    """A thread that waits for the reactor gets an error when that has stopped, and does not hold the exit."""
    with jobs(home, "asks") as service:
        service.wait_line("asks is here")
        service.terminate()
        assert service.wait(5) == 0
        service.wait_line("asks got ReactorNotRunning")
        assert service.drained() == (0, 0, 0)


def test_what_a_service_asks_to_have_counted(home: Home) -> None:
    """`reactor.inFlight` holds the stop until its Deferred fires."""
    done = home.path / "done"
    with jobs(home, "counted", DONE=str(done)) as service:
        service.wait_line("counted is here")
        service.terminate()
        service.wait_line("stopping: 1 in flight")
        assert service.stays(0.3)
        done.touch()
        assert service.wait() == 0
        assert service.drained() == (1, 0, 0)


# -- settings -----------------------------------------------------------------------------------------------


def graceful(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the `graceful` command."""
    return subprocess.run(
        [PROGRAMS / "graceful", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_control_of_the_reactor_shows_and_obeys(home: Home) -> None:
    """With GRACEFUL_CONTROL, the `graceful` command sees what is in flight, and gives its orders."""
    path = str(home.run / "control.sock")
    with (
        Service(home, *WSGI, environment={"GRACEFUL_CONTROL": path}) as service,
        Gate(home.path / "gate") as gate,
        Connection(service.port) as connection,
    ):
        service.wait_line("control at")
        connection.send(request(gate.target("/some")))
        gate.wait_reached()
        status = json.loads(graceful("status", "--json", GRACEFUL_CONTROL=path).stdout)
        assert (status["state"], status["pid"]) == ("serving", service.pid)
        assert status["sockets"] == [{"name": f"tcp:127.0.0.1:{service.port}", "state": "open"}]
        (shown,) = status["in_flight"]
        assert (shown["method"], shown["path"], shown["phase"]) == ("GET", "/some", "sending")
        waiter = subprocess.Popen([PROGRAMS / "graceful", "stop", "--wait", "gone", "--control", path])
        service.wait_line(CLOSED)
        assert json.loads(graceful("status", "--json", "--control", path).stdout)["state"] == "finishing"
        extended = graceful("extend", "100", "--control", path).stdout
        assert re.search(r"has to be gone in 3[01]\d s", extended)  # some seconds have passed on a busy machine
        gate.open()
        assert connection.answer().body == WHOLE
        assert service.wait() == waiter.wait(10) == 0
        assert service.drained() == (1, 0, 0)


def test_one_exchange_is_taken_down_by_order(home: Home) -> None:
    """An exchange that somebody has chosen is ended, and nothing else; the drain that follows does not count it."""
    path = str(home.run / "control.sock")
    with (
        Service(home, *WSGI, environment={"GRACEFUL_CONTROL": path}) as service,
        Gate(home.path / "gate") as gate,
        Connection(service.port) as chosen,
        Connection(service.port) as other,
    ):
        service.wait_line("control at")
        assert other.get().body == WHOLE
        chosen.send(request(gate.target("/some")))
        gate.wait_reached()
        (shown,) = json.loads(graceful("status", "--json", "--control", path).stdout)["in_flight"]
        assert graceful("takedown", str(shown["id"]), "--control", path).returncode == 0
        with pytest.raises(Failure, match="reset"):
            chosen.answer()
        gate.open()
        assert other.get().body == WHOLE
        service.send_signal(signal.SIGINT)
        assert service.wait() == 0
        assert service.drained() == (0, 0, 0)


def test_health_and_lame_duck(home: Home) -> None:
    """Health says "going down" for as long as the lame duck lasts, while the service still accepts."""
    environment = {"GRACEFUL_STATUS_LISTEN": LOOPBACK, "GRACEFUL_LAME_DUCK": "1"}
    with Service(home, *WSGI, environment=environment) as service:
        door = int(service.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])
        assert get(door, "/+haproxy").status == 200
        service.terminate()
        wait_for(lambda: get(door, "/+haproxy").status == 503)
        assert get(service.port).body == WHOLE
        service.wait_line(CLOSED)
        assert service.wait() == 0


def test_control_that_cannot_be_had(home: Home) -> None:
    """A service whose control socket cannot be made says so in one line, and ends with status 1."""
    with Service(home, *WSGI, environment={"GRACEFUL_CONTROL": str(home.path / "nowhere" / "s")}) as service:
        service.wait_line("cannot make the control socket .*: stopping$")
        assert service.wait() == 1


def test_settings_that_cannot_be_used(home: Home) -> None:
    """A bad setting is named by its variable, before anything is started."""
    done = Service(home, *WSGI, environment={"GRACEFUL_DEADLINE": "soon"}).run()
    assert done.returncode == 1
    assert "GRACEFUL_DEADLINE=soon: expected seconds" in done.stdout


# -- what stays as it is ------------------------------------------------------------------------------------


def test_a_socket_that_others_hold_goes_on_listening() -> None:
    """A port that stops listening does not end the listening of another process that holds its socket."""
    program = """if True:
        import os, socket
        from graceful.reactor import install
        install()
        from twisted.internet import reactor
        from twisted.internet.protocol import Factory
        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        held = socket.socket(fileno=os.dup(port.fileno()))
        reactor.callWhenRunning(reactor.stop)
        reactor.run()
        with socket.create_connection(held.getsockname(), 5):
            print("accepted", held.accept()[0].family.name)
        raise SystemExit(3)
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    # A program that has stopped its reactor itself has its own exit status.
    assert (done.stdout, done.returncode) == ("accepted AF_INET\n", 3), done.stderr
