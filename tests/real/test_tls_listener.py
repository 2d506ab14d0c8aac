"""TLS on the server's own sockets: served, drained, handed over, and shared; certificates renewed under load."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from graceful.control.client import ControlClient
from tests.support.clients import Connection, Failure, chunked, request
from tests.support.command import graceful, status_of
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.ports import free_port
from tests.support.server import Server
from tests.support.tls import Certificate, TLSConnection
from tests.support.tls_clients import Clients, strict
from tests.support.waiting import wait_for

MIB = 1024 * 1024
SHORT = ("--idle-grace", "0.5")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for all servers here."""
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(module_home: Home, certificate: Certificate) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    options = (*SHORT, "--threads", "3", "--spool", str(module_home.spool), "--header-timeout", "2")
    with Server(module_home, *options, listen=[certificate.own]) as running:
        yield running


def tls(
    server: Server, certificate: Certificate, version: ssl.TLSVersion = VERSIONS[1], **more: Any
) -> TLSConnection:
    """Connect."""
    return TLSConnection(server.port, certificate.context(version), **more)


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_of_every_kind_are_answered(
    server: Server, certificate: Certificate, version: ssl.TLSVersion
) -> None:
    """Short and long, with bodies and pipelined, on one connection, which ends with TLS's goodbye."""
    with tls(server, certificate, version) as client:
        environ = json.loads(client.get("/environ").body)
        assert (environ["wsgi.url_scheme"], environ["HTTPS"], environ["SSL_CLIENT_VERIFY"]) == ("https", "on", "NONE")
        assert environ["SSL_PROTOCOL"] == version.name.replace("_", ".")
        body = os.urandom(3 * MIB)
        client.send(request("/upload", method="POST", body=body))
        assert hashlib.sha256(body).hexdigest() in client.answer(method="POST").body.decode()
        client.send(request("/environ") * 5)
        assert [client.answer().status for _ in range(5)] == [200] * 5
        assert client.get("/pid", "Connection: close").says_close
        client.end()


def test_curl_and_openssl_agree(server: Server, certificate: Certificate) -> None:
    """Other clients speak with it, too: by HTTP/1.1, by safe suites only, without renegotiation."""
    url = f"https://127.0.0.1:{server.port}/pid"
    shown = subprocess.run(
        ["curl", "-sv", "--cacert", str(certificate.path), url, url], capture_output=True, text=True, timeout=20
    )
    assert shown.stdout == 2 * str(server.pid), shown.stderr
    assert "accepted to use http/1.1" in shown.stderr or "server accepted http/1.1" in shown.stderr
    assert re.search("Re-?using existing (https: )?connection", shown.stderr), shown.stderr

    def s_client(*options: str, said: str = "") -> str:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", *options]
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=20)
        return done.stdout + done.stderr

    assert "ALPN protocol: http/1.1" in s_client("-alpn", "h2,http/1.1")
    weak = ("-cipher", "ALL:@SECLEVEL=0")
    for refused in (("-tls1_1", *weak), ("-tls1_2", "-cipher", "AES128-SHA"), ("-tls1_2", "-cipher", "AES256-SHA")):
        assert "Cipher is (NONE)" in s_client(*refused), refused
    assert "no renegotiation" in s_client("-tls1_2", said="R\nGET / HTTP/1.1\r\n\r\n").lower()


def test_slow_and_broken_clients_end_by_a_rule(server: Server, certificate: Certificate) -> None:
    """Plain HTTP is told so, garbage and silence are not waited for; the server serves on."""
    with Connection(server.port) as plain:
        assert plain.get("/").status == 400
    with socket.create_connection(("127.0.0.1", server.port)) as garbage:
        garbage.sendall(b"\x16\x03\x01\x00\x05rubbish" * 10)
        garbage.settimeout(10)
        assert garbage.recv(100).startswith(b"\x15")  # an alert
        assert garbage.recv(100) == b""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"\x16\x03\x01")
        silent.settimeout(10)
        assert silent.recv(100) == b""
    assert time.monotonic() - began < 6
    with tls(server, certificate) as client:
        assert client.get("/pid").status == 200


def test_a_large_file_arrives_whole_at_a_slow_reader(home: Home, certificate: Certificate) -> None:
    """Through a download, while other clients are served; and its drain waits for it."""
    files = home.path / "files"
    files.mkdir()
    content = os.urandom(MIB) * 48
    (files / "large").write_bytes(content)
    with Server(home, *SHORT, "--download", f"/files={files}", listen=[certificate.own]) as server:
        with tls(server, certificate, receive_buffer=1 << 16) as slow:
            slow.send(request("/files/large"))
            with tls(server, certificate) as other:
                assert other.get("/pid").status == 200
            server.terminate()
            server.wait_closed()
            answer = slow.answer()
            assert hashlib.sha256(answer.body).digest() == hashlib.sha256(content).digest()
        assert server.wait() == 0


def test_a_takedown_is_said_to_the_client(home: Home, certificate: Certificate) -> None:
    """By 503, when the deadline has passed."""
    gate = Gate(home.path / "gate")
    with Server(home, *SHORT, "--deadline", "0.5", listen=[certificate.own]) as server:
        with tls(server, certificate) as client:
            client.send(request(gate.target()))
            gate.wait_reached()
            server.terminate()
            assert client.answer().status == 503
        gate.open()
        assert server.wait() in (70, 71)


