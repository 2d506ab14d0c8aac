"""A strict WebSocket client on a blocking socket, which can also do what no client should."""

from __future__ import annotations

import socket
import ssl

from tests.support.frames import ACCEPT, TEXT, Frame, close, code_of, frame, read_frames, request

LOOPBACK = "127.0.0.1"


class WebSocket:
    """A WebSocket that is open, or an answer that says why not.

    :param port: of the server, on loopback.
    :param path: of the request.
    :param fields: further ones of the request.
    :param behind: what is sent with the request.
    :param receive_buffer: bytes that the kernel takes for this client.
    :param trust: what to trust, if it speaks TLS.
    :ivar head: of the answer.
    :ivar status: of the answer.
    """

    def __init__(
        self,
        port: int,
        path: bytes = b"/echo",
        *fields: bytes,
        behind: bytes = b"",
        timeout: float = 20.0,
        receive_buffer: int | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((LOOPBACK, port))
        if trust is not None:
            self.socket = trust.wrap_socket(self.socket, server_hostname=LOOPBACK, suppress_ragged_eofs=False)
        self._data = b""
        self._frames: list[Frame] = []
        self.socket.sendall(request(*fields, path=path, host=LOOPBACK.encode()) + behind)
        while b"\r\n\r\n" not in self._data:
            self._receive()
        self.head, _, self._data = self._data.partition(b"\r\n\r\n")
        self.status = int(self.head[9:12])
        if self.status == 101:
            assert b"\r\nSec-WebSocket-Accept: " + ACCEPT in self.head, self.head

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the connection ends behind {self._data[-100:]!r}")
        self._data += data

    def send(self, data: bytes) -> None:
        """Send bytes, which need not be a frame."""
        self.socket.sendall(data)

    def say(self, text: str) -> None:
        """Send a text."""
        self.send(frame(TEXT, text.encode()))

    def next(self) -> Frame:
        """The next frame that comes."""
        while not self._frames:
            self._frames, self._data = read_frames(self._data)
            if not self._frames:
                self._receive()
        return self._frames.pop(0)

    def hear(self) -> str:
        """The next text."""
        found = self.next()
        assert (found.opcode, found.fin) == (TEXT, True), found
        return found.payload.decode()

    def end(self) -> int:
        """Read to the end, which must come behind a close frame, and nothing behind that; returns its code."""
        code = code_of(self.next())
        self.nothing_more()
        return code

    def nothing_more(self) -> None:
        """Check that the connection ends here, in order."""
        assert (self._frames, self._data, self.socket.recv(1)) == ([], b"", b"")

    def close(self, code: int = 1000) -> int:
        """Close in order; returns the server's code."""
        self.send(close(code))
        return self.end()
