"""TLS as others speak it: programs, a browser and a scanner, while servers are deployed.

GRACEFUL_TEST_DEPLOYS says how many deploys of each kind there are: two, or one with workers, if it is not set.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.support.chromium import Chromium
from tests.support.clients import request
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.tls import Certificate, TLSConnection
from tests.support.tls_clients import Clients, curl, openssl, strict
from tests.support.waiting import wait_for

SHORT: Final = ("--idle-grace", "0.5")
TOOK_OVER: Final = r"took over from process (\d+)"
DEPLOYS: Final = int(os.environ.get("GRACEFUL_TEST_DEPLOYS", "0"))
#: `make install` does not make it; `make .venv/.scanner` does.
SCANNER: Final = Path(__file__).parent.parent.parent / ".venv" / "scanner" / "bin" / "sslyze"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for all servers here."""
    return Certificate(tmp_path_factory.mktemp("certificate"))


def clients_of(port: int, certificate: Certificate) -> Clients:
    """Clients of each make, by both versions."""
    strict_ones = [
        strict(port, certificate.context(version)) for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    ]
    return Clients(*strict_ones, curl(port, certificate.path), openssl(port, certificate.path))


def again(server: Server, certificate: Certificate) -> str:
    """The endpoint of a server that takes over from another."""
    return certificate.own.replace("tls:0:", f"tls:{server.port}:")


def test_takeovers_lose_no_handshake_and_no_request(home: Home, certificate: Certificate) -> None:
    """One server after the other gets the socket."""
    with Server(home, *SHORT, listen=[certificate.own]) as first, ExitStack() as stack:
        clients = stack.enter_context(clients_of(first.port, certificate))
        server = first
        for _ in range(DEPLOYS or 2):
            listen = [again(first, certificate)]
            old, server = server, stack.enter_context(Server(home, "--takeover", *SHORT, listen=listen))
            server.wait_line(TOOK_OVER)
            wait_for(lambda pid=server.pid: pid in clients.pids or clients.failures, timeout=30)
            assert old.wait() == 0
        clients.__exit__()
        assert (clients.failures, clients.asked > 20) == ([], True)


@pytest.mark.parametrize("workers", [1, 2])
def test_reloads_lose_no_handshake_and_no_request(home: Home, certificate: Certificate, workers: int) -> None:
    """Deploys in place, by SIGHUP."""
    become_subreaper()
    with Server(home, *SHORT, "--workers", str(workers), listen=[certificate.own]) as server:
        main = server.pid
        with clients_of(server.port, certificate) as clients:
            for number in range(DEPLOYS or 3 - workers):
                start = len(server.log)
                os.kill(main, signal.SIGHUP)
                if workers == 1:
                    wait_for(lambda old=main: int((home.run / "twistd.pid").read_text() or old) != old, timeout=30)
                    main = int((home.run / "twistd.pid").read_text())
                else:
                    server.wait_line("deployed: all workers run", timeout=60, start=start)
                least = workers * (number + 2)
                wait_for(lambda least=least: len(clients.pids) >= least or clients.failures, timeout=60)
        assert (clients.failures, clients.asked > 20) == ([], True)
        successor = int((home.run / "twistd.pid").read_text())
        os.kill(successor, signal.SIGTERM)
        if successor != server.pid:
            assert server.wait() == 0
            wait_for(lambda: gone(successor), timeout=30)