def test_client_certificates_are_the_applications(home: Home, certificate: Certificate, tmp_path: Path) -> None:
    """With client-ca=, a client without one is refused, and the subject of a good one is in the environ."""
    client_certificate = Certificate(tmp_path, "client.pem", common="Jörg, of the tests")
    endpoint = f"{certificate.own}:client-ca={client_certificate.path}"
    with Server(home, listen=[endpoint]) as server:
        context = certificate.context()
        with pytest.raises((Failure, ssl.SSLError, OSError)), TLSConnection(server.port, context) as client:
            client.get("/environ")
        context.load_cert_chain(client_certificate.path)
        for _ in range(2):
            with TLSConnection(server.port, context) as client:
                environ = json.loads(client.get("/environ").body)
                assert environ["SSL_CLIENT_VERIFY"] == "SUCCESS"
                assert environ["SSL_CLIENT_S_DN_CN"].encode("latin-1").decode() == "Jörg, of the tests"
                assert environ["SSL_CLIENT_S_DN"].encode("latin-1").decode() == "CN=Jörg\\, of the tests"
                assert environ["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----")
                assert environ["SSL_SERVER_CERT"] in certificate.path.read_text()


def test_handshakes_without_descriptors_wait_and_a_stop_loses_none(home: Home, certificate: Certificate) -> None:
    """Clients that the server had no descriptors to accept make their handshake later, in a stop as well."""
    options = ("--max-connections", "1000")  # and the usual time for a first request: the clients share a processor
    context = certificate.context()

    def ask(accepted_or_not: socket.socket) -> int:
        with context.wrap_socket(accepted_or_not, server_hostname="127.0.0.1", suppress_ragged_eofs=False) as client:
            client.sendall(request("/pid", "Connection: close"))
            said = b""
            while piece := client.recv(1000):
                said += piece
            return int(said.split(b"\r\n\r\n")[1])

    with Server(home, *options, listen=[certificate.own], open_files=64) as server, ThreadPoolExecutor(100) as many:
        connected = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(100)]
        server.wait_line("(?i)descriptors|too many open files|EMFILE")
        server.terminate()
        assert list(many.map(ask, connected)) == [server.pid] * 100
        assert server.wait() == 0


def test_a_certificate_is_renewed_without_a_failed_handshake(home: Home, tmp_path: Path) -> None:
    """A hundred times under load, by swapped links; the last one is served, shown, and named in the metrics."""
    # By different names: of two that sign themselves by one name, OpenSSL may take the wrong one for the signer.
    pairs = [
        Certificate(tmp_path, f"{number}.pem", common=f"graceful test {number}", days=20 + number)
        for number in range(2)
    ]
    live = tmp_path / "live.pem"
    live.symlink_to(pairs[0].path)
    context = ssl.create_default_context()
    for pair in pairs:
        context.load_verify_locations(pair.path)
    status = free_port()
    endpoint = f"tls:0:interface=127.0.0.1:certificate={live}"
    options = ("--status-listen", f"tcp:{status}:interface=127.0.0.1")
    with Server(home, *options, listen=[endpoint]) as server:
        clients = Clients(*[strict(server.port, context)] * 2)
        with clients, ControlClient(str(home.run / "graceful.sock")) as control:
            for number in range(1, 101):
                swapped = tmp_path / "new.pem"
                swapped.symlink_to(pairs[number % 2].path)
                swapped.rename(live)
                asked = clients.asked
                assert control.post("/reload-certificates")["refused"] == []
                wait_for(lambda asked=asked: clients.asked > asked + 2 or clients.failures)
        assert (clients.failures, clients.asked > 200) == ([], True)
        assert len(server.log.find_all("certificate .* is loaded again")) >= 100
        (shown,) = status_of(home)["certificates"]
        assert shown["file"] == str(live)
        assert abs(shown["ends"] - time.time() - 20 * 86400) < 600
        with Connection(status) as metrics:
            metrics.send(request("/metrics", host="127.0.0.1"))
            assert b"graceful_certificate_end_timestamp_seconds{file=" in metrics.answer().body
        shutil.copy(pairs[1].path, tmp_path / "good.pem")
        pairs[0].path.write_text("rubbish")
        told = graceful(home, "reload-certificates")
        assert (told.returncode, "there is no certificate in it" in told.stderr) == (1, True)
        with TLSConnection(server.port, context) as client:
            assert client.get("/pid").status == 200
        start = len(server.log)
        live.unlink()
        live.symlink_to(tmp_path / "good.pem")
        server.wait_line("certificate .*live.pem is loaded again", start=start)
        server.tracebacks = None


def test_a_bad_certificate_stops_the_start_with_one_line(
    home: Home, certificate: Certificate, tmp_path: Path
) -> None:
    """Also with workers, and without a traceback."""
    other = Certificate(tmp_path, "other.pem")
    for workers in ("1", "2"):
        endpoint = f"{certificate.own}:key={other.path}"
        failed = Server(home, "--workers", workers, listen=[endpoint], wait_open=False).run()
        assert failed.returncode == 1
        assert "is another certificate's" in failed.stdout
        assert "Traceback" not in failed.stdout


def test_a_chunked_answer_ends_whole(server: Server, certificate: Certificate) -> None:
    """Requests and answers of unknown length, through the same buffers."""
    with tls(server, certificate) as client:
        client.send(request("/upload", "Transfer-Encoding: chunked", method="POST") + chunked([b"a" * 100_000] * 5))
        assert client.answer(method="POST").status == 200
