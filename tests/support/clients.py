"""An HTTP client that forgives nothing.

A stop without interruption is a claim about bytes, and HTTP libraries hide bytes: they open a new
connection when the old one was closed under a request, they accept a body that ends early, they read over a
second status line.  Load tools know only "errors", so a clean refusal after the socket was closed looks
like an answer that was cut in the middle.

So this client speaks HTTP/1.1 (RFC 9112) over a plain socket, and every request ends in exactly one way:

========== ==========================================================================================
ok         a valid answer, whole, and nothing after it
refused    no connection: nobody listens on the port
reset      the connection was reset, before or within the answer
stale      a kept-alive connection was closed under a request although the last answer allowed another one
truncated  the answer ended early, or did not come at all
timed_out  nothing came for too long
bad        bytes that are not a valid answer, or not the answer to this request
========== ==========================================================================================
"""

from __future__ import annotations

import hashlib
import re
import select
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Literal, NoReturn

from attrs import frozen

Outcome = Literal["ok", "refused", "reset", "stale", "truncated", "timed_out", "bad"]
Headers = tuple[tuple[str, str], ...]

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t -~]*)")
FIELD_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*((?:[!-~\x80-\xff][\t -~\x80-\xff]*)?)")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})")


class Failure(Exception):
    """A request that did not end well.

    :ivar outcome: in which of the ways above.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome: Outcome = outcome


@frozen
class Answer:
    """One whole answer.

    :ivar headers: the fields in the order of the wire, names as sent.
    :ivar body: the body, empty if it was given to a `consume` callback.
    :ivar trailers: the fields after the last chunk.
    :ivar interim: the statuses of the 1xx answers that came before.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes
    trailers: Headers
    interim: tuple[int, ...]

    def header(self, name: str) -> str | None:
        """Return the value of a field that comes at most once, or None."""
        values = self.values(name)
        if len(values) > 1:
            raise Failure("bad", f"{name} comes {len(values)} times")
        return values[0] if values else None

    def values(self, name: str) -> list[str]:
        """Return the values of all fields of this name."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def says_close(self) -> bool:
        """Whether the server announced that it closes the connection after this answer."""
        options = ",".join(self.values("Connection")).lower().split(",")
        return "close" in [option.strip() for option in options]


def request(
    target: str = "/",
    *fields: str,
    method: str = "GET",
    version: str = "1.1",
    host: str | None = "test.example",
    body: bytes | None = None,
) -> bytes:
    """Return the bytes of a request, with a Content-Length if there is a body."""
    lines = [f"{method} {target} HTTP/{version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += fields
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(pieces: Iterable[bytes], *trailers: str) -> bytes:
    """Return a body in chunked coding (RFC 9112 §7.1)."""
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece]
    return b"".join(chunks) + "\r\n".join(["0", *trailers, "", ""]).encode("latin-1")


def digest(body: bytes) -> str:
    """Return what two bodies are compared by when they are too long to be shown: length and SHA-256."""
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}"


class Connection:
    """One connection to a server, used for one request after the other.

    :param address: the port on the host, or the path of a Unix socket.
    :param timeout: how many seconds may pass without a byte.
    :param receive_buffer: SO_RCVBUF in bytes, for a client that reads slowly.
    :param host: an address of the machine's loopback.
    :raises Failure: `refused`, if nobody listens.
    """

    def __init__(
        self,
        address: int | str,
        *,
        timeout: float = 15.0,
        receive_buffer: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        internet = socket.AF_INET6 if ":" in host else socket.AF_INET
        family = internet if isinstance(address, int) else socket.AF_UNIX
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self._buffer = bytearray()
        self._answers = 0
        self._may_be_reused = True
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if isinstance(address, int):
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.socket.connect((host, address))
            else:
                self.socket.connect(address)
        except BaseException as error:
            self.socket.close()
            if isinstance(error, ConnectionRefusedError | FileNotFoundError):
                raise Failure("refused", str(error)) from error
            if isinstance(error, ConnectionError):
                raise Failure("reset", f"while connecting: {error}") from error
            if isinstance(error, TimeoutError):
                raise Failure("timed_out", "while connecting") from error
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection in the usual way."""
        self.socket.close()

    def reset(self) -> None:
        """Close the connection with a RST, as a crashed client does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def closed_while_idle(self) -> bool:
        """Whether the server has closed a connection on which nothing is asked.

        :raises Failure: `bad`, if it sent something that nobody asked for.
        """
        if self._buffer:
            raise Failure("bad", f"{bytes(self._buffer[:80])!r} was sent without a request")
        if not select.select([self.socket], [], [], 0)[0]:
            return False
        try:
            unasked = self.socket.recv(80, socket.MSG_PEEK)
        except ConnectionError:
            return True
        if unasked:
            raise Failure("bad", f"{unasked!r} was sent without a request")
        return True

    def send(self, data: bytes) -> None:
        """Send bytes of a request.

        That the server has closed is noticed by `answer`: it may have answered before.
        """
        try:
            self.socket.sendall(data)
        except TimeoutError as error:
            raise Failure("timed_out", "while sending") from error
        except ConnectionError:
            pass

    def half_close(self) -> None:
        """Say that no more requests will come; answers are still awaited."""
        self.socket.shutdown(socket.SHUT_WR)

    def get(self, target: str = "/", *fields: str, method: str = "GET") -> Answer:
        """Send one request without a body and return its answer."""
        self.send(request(target, *fields, method=method))
        return self.answer(method)

    def answer(
        self, method: str = "GET", *, consume: Callable[[bytes], object] | None = None, version: str = "1.1"
    ) -> Answer:
        """Read one answer to its end.

        :param method: the request's method, which decides whether there is a body.
        :param consume: is given each piece of the body instead of collecting it.
        :param version: of the request: an HTTP/1.0 client cannot read chunked coding.
        :raises Failure: if there is no whole and valid answer.
        """
        interim: list[int] = []
        while True:
            status, reason, headers = self._head()
            if status == 101:
                self._bad("101 without an agreed upgrade")
            if status >= 200:
                break
            interim.append(status)
        answer = Answer(status, reason, headers, b"", (), tuple(interim))
        pieces: list[bytes] = []
        trailers = self._body(answer, method, version, consume or pieces.append)
        self._answers += 1
        self._may_be_reused = not answer.says_close
        return Answer(status, reason, headers, b"".join(pieces), trailers, tuple(interim))

    def some(self, size: int) -> bytes:
        """Read so many bytes of whatever comes, and no more: for a client that stops in the middle.

        :raises Failure: `truncated`, if there are not so many.
        """
        while len(self._buffer) < size:
            try:
                data = self.socket.recv(size - len(self._buffer))
            except TimeoutError as error:
                raise Failure("timed_out", "no byte came") from error
            if not data:
                self._ended()
            self._buffer += data
        some = bytes(self._buffer[:size])
        del self._buffer[:size]
        return some

    def take_some(self) -> None:
        """Receive some of what comes; `answer` reads it later."""
        self._receive()

    def wait_continue(self) -> None:
        """Read the interim answer that tells the client to send its body."""
        status, _, _ = self._head()
        if status != 100:
            self._bad(f"{status} instead of 100")

    def end(self) -> None:
        """Expect the connection to be closed cleanly, with nothing more on it, and close it too."""
        if self._buffer or self._receive():
            self._bad("there is something after the last answer")
        self.close()

    def _head(self) -> tuple[int, str, Headers]:
        line = STATUS_LINE.fullmatch(self._line(first=True))
        if line is None:
            self._bad("not a status line")
        headers = self._fields()
        lengths = [value for key, value in headers if key.lower() == "content-length"]
        codings = [value for key, value in headers if key.lower() == "transfer-encoding"]
        status = int(line[1])
        if len(lengths) + len(codings) > 1:
            self._bad(f"framed more than once: {lengths} {codings}")
        if (status < 200 or status == 204) and (lengths or codings):
            self._bad(f"a {status} with a body")
        return status, line[2].decode(), headers

    def _body(self, answer: Answer, method: str, version: str, consume: Callable[[bytes], object]) -> Headers:
        coding = answer.header("Transfer-Encoding")
        length = answer.header("Content-Length")
        if coding is not None and (coding.lower() != "chunked" or version != "1.1"):
            self._bad(f"Transfer-Encoding {coding} for an HTTP/{version} client")
        if length is not None and not re.fullmatch("[0-9]+", length):
            self._bad(f"Content-Length {length}")
        if method == "HEAD" or answer.status in (204, 304):
            return ()
        if coding is not None:
            while size := self._chunk_size():
                self._exactly(size, consume)
                if self._line():
                    self._bad("a chunk is longer than its size")
            return self._fields()
        if length is not None:
            self._exactly(int(length), consume)
        elif not answer.says_close:
            self._bad("a body without an end")
        else:
            while self._buffer or self._receive():
                self._take(len(self._buffer), consume)
        return ()

    def _chunk_size(self) -> int:
        size = CHUNK_SIZE.fullmatch(self._line())
        if size is None:
            self._bad("not a chunk size")
        return int(size[1], 16)

    def _fields(self) -> Headers:
        fields = []
        while line := self._line():
            match = FIELD_LINE.fullmatch(line)
            if match is None:
                self._bad(f"not a field: {line!r}")
            fields.append((match[1].decode(), match[2].rstrip().decode("latin-1")))
        return tuple(fields)

    def _line(self, *, first: bool = False) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > 65536:
                self._bad("a line without an end")
            if not self._receive(nothing_yet=first and not self._buffer):
                self._ended(nothing_yet=first and not self._buffer)
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, size: int, consume: Callable[[bytes], object]) -> None:
        while size:
            if not self._buffer and not self._receive():
                self._ended(detail=f"{size} bytes of the body are missing")
            size -= self._take(min(size, len(self._buffer)), consume)

    def _take(self, size: int, consume: Callable[[bytes], object]) -> int:
        consume(bytes(self._buffer[:size]))
        del self._buffer[:size]
        return size

    def _receive(self, *, nothing_yet: bool = False) -> int:
        """Wait for more bytes; return how many came, 0 at the end."""
        try:
            data = self.socket.recv(65536)
        except TimeoutError as error:
            raise Failure("timed_out", "no byte came") from error
        except ConnectionError as error:
            if nothing_yet:
                self._ended(nothing_yet=True, otherwise="reset")
            raise Failure("reset", str(error)) from error
        self._buffer += data
        return len(data)

    def _ended(
        self,
        *,
        nothing_yet: bool = False,
        detail: str = "the connection ended",
        otherwise: Outcome = "truncated",
    ) -> NoReturn:
        if nothing_yet and self._answers and self._may_be_reused:
            raise Failure("stale", f"closed after {self._answers} answers, without Connection: close")
        if nothing_yet and self._answers:
            detail = "asked after Connection: close"
        raise Failure(otherwise, detail)

    def _bad(self, detail: str) -> NoReturn:
        raise Failure("bad", f"{detail}; next: {bytes(self._buffer[:80])!r}")


def ask(address: int | str, data: bytes, method: str = "GET", *, version: str = "1.1") -> Answer:
    """Send bytes on a new connection and return the answer."""
    with Connection(address) as connection:
        connection.send(data)
        return connection.answer(method, version=version)


def get(address: int | str, target: str = "/", *fields: str) -> Answer:
    """Ask for one target on a new connection, and see it closed cleanly after the answer."""
    with Connection(address) as connection:
        answer = connection.get(target, "Connection: close", *fields)
        if not answer.says_close:
            raise Failure("bad", "Connection: close was not confirmed")
        connection.end()
        return answer