def gone(pid: int) -> bool:
    """Whether a child of ours has ended; it is collected."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


def test_a_browser_notices_no_takeover(home: Home, certificate: Certificate) -> None:
    """Its page asks all the time, and no request of it fails."""
    asking = """
        window.pids = new Set(), window.failures = [], window.over = false;
        (async () => {
            while (!window.over) {
                try { window.pids.add(await (await fetch('/pid', {cache: 'no-store'})).text()); }
                catch (error) { window.failures.push(String(error)); }
            }
            window.ended = true;
        })(); true
    """
    with Server(home, *SHORT, listen=[certificate.own]) as old, Chromium("--ignore-certificate-errors") as browser:
        page = browser.page(f"https://127.0.0.1:{old.port}/")
        page.wait("location.protocol === 'https:' && document.readyState === 'complete'")
        page.evaluate(asking)
        page.wait("window.pids.size === 1")
        with Server(home, "--takeover", *SHORT, listen=[again(old, certificate)]) as new:
            new.wait_line(TOOK_OVER)
            page.wait("window.pids.size === 2")
            assert old.wait() == 0
            page.evaluate("window.over = true")
            page.wait("window.ended")
            assert page.evaluate("window.failures") == []


def test_a_scanner_finds_nothing(home: Home, certificate: Certificate) -> None:
    """Compared with Mozilla's intermediate list, and with the attacks that sslyze knows."""
    assert SCANNER.exists(), "sslyze has its own environment: make .venv/.scanner"
    with Server(home, listen=[certificate.own]) as server:
        command = [str(SCANNER), "--mozilla_config=intermediate", f"127.0.0.1:{server.port}"]
        scanned = subprocess.run(command, capture_output=True, text=True, timeout=120)
        server.tracebacks = None
    findings = [line.strip() for line in scanned.stdout.splitlines() if line.startswith("        * ")]
    # The public authorities do not know a certificate of the tests.
    findings = [one for one in findings if not one.startswith("* certificate_path_validation: ")]
    if sys.version_info < (3, 15):  # Python cannot say which curves are offered, and OpenSSL has two more, good ones
        assert len(findings) == 1 and "'X448'" in findings[0] and "'secp521r1'" in findings[0], scanned.stdout
        assert findings.pop().startswith("* tls_curves: ")
    assert findings == []
    assert "COMPLIANCE AGAINST TLS CONFIGURATION" in scanned.stdout
    for fine in (
        "OK - Compression disabled",
        "OK - Not vulnerable to OpenSSL CCS injection",
        "OK - Not vulnerable to Heartbleed",
        "OK - Not vulnerable, RSA cipher suites not supported",
        "Client Renegotiation DoS Attack:   OK - Not vulnerable",
    ):
        assert fine in scanned.stdout, scanned.stdout


def test_a_stop_waits_for_a_handshake_under_way(home: Home, certificate: Certificate) -> None:
    """The client has connected before SIGTERM: it is served, and told that the connection ends."""
    with Server(home, "--idle-grace", "5", listen=[certificate.own]) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = certificate.context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:

            def turn() -> None:
                client.sendall(outgoing.read())
                incoming.write(client.recv(1 << 16))

            with pytest.raises(ssl.SSLWantReadError):
                session.do_handshake()
            hello = outgoing.read()
            client.sendall(hello[:50])
            server.settle()  # the server has had a turn
            server.terminate()
            server.wait_closed()
            client.sendall(hello[50:])
            while True:
                try:
                    session.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    turn()
            session.write(request("/pid"))
            answer = b""
            while not answer:
                try:
                    answer = session.read(1 << 16)
                except ssl.SSLWantReadError:
                    turn()
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ") and b"connection: close" in head.lower(), head
            assert int(body) == server.pid
        assert server.wait() == 0


def test_a_scope_has_the_clients_certificate(home: Home, certificate: Certificate, tmp_path: Path) -> None:
    """As the extension `tls` of ASGI has it; a plain connection has no such key."""
    theirs = Certificate(tmp_path, "client.pem", common="Jörg, of the tests")
    listen = [f"{certificate.own}:client-ca={theirs.path}", certificate.own]
    with Server(home, application="asgi_starlette:app", listen=listen) as server:
        context = certificate.context()
        context.load_cert_chain(theirs.path)
        with TLSConnection(server.ports[0], context) as client:
            told = json.loads(client.get("/scope").body)["extensions"]["tls"]
            (shown,) = told["client_cert_chain"]
            assert shown in theirs.path.read_text()
            assert told["server_cert"] in certificate.path.read_text()
            assert told["client_cert_name"] == "CN=Jörg\\, of the tests"
            assert (told["client_cert_error"], told["tls_version"]) == (None, 0x0304)
            assert told["cipher_suite"] in (0x1301, 0x1302, 0x1303)
        with TLSConnection(server.ports[1], certificate.context(ssl.TLSVersion.TLSv1_2)) as client:
            told = json.loads(client.get("/scope").body)["extensions"]["tls"]
            assert (told["client_cert_chain"], told["client_cert_name"], told["tls_version"]) == ([], None, 0x0303)
