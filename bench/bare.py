"""What is left of a server without HTTP, threads, or an application: the most that any could give here.

One loop reads a request, looks at its first bytes, and sends an answer that was made before.  It knows nothing
of what a server has to know, and cannot be used for anything else than for its figures.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress

from app import BIG, SMALL
from graceful.web.send_buffer import BUFFER


def answer(body: bytes) -> memoryview:
    """Return a whole answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return memoryview(head.encode("ascii") + body)


ANSWERS = {b"GET / HTTP": answer(SMALL), b"GET /big H": answer(BIG)}


class Loop:
    """An epoll, the connections in it, and what each has still to be sent."""

    def __init__(self, port: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", port))
        self.connections: dict[int, socket.socket] = {}
        self.rests: dict[int, memoryview] = {}
        self.epoll = select.epoll()
        self.epoll.register(self.listening, select.EPOLLIN)

    def accept(self) -> None:
        """Take a connection in."""
        connection, _ = self.listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.connections[connection.fileno()] = connection
        self.epoll.register(connection, select.EPOLLIN)

    def turn(self, fd: int) -> None:
        """Read from a connection if nothing is owed to it, and send what it takes.

        :raises OSError: it is gone, or has asked for something else.
        """
        connection = self.connections[fd]
        rest = self.rests.pop(fd, None)
        waited = rest is not None
        if rest is None:
            rest = ANSWERS.get(connection.recv(65536)[:10])
            if rest is None:
                raise OSError("it is gone, or has asked for something else")
        with suppress(BlockingIOError):
            while rest:
                rest = rest[connection.send(rest) :]
        if rest:
            self.rests[fd] = rest
        if waited is not bool(rest):
            self.epoll.modify(fd, select.EPOLLOUT if rest else select.EPOLLIN)

    def run(self) -> None:
        """Serve until killed."""
        while True:
            for fd, _ in self.epoll.poll():
                if fd == self.listening.fileno():
                    self.accept()
                    continue
                try:
                    self.turn(fd)
                except OSError:
                    self.rests.pop(fd, None)
                    self.epoll.unregister(fd)
                    self.connections.pop(fd).close()


if __name__ == "__main__":
    Loop(int(sys.argv[1])).run()
