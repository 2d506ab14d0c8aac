"""A client of HTTP/2 over TLS, which sees every GOAWAY.

The `h2` library takes a GOAWAY for the end of everything.  It is not: what has begun goes on (RFC 9113 §6.8).  So
these frames are taken out of what the server sends, and kept.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events
from hyperframe.frame import Frame, GoAwayFrame

from tests.support.tls import Certificate


class HTTP2:
    """One connection.

    :param port: of a server on loopback.
    :ivar last_streams: what each GOAWAY has said is the last stream.
    :ivar bodies: what has come of each answer.
    :ivar complete: the streams whose answer has ended.
    :ivar ended: the server has closed the connection.
    """

    def __init__(self, port: int, certificate: Certificate) -> None:
        context = certificate.context()
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._socket = context.wrap_socket(plain, server_hostname="127.0.0.1")
        assert self._socket.selected_alpn_protocol() == "h2"
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._connection.initiate_connection()
        self._buffer = b""
        self.last_streams: list[int] = []
        self.bodies: dict[int, bytes] = {}
        self.complete: set[int] = set()
        self.ended = False
        self.flush()

    def __enter__(self) -> HTTP2:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def flush(self) -> None:
        """Send what there is to send."""
        self._socket.sendall(self._connection.data_to_send())

    def ask(self, target: str) -> int:
        """Send a request; the number of its stream."""
        stream = self._connection.get_next_available_stream_id()
        fields = [(":method", "GET"), (":path", target), (":scheme", "https"), (":authority", "127.0.0.1")]
        self._connection.send_headers(stream, fields, end_stream=True)
        self.flush()
        return stream

    def read_until(self, condition: Callable[[], bool], goes_away: Callable[[int], object] = int) -> None:
        """Read until a condition holds.

        :param goes_away: called with what a GOAWAY says is the last stream, before anything behind it is looked at.
        """
        while not condition():
            data = self._socket.recv(65536)
            if not data:
                self.ended = True
                assert condition()
            self._buffer += data
            while len(self._buffer) >= 9:
                frame, length = Frame.parse_frame_header(memoryview(self._buffer[:9]))
                if len(self._buffer) < 9 + length:
                    break
                whole, self._buffer = self._buffer[: 9 + length], self._buffer[9 + length :]
                if isinstance(frame, GoAwayFrame):
                    frame.parse_body(memoryview(whole[9:]))
                    self.last_streams.append(frame.last_stream_id)
                    goes_away(frame.last_stream_id)
                else:
                    self._take(whole)
            self.flush()

    def _take(self, frame: bytes) -> None:
        for event in self._connection.receive_data(frame):
            if isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            elif isinstance(event, h2.events.StreamEnded):
                self.complete.add(event.stream_id)
