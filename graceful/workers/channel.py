"""What a supervisor and a worker say to each other: JSON lines over a pair of Unix sockets, descriptors beside them.

::

    supervisor                                          worker
    ──────────                                          ──────
    sockets  {protocol, sockets: [...], pid}   ──▶      adopts them, imports the application
                                               ◀──      ready
    accept                                     ──▶      begins to accept
                                               ◀──      accepts
    sockets  {sockets: [...]}                  ──▶      accepts from these too: their worker is gone
    release  {keys: [...]}                     ──▶      lets go of these: somebody else accepts
    succeeded {pid, handed: [...],             ──▶      another process accepts from these: let go of them, drain
               alone: [...]}                            of what is left, these nobody else holds
                                               ◀──      closing: may I?
    close    {alone: [...]}                    ──▶      these nobody else holds: close them with care
                                               ◀──      closed
                                               ◀──      gone {how it ended}
                                               ◀──      failed {why}, instead of ready

Each end learns of the other's death by the end of the line.  A worker may be of another release than its supervisor,
which stays for years: `protocol` says whether they understand each other.
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


#: What both ends must agree on: which words there are, and what they mean.
PROTOCOL: Final = 1

#: Bytes read at a time, descriptors with one message (SCM_MAX_FD is 253), and bytes of a line that is believed.
A_READ: Final = 65_536
AT_ONCE: Final = 250
LONGEST: Final = 1 << 20

#: Seconds that the other end may leave the line full before it is given up.
TAKES_IN: Final = 5.0


class ChannelLost(Exception):
    """The other end is gone, or says what cannot be understood."""


@implementer(IReadDescriptor)
class Channel:
    """One end of the line.  What is said is waited for by `receive`, and from `watch` on by the reactor.

    :param sock: a connected Unix stream socket, ours from now on.
    :ivar on_message: called with each message.
    :ivar on_close: called once when the line has ended.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)
        self._data = b""
        self._descriptors: deque[int] = deque()
        self._reactor: Any = None
        self.on_message: Callable[[dict[str, Any]], object] = lambda message: None
        self.on_close: Callable[[], object] = lambda: None

    @property
    def open(self) -> bool:
        """Whether there is still somebody to talk to."""
        return self._socket.fileno() >= 0

    # -- speaking -----------------------------------------------------------------------------------------

    def send(self, word: str, descriptors: Sequence[int] = (), **values: Any) -> bool:
        """Say something; to nobody, if the other end is gone: `on_close` tells.

        :param descriptors: sent with it, at most `AT_ONCE`.
        :returns: whether it could be said.
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

    # -- hearing ------------------------------------------------------------------------------------------

    def receive(self, timeout: float | None) -> dict[str, Any]:
        """Wait for the next message.

        :param timeout: seconds; None for as long as it takes.
        :raises ChannelLost: there is none.
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
        """The next of the descriptors that have come with a message, which says what they are.

        :returns: None if there are no more: the kernel leaves out those for which this process has no room.
        """
        return self._descriptors.popleft() if self._descriptors else None

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

    def watch(self, reactor: Any) -> None:
        """From now on `on_message` gets every message, in the reactor thread."""
        self._reactor = reactor
        reactor.addReader(self)

    def fileno(self) -> int:
        """For the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor."""
        return "line"

    def doRead(self) -> None:
        """Something was said, or the line has ended.  For the reactor."""
        self._receive_some()

    def receive_rest(self) -> None:
        """The other end has died: hear what it has said before, and hang up.  `on_close` is not called."""
        self.on_close = lambda: None
        while self.open and self._receive_some():
            pass
        self.close()

    def _receive_some(self) -> bool:
        """Hear what has come; whether there may be more."""
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
            self.on_message(message)
        except Exception:
            # Were it the reactor's to catch, the line would be given up, and nobody be told of that.
            log.failure("trouble with what the other end of the line has said: {word}", word=message["word"])

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends.  For the reactor."""
        self.close()

    def _end(self) -> None:
        if self.open:
            self.close()
            self.on_close()

    def close(self) -> None:
        """Hang up; nothing is heard any more."""
        if self._reactor is not None and self.open:
            self._reactor.removeReader(self)
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())
