"""A loop without HTTP, threads or an application: its figures are the upper bound for every server here.

It reads a request, looks at the first bytes, and sends an answer that was made before.  It leaves out all that a
server has to do, and is of no other use.
"""

from __future__ import annotations

import select
import socket
import sys
from contextlib import suppress

from app import BIG, SMALL
from graceful.web.send_buffer import BUFFER


def answer(body: bytes) -> memoryview:
    """Returns a whole answer."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
    return memoryview(head.encode("ascii") + body)


ANSWERS = {b"GET / HTTP": answer(SMALL), b"GET /big H": answer(BIG)}


class Loop:
    """Serves connections with one epoll, and keeps the unsent rest of each answer."""

    def __init__(self, port: int) -> None:
        self.listening = socket.create_server(("127.0.0.1", port))
        self.connections: dict[int, socket.socket] = {}
        self.rests: dict[int, memoryview] = {}
        self.epoll = select.epoll()
        self.epoll.register(self.listening, select.EPOLLIN)

    def accept(self) -> None:
        """Accept a connection."""
        connection, _ = self.listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.connections[connection.fileno()] = connection
        self.epoll.register(connection, select.EPOLLIN)

    def turn(self, fd: int) -> None:
        """Read a request from a connection if it has no unsent rest, and send what the connection takes.

        :raises OSError: the client is gone, or has asked for something else.
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
