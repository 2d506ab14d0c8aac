"""A double that the tests of the reactor share."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport


class Transport(StringTransport):
    """A double of Twisted's `tcp.Server`, with the attributes that a watch reads."""

    accepted = 1.0
    aborted = False
    offset = 0
    dataBuffer = b""
    _tempDataLen = 0

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.readable = b""
        self.socket = self
        self.descriptor = 7

    def fileno(self) -> int:
        """The descriptor."""
        return self.descriptor

    def recv(self, size: int, flags: int) -> bytes:
        """What the kernel holds."""
        if not self.readable:
            raise BlockingIOError
        return self.readable[:size]

    def abortConnection(self) -> None:
        """Reset it."""
        self.aborted = True
