"""Compares the two ways to speak TLS without a socket: the standard library's `ssl`, and pyOpenSSL.

Measured is the processor time of the server's end alone, in microseconds: for a handshake, for a request of 30 bytes
with an answer of 200, and for an answer of 1 MiB, record by record.  The two may have OpenSSL of different versions.

    .venv/bin/python bench/tls_libraries.py
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Protocol, TypeVar

from OpenSSL import SSL

from tls_servers import make_certificate

RECORD = 1 << 14
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"x" * 200
LONG = memoryview(b"x" * (1 << 20))
ROUNDS = 7
HANDSHAKES, REQUESTS, LONG_ANSWERS = 200, 2000, 50


P = TypeVar("P")


class End(Protocol):
    """The server's end of a session."""

    def shake(self, data: bytes) -> bytes:
        """Take the handshake further; returns what is to be sent."""

    def open(self, data: bytes) -> bytes:
        """Decrypt."""

    def seal(self, data: bytes | memoryview) -> bytes:
        """Encrypt."""


class Standard:
    """By `ssl`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def shake(self, data: bytes) -> bytes:
        self.incoming.write(data)
        try:
            self.session.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def open(self, data: bytes) -> bytes:
        self.incoming.write(data)
        clear = b""
        while self.incoming.pending:
            clear += self.session.read(RECORD)
        return clear

    def seal(self, data: bytes | memoryview) -> bytes:
        self.session.write(data)
        return self.outgoing.read()


class Other:
    """By pyOpenSSL, as Twisted uses it."""

    def __init__(self, context: SSL.Context) -> None:
        self.session = SSL.Connection(context, None)
        self.session.set_accept_state()

    def shake(self, data: bytes) -> bytes:
        if data:
            self.session.bio_write(data)
        try:
            self.session.do_handshake()
        except SSL.WantReadError:
            pass
        try:
            return self.session.bio_read(1 << 17)
        except SSL.WantReadError:
            return b""

    def open(self, data: bytes) -> bytes:
        self.session.bio_write(data)
        clear = b""
        try:
            while True:
                clear += self.session.recv(RECORD)
        except SSL.WantReadError:
            return clear

    def seal(self, data: bytes | memoryview) -> bytes:
        self.session.send(data)
        return self.session.bio_read(1 << 17)


class Clock:
    """Adds up the processor time of calls."""

    def __init__(self) -> None:
        self.spent = 0

    def __call__(self, function: Callable[[P], bytes], data: P) -> bytes:
        begin = time.thread_time_ns()
        result = function(data)
        self.spent += time.thread_time_ns() - begin
        return result

    def each(self, count: int) -> float:
        """Returns microseconds for each of so many."""
        return self.spent / count / 1000


def connect(end: End, clock: Clock) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """Complete a handshake.  Returns the client's end, and the buffers that it reads from and writes to."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing)
    for _ in range(3):
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            pass
        incoming.write(clock(end.shake, outgoing.read()))
    return client, incoming, outgoing


def measure(make: Callable[[], End]) -> tuple[float, float, float]:
    """Returns microseconds for a handshake, for a request with its answer, and for a long answer."""
    handshakes, requests, answers = Clock(), Clock(), Clock()
    for _ in range(HANDSHAKES):
        connect(make(), handshakes)
    end = make()
    client, incoming, outgoing = connect(end, Clock())
    for _ in range(REQUESTS):
        client.write(REQUEST)
        assert requests(end.open, outgoing.read()) == REQUEST
        incoming.write(requests(end.seal, ANSWER))
        assert client.read(RECORD) == ANSWER
    for _ in range(LONG_ANSWERS):
        for at in range(0, len(LONG), RECORD):
            part = LONG[at : at + RECORD]
            incoming.write(answers(end.seal, part))
            assert client.read(RECORD) == part
    return handshakes.each(HANDSHAKES), requests.each(REQUESTS), answers.each(LONG_ANSWERS)


def main() -> None:
    """Measure both in turns, and print the medians."""
    with tempfile.TemporaryDirectory(prefix="graceful-bench-") as directory:
        make_certificate(Path(directory))
        certificate, key = str(Path(directory) / "site.pem"), str(Path(directory) / "site.key")
        standard = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        standard.load_cert_chain(certificate, key)
        other = SSL.Context(SSL.TLS_SERVER_METHOD)
        other.use_certificate_file(certificate)
        other.use_privatekey_file(key)
    makers: dict[str, Callable[[], End]] = {"ssl": lambda: Standard(standard), "pyOpenSSL": lambda: Other(other)}
    rounds = {name: [measure(make)] for name, make in makers.items()}
    for _ in range(ROUNDS - 1):
        for name, make in makers.items():
            rounds[name].append(measure(make))
    print(f"ssl with {ssl.OPENSSL_VERSION}; pyOpenSSL with {SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()}")
    for name, found in rounds.items():
        handshake, request, answer = (median(column) for column in zip(*found, strict=True))
        print(f"{name:10} handshake {handshake:6.0f} µs  request {request:5.1f} µs  1 MiB {answer:5.0f} µs")


if __name__ == "__main__":
    main()
