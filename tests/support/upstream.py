"""An upstream server that does what a test says, byte by byte: what no well-behaved program does.

Each of its connections is served by a thread that reads the head of a request and then plays a *script*: a function
that is given the connection, and sends, waits, resets or stays silent.  When it returns, the connection is closed.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable

from tests.support.waiting import wait_for

LIMIT = 20.0
STALL = 0.3


class Visit:
    """One connection to the upstream, and the request on it.

    :ivar head: the head of the request.
    :ivar sent: how many bytes were taken by the kernel so far.
    :ivar stalled: it is set when nothing more could be sent for a while.
    :ivar left: it is set when the other side is seen to have closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.head = b""
        self.sent = 0
        self.stalled = threading.Event()
        self.left = threading.Event()

    def read_head(self) -> bool:
        """Read a request; False if there is none."""
        while b"\r\n\r\n" not in self.head:
            data = self.socket.recv(65536)
            if not data:
                return False
            self.head += data
        return True

    def field(self, name: str) -> str | None:
        """The value of a field of the request."""
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return None

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)
        self.sent += len(data)

    def flood(self, size: int) -> None:
        """Send so many bytes, and note when nobody takes them."""
        piece = bytes(65536)
        end = self.sent + size
        while self.sent < end:
            self.socket.settimeout(STALL)
            try:
                self.sent += self.socket.send(piece[: end - self.sent])
            except TimeoutError:
                self.stalled.set()

    def wait_left(self) -> None:
        """Send nothing, until the other side closes."""
        self.socket.settimeout(LIMIT)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        self.left.set()

    def reset(self) -> None:
        """Break the connection off by a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


Script = Callable[[Visit], object]


class Upstream:
    """A server on the loopback interface.

    :param scripts: for the first connection, the second, and so on; the last one is for all that follow.
    :param tls: what to serve TLS with.
    :ivar visits: its connections on which a request came, in the order of the requests.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self._listening.getsockname()[1]}"
        self.visits: list[Visit] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepter = threading.Thread(target=self._accept, name="upstream", daemon=True)

    def __enter__(self) -> Upstream:
        self._accepter.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepter.join(LIMIT)
        self._listening.close()
        for sock in self._open:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(LIMIT)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            script = self._scripts[min(len(self._open), len(self._scripts) - 1)]
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, script), name="upstream visit", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        sock.settimeout(LIMIT)
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                return
        visit = Visit(sock)
        with sock:
            try:
                if visit.read_head():
                    self.visits.append(visit)
                    script(visit)
            except OSError:
                visit.left.set()

    def visit(self, number: int = 0) -> Visit:
        """Wait for a request, by its number from 0."""
        wait_for(lambda: len(self.visits) > number)
        return self.visits[number]


def says(*pieces: bytes) -> Script:
    """A script that sends bytes and closes."""

    def script(visit: Visit) -> None:
        for piece in pieces:
            visit.send(piece)

    return script


def silent(visit: Visit) -> None:
    """A script that never answers."""
    visit.wait_left()


def head(*fields: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode("latin-1")
