"""A client of control that receives descriptors: those of listening sockets, and of connections.

They ride on the interim answers before an answer (see :mod:`graceful.takeover.successor_api`).
"""

from __future__ import annotations

import select
import socket
from typing import Final

from graceful.control.client import ANSWERS_IN, ControlClient
from graceful.sockets.receive_fds import receive
from graceful.takeover.successor_api import AT_ONCE, INTERIM

#: Seconds that a process whose connection has broken has to exit; after that it is alive, and has only hung up.
DIES_IN: Final = 1.0


class ReceivingClient(ControlClient):
    """A client that receives descriptors with the interim answers before an answer.

    :ivar descriptors: those that were received and not taken yet; close-on-exec.
    """

    def __init__(self, path: str, timeout: float | None = ANSWERS_IN, connected: socket.socket | None = None) -> None:
        super().__init__(path, timeout, connected)
        self.descriptors: list[int] = []

    def take_descriptors(self) -> list[int]:
        """Returns the descriptors that were received, which are the caller's from now on."""
        taken, self.descriptors = self.descriptors, []
        return taken

    def _before_answer(self) -> None:
        while self._peek(len(INTERIM)) == INTERIM:
            self.descriptors += receive(self.socket, len(INTERIM), AT_ONCE)[1]

    def _peek(self, size: int) -> bytes:
        """Returns the next bytes without consuming them; fewer than `size` only at the end of the stream."""
        data = b""
        while len(data) < size:
            seen = self.socket.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)
            if len(seen) == len(data):
                break
            data = seen
        return data


def has_ended(process: int) -> bool:
    """Whether a process that has hung up has ended.  Blocks for at most :data:`DIES_IN`.

    :param process: a descriptor of it, pidfd_open(2); negative if it has ended already.
    """
    if process < 0:
        return True
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(DIES_IN * 1000))
