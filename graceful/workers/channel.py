"""Messages between a supervisor and a worker: JSON lines over a pair of Unix sockets, with descriptors beside them.

::

    supervisor                                          worker
    ──────────                                          ──────
    sockets  {protocol, sockets: [...], pid}   ──▶      adopts them, imports the application
                                               ◀──      ready {moves}
    accept                                     ──▶      begins to accept
                                               ◀──      accepts
    sockets  {sockets: [...]}                  ──▶      accepts from these too: their worker is gone
    release  {keys: [...]}                     ──▶      lets go of these: another one accepts
    take     {pid}                             ──▶      takes in the connections of that process (two descriptors)
    give                                       ──▶      gives its connections, once succeeded (one descriptor)
    succeeded {pid, handed: [...],             ──▶      another process accepts from these: let go of them, drain
               alone: [...], served: [...]}             of what is left, these it alone holds; connections to the
                                                        rest may move, as those to the handed ones
                                               ◀──      closing: may I?
    close    {alone: [...]}                    ──▶      these it alone holds: closes them with care
                                               ◀──      closed
                                               ◀──      gone {how it ended}
                                               ◀──      failed {why}, instead of ready

Each end learns of the other's death when the channel closes.  A worker may be of another release than its supervisor,
which stays for years: `protocol` says whether they understand each other, and `moves` whether the worker knows `take`
and `give`.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from graceful.sockets.receive_fds import receive

log = Logger(namespace="graceful")


#: Version of the messages and of what they mean; both ends must have the same.
PROTOCOL: Final = 1

#: Bytes read at a time: one system call for any usual message.
A_READ: Final = 65_536

#: Descriptors with one message: the kernel allows 253 (SCM_MAX_FD).
AT_ONCE: Final = 250

#: Bytes of the longest message that is accepted; a larger one means that the other end is broken.
LONGEST: Final = 1 << 20

#: Seconds that the other end may leave the channel full before it is given up.
TAKES_IN: Final = 5.0


OnMessage = Callable[[dict[str, Any]], object]


class ChannelLost(Exception):
    """The other end is gone, or has sent what is not a message."""


@implementer(IReadDescriptor)
class Channel:
    """One end of the channel.  `receive` waits for a message; from `watch` on, the reactor does.

    :param sock: a connected Unix stream socket, ours from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._data = b""
        self._descriptors: deque[int] = deque()
        self._reactor: Any = None
        self._on_message: OnMessage = lambda message: None
        self._on_close: Callable[[], object] = lambda: None

    @property
    def open(self) -> bool:
        """Whether the other end may still be there."""
        return self._socket.fileno() >= 0

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, word: str, descriptors: Sequence[int] = (), **values: Any) -> bool:
        """Send a message; it is lost if the other end is gone, which `watch` tells.

        :param descriptors: sent with it, at most `AT_ONCE`.
        :returns: whether it could be sent.
        """
        if not self.open:
            return False
        data = json.dumps({"word": word, **values}).encode() + b"\n"
        try:
            self._socket.settimeout(TAKES_IN)
            sent = socket.send_fds(self._socket, [data], list(descriptors)) if descriptors else 0
            self._socket.sendall(data[sent:])
        except OSError:
            # Half a message may be on its way: nothing that follows could be understood.
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            return False
        finally:
            with suppress(OSError):  # an application may have closed the descriptor under us
                self._socket.setblocking(False)
        return True

    # -- receiving-----------------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> dict[str, Any]:
        """Wait for the next message.

        :param timeout: seconds; None for as long as it takes.
        :raises ChannelLost: the other end is gone, silent, or not understood.
        """
        self._socket.settimeout(timeout)
        try:
            while b"\n" not in self._data:
                self._receive()
            return self._next()
        except OSError as error:
            raise ChannelLost(f"the other end of the line says nothing: {error}") from None
        finally:
            if self.open:
                self._socket.setblocking(False)

    def take_descriptor(self) -> int | None:
        """Returns the next descriptor that has come with a message.

        :returns: None if there are no more: the kernel leaves out those that exceed the limit of open files.
        """
        return self._descriptors.popleft() if self._descriptors else None

    def drop_descriptors(self) -> None:
        """Close those that have come with messages, and were not taken."""
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def _receive(self) -> None:
        data, descriptors = receive(self._socket, A_READ, AT_ONCE)
        self._descriptors.extend(descriptors)
        self._data += data
        if not data or (len(self._data) > LONGEST and b"\n" not in self._data):
            raise ChannelLost("the line has ended" if not data else "what is said has no end")

    def _next(self) -> dict[str, Any]:
        line, _, self._data = self._data.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("word"), str):
            raise ChannelLost(f"what is said cannot be understood: {line[:100]!r}")
        return message

    # -- in the reactor -----------------------------------------------------------------------------------

    def watch(self, reactor: Any, on_message: OnMessage, on_close: Callable[[], object] = lambda: None) -> None:
        """Have the reactor read from now on.  Everything is called in the reactor thread.

        :param on_message: called with each message.
        :param on_close: called once when the other end has closed the channel.
        """
        self._on_message, self._on_close = on_message, on_close
        self._reactor = reactor
        reactor.addReader(self)

    def fileno(self) -> int:
        """For the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "line"

    def doRead(self) -> None:
        """Read a message, or the end of the channel.  For the reactor."""
        self._receive_some()

    def refuse(self) -> None:
        """Handle no message from now on, and close the descriptors that come with them."""
        self._on_message = lambda message: self.drop_descriptors()

    def receive_rest(self) -> None:
        """Handle what the other end sent before it died, and close.  `on_close` is not called."""
        self._on_close = lambda: None
        while self.open and self._receive_some():
            pass
        self.close()

    def _receive_some(self) -> bool:
        """Handle the messages that have come; returns whether there may be more."""
        try:
            self._receive()
            while self.open and b"\n" in self._data:
                self._tell(self._next())
        except BlockingIOError:
            return False
        except (OSError, ChannelLost):
            self._end()
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._on_message(message)
        except Exception:
            # If the reactor caught it, it would drop the channel without telling us.
            log.failure("trouble with what the other end of the line has said: {word}", word=message["word"])

    def connectionLost(self, reason: Failure) -> None:
        """Close with the reactor.  For the reactor."""
        self.close()

    def _end(self) -> None:
        if self.open:
            self.close()
            self._on_close()

    def close(self) -> None:
        """Close this end; no message is handled any more."""
        if self._reactor is not None and self.open:
            self._reactor.removeReader(self)
        self._socket.close()
        self.drop_descriptors()
