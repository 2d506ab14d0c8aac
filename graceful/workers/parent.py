"""The supervisor, as its worker sees it: it provides the sockets, and is asked before they are closed.

A worker is started by its supervisor's own command line; what makes it a worker is one variable of its environment.
Its sockets are held by the supervisor, too, so that none of them is ever without a holder while a worker is replaced
or has been killed.  That is why a worker may not close them as it likes: while the supervisor holds one, the kernel
goes on completing connections for it, which nobody would accept.  So it asks before, and is told which are its alone
by then.

If the supervisor is gone, this worker would be neither replaced nor stopped: it drains, as at SIGTERM.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from graceful.sockets.binding import BoundSocket
from graceful.workers.channel import PROTOCOL, Channel, ChannelLost

log = Logger(namespace="graceful")


#: Tells a worker that it is one: its number, two descriptors, and the directory of its release.
VARIABLE: Final = "GRACEFUL_WORKER"

#: Seconds that a supervisor has to hand over the sockets, which it does before it starts a worker.
GETS_IN: Final = 30.0


class ParentError(Exception):
    """There is no working for this supervisor.  Its text is one line for the operator."""


class Held:
    """A listening socket of a worker, with the number that the supervisor has given it."""

    def __init__(self, key: int, bound: BoundSocket) -> None:
        self.key = key
        self.bound = bound


class ParentListener(Protocol):
    """What a worker does when its supervisor says so.  Reactor thread."""

    def begin_to_accept(self) -> None:
        """Accept from the worker's own sockets."""

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from these sockets, too."""

    def release(self, bound: Sequence[BoundSocket]) -> None:
        """Let go of these sockets: another process accepts from them."""

    def succeeded(self, pid: int, handed: Sequence[BoundSocket], alone: Sequence[BoundSocket]) -> None:
        """Drain, since another process accepts.

        :param pid: that process.
        :param handed: the sockets that it has.
        :param alone: the sockets that no other process has.
        """

    def supervisor_lost(self) -> None:
        """Stop: the supervisor is gone."""


class Parent:
    """A worker's slot.  Main thread; from `watch` on, the reactor thread.

    :param said: what the environment says.
    :ivar number: of the slot, from 1.
    :ivar directory: of the release that it is to run; None if the command line names none.
    :ivar control: a connected socket, on which the supervisor looks and gives orders.
    :ivar supervisor: its process.
    """

    def __init__(self, said: str) -> None:
        try:
            slot = json.loads(said)
            self.number = int(slot["number"])
            self.directory: str | None = slot["directory"]
            line, self.control = (_socket(int(slot[name])) for name in ("line", "control"))
        except (KeyError, TypeError, ValueError, OSError):
            raise ParentError(f"{VARIABLE} is for a supervisor to set, and says nothing that can be used") from None
        self.supervisor = 0
        self._listener: ParentListener
        self._channel = Channel(line)
        self._held: list[Held] = []
        self._asking: Deferred[tuple[int, list[BoundSocket]]] | None = None

    # -- start --------------------------------------------------------------------------------------------

    def sockets(self) -> list[BoundSocket]:
        """Get the listening sockets of this slot.  Blocks, briefly.

        :raises ParentError: there are none.
        """
        try:
            while True:
                message = self._channel.receive(GETS_IN)
                if message["word"] != "sockets" or message.get("protocol") != PROTOCOL:
                    raise ChannelLost(
                        f"the supervisor speaks version {str(message.get('protocol'))[:20]} of the workers' line,"
                        f" this worker {PROTOCOL}: start with --takeover, which replaces the supervisor, too"
                    )
                self.supervisor = int(message["pid"])
                if len(self._take(message)) < len(message["sockets"]):
                    raise ChannelLost("it may not have that many open files: raise the limit")
                if not message.get("more"):
                    return [held.bound for held in self._held]
        except (ChannelLost, KeyError, TypeError, ValueError) as error:
            raise ParentError(f"worker {self.number} gets no sockets: {error}") from None

    def _take(self, message: dict[str, Any]) -> list[BoundSocket]:
        """The sockets that have come with a message; fewer than were sent if there is no room for more."""
        taken = []
        for one in message["sockets"]:
            descriptor = self._channel.take_descriptor()
            if descriptor is None:
                break
            adopted = socket.socket(fileno=descriptor)
            adopted.setblocking(False)
            # The supervisor holds it, too, and its path is not ours to remove.
            taken.append(Held(int(one["key"]), BoundSocket(str(one["name"]), adopted, shared=True)))
        self._held = [held for held in self._held if held.bound.socket.fileno() >= 0] + taken
        return [held.bound for held in taken]

    def _take_more(self, message: dict[str, Any]) -> list[BoundSocket]:
        taken = self._take(message)
        for one in message["sockets"][len(taken) :]:
            log.error(
                "worker {number} cannot accept from {name} in another's stead: too many open files; raise the limit",
                number=self.number,
                name=one["name"],
            )
        return taken

    def failed(self, why: str) -> None:
        """Say why this worker cannot start; into the log, if the supervisor cannot be reached."""
        if not self._channel.send("failed", why=why):
            print(f"graceful: worker {self.number}: {why}", file=sys.stderr)

    def watch(self, reactor: Any, listener: ParentListener) -> None:
        """Say that everything is imported and built, and listen from now on.

        :param listener: does what the supervisor says.
        """
        self._listener = listener
        self._channel.on_message, self._channel.on_close = self._on_message, self._on_close
        self._channel.watch(reactor)
        self._channel.send("ready")

    # -- while it serves ----------------------------------------------------------------------------------

    def accepts(self) -> None:
        """Say that this worker accepts."""
        self._channel.send("accepts")

    def may_close(self) -> Deferred[tuple[int, list[BoundSocket]]]:
        """Ask before the sockets are closed.

        :returns: fires with the process that accepts instead (0: nobody, they are to be closed with care), and with
            the sockets that nobody else holds any more.
        """
        asking: Deferred[tuple[int, list[BoundSocket]]] = Deferred()
        if not self._channel.open:
            asking.callback((0, []))
            return asking
        self._asking = asking
        self._channel.send("closing")
        return asking

    def closed(self) -> None:
        """Say that this worker has closed its sockets."""
        self._channel.send("closed")

    def gone(self, word: dict[str, Any]) -> None:
        """Say how this worker has drained."""
        self._channel.send("gone", **word)

    def _on_message(self, message: dict[str, Any]) -> None:
        word = message["word"]
        if word == "accept":
            self._listener.begin_to_accept()
        elif word == "sockets":
            self._listener.accept_more(self._take_more(message))
        elif word == "release":
            self._listener.release(self._of(message.get("keys", [])))
        elif word == "succeeded":
            handed, alone = (self._of(message.get(which, [])) for which in ("handed", "alone"))
            self._listener.succeeded(int(message["pid"]), handed, alone)
        elif word == "close" and self._asking is not None:
            asking, self._asking = self._asking, None
            asking.callback((int(message.get("pid", 0)), self._of(message.get("alone", []))))
        # A word that this version does not know is for another one.

    def _of(self, keys: Sequence[int]) -> list[BoundSocket]:
        return [held.bound for held in self._held if held.key in keys and held.bound.socket.fileno() >= 0]

    def _on_close(self) -> None:
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.callback((0, []))
        log.error(
            "the supervisor, process {pid}, is gone: worker {number} stops", pid=self.supervisor, number=self.number
        )
        self._listener.supervisor_lost()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _socket(descriptor: int) -> socket.socket:
    """A descriptor that was inherited; our own children must not have it."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
