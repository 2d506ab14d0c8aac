"""The supervisor, as its worker sees it: it provides the sockets, and the worker asks before it closes them.

A worker is started by its supervisor's own command line; one variable of its environment makes it a worker.  The
supervisor holds the worker's sockets, too, so that each has a holder while a worker is replaced or has been killed.
Therefore a worker may not close a socket as it likes: while the supervisor holds it, the kernel completes connections
for it, which no process would accept.  So the worker asks before, and the answer tells which sockets it holds alone.

If the supervisor is gone, this worker would be neither replaced nor stopped: it drains, as at SIGTERM.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from graceful.process.parent_death import end_with_parent, outlive_parent
from graceful.sockets.address import parse
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import BadLinks, Link, read_links
from graceful.workers.channel import PROTOCOL, Channel, ChannelLost

log = Logger(namespace="graceful")


#: Tells a worker that it is one: its number, two descriptors, and the directory of its release.
VARIABLE: Final = "GRACEFUL_WORKER"

#: Seconds that a supervisor has to hand over the sockets, which it does before it starts a worker.
GETS_IN: Final = 30.0


#: Characters of an import's error, and names of changed files, that are passed on.
LONGEST_ERROR: Final = 16_000
MOST_FILES: Final = 5


class ParentError(Exception):
    """There is no working for this supervisor.  Its text is one line for the operator."""


class Held:
    """A listening socket of a worker.

    :param key: the number that the supervisor has given it.
    :ivar ours: no process outside of the instance holds it.
    """

    def __init__(self, key: int, bound: BoundSocket, ours: bool) -> None:
        self.key = key
        self.bound = bound
        self.ours = ours


class ParentListener(Protocol):
    """What a worker does when its supervisor says so.  Reactor thread."""

    def begin_to_accept(self) -> None:
        """Accept from the worker's own sockets."""

    def accept_more(self, bound: Sequence[BoundSocket]) -> None:
        """Accept from these sockets, too."""

    def release(self, bound: Sequence[BoundSocket]) -> None:
        """Let go of these sockets: another process accepts from them."""

    def give_connections(self, sock: socket.socket) -> None:
        """Give connections to the process at the other end of a socket, once another process accepts."""

    def take_connections(self, link: Link) -> None:
        """Take in the connections of a process that leaves."""

    def show_broken(self, text: str | None) -> None:
        """Show browsers why newer code cannot be imported; None if it can."""

    def succeeded(
        self,
        pid: int,
        handed: Sequence[BoundSocket],
        alone: Sequence[BoundSocket],
        served: Sequence[BoundSocket],
    ) -> None:
        """Drain, since another process accepts.

        :param pid: that process.
        :param handed: the sockets that it has.
        :param alone: the sockets that no other process has.
        :param served: sockets that it does not have, and whose address it serves.
        """

    def supervisor_lost(self, ours: Sequence[BoundSocket]) -> None:
        """Stop: the supervisor is gone.

        :param ours: the sockets that no process outside of this instance holds.
        """


class Parent:
    """A worker's slot.  Main thread; from `watch` on, the reactor thread.

    :param said: what the environment says.
    :param end_with: has the kernel end this process with the supervisor, whose number it is given, while the
        application is imported; returns False if there is no such parent.
    :param outlive: takes that back.
    :ivar number: of the slot, from 1.
    :ivar directory: of the release that it is to run; None if the command line names none.
    :ivar control: a connected socket, on which the supervisor looks and gives orders.
    :ivar supervisor: its process.
    """

    def __init__(
        self,
        said: str,
        end_with: Callable[[int], bool] = end_with_parent,
        outlive: Callable[[], object] = outlive_parent,
    ) -> None:
        self._end_with = end_with
        self._outlive = outlive
        try:
            slot = json.loads(said)
            self.number = int(slot["number"])
            self.directory: str | None = slot["directory"]
            line, self.control = (inherited(int(slot[name])) for name in ("line", "control"))
        except (KeyError, TypeError, ValueError, OSError):
            raise ParentError(f"{VARIABLE} is for a supervisor to set, and says nothing that can be used") from None
        self.supervisor = 0
        self._listener: ParentListener
        self._channel = Channel(line)
        self._held: list[Held] = []
        self._asking: Deferred[tuple[int, list[BoundSocket]]] | None = None

    def fileno(self) -> int:
        """Returns the descriptor of the channel to the supervisor."""
        return self._channel.fileno()

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
                    break
            if not self._end_with(self.supervisor):
                raise ChannelLost(f"the supervisor, process {self.supervisor}, has ended")
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
            taken.append(Held(int(one["key"]), _bound(one, adopted), bool(one.get("ours"))))
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

    def failed(self, why: str, error: str = "") -> None:
        """Say why this worker cannot start; into the log, if the supervisor cannot be reached.

        :param error: why the application cannot be imported, with the stack; empty if that is not why.
        """
        say_failed(self._channel, f"worker {self.number}", why, error)

    def watch(self, reactor: Any, listener: ParentListener) -> None:
        """Say that everything is imported and built, and listen from now on.

        :param listener: does what the supervisor says.
        """
        self._listener = listener
        self._channel.watch(reactor, self._on_message, self._on_close)
        self._outlive()
        self._channel.send("ready", moves=True)

    # -- while it serves ----------------------------------------------------------------------------------

    def accepts(self) -> None:
        """Say that this worker accepts."""
        self._channel.send("accepts")

    def changed(self, files: Sequence[str]) -> None:
        """Say that files of the application have changed."""
        self._channel.send("changed", files=list(files)[:MOST_FILES])

    def may_close(self) -> Deferred[tuple[int, list[BoundSocket]]]:
        """Ask before the sockets are closed.

        :returns: fires with the process that accepts instead (0 if there is none: close the sockets with care), and
            with the sockets that no other process holds any more.
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
        """Say how this worker has drained.

        Nothing that the supervisor says until it hears that is done any more.  The channel hangs up on the processes
        that it has sent here: no event loop answers them.
        """
        self._channel.refuse()
        self._channel.send("gone", **word)

    def _on_message(self, message: dict[str, Any]) -> None:
        word = message["word"]
        if word == "accept":
            self._listener.begin_to_accept()
        elif word == "sockets":
            self._listener.accept_more(self._take_more(message))
        elif word == "release":
            self._listener.release(self._of(message.get("keys", [])))
        elif word == "ours":
            for held in self._held:
                held.ours = held.key in message.get("keys", [])
        elif word == "give":
            if (descriptor := self._channel.take_descriptor()) is not None:
                self._listener.give_connections(socket.socket(fileno=descriptor))
        elif word == "take":
            self._take_connections(message)
        elif word == "broken":
            text = message.get("text")
            self._listener.show_broken(None if text is None else str(text))
        elif word == "succeeded":
            handed, alone, served = (self._of(message.get(which, [])) for which in ("handed", "alone", "served"))
            self._listener.succeeded(int(message["pid"]), handed, alone, served)
        elif word == "close" and self._asking is not None:
            asking, self._asking = self._asking, None
            asking.callback((int(message.get("pid", 0)), self._of(message.get("alone", []))))
        # A word that this version does not know is for another one.

    def _take_connections(self, message: dict[str, Any]) -> None:
        found = [self._channel.take_descriptor() for _ in range(2)]
        descriptors = [one for one in found if one is not None]
        try:
            (link,) = read_links([message], descriptors)
        except BadLinks:
            log.error("no connections move from process {pid}: too many open files", pid=message.get("pid"))
            return
        self._listener.take_connections(link)

    def _of(self, keys: Sequence[int]) -> list[BoundSocket]:
        return [held.bound for held in self._held if held.key in keys and held.bound.socket.fileno() >= 0]

    def _on_close(self) -> None:
        ours = [held.bound for held in self._held if held.ours and held.bound.socket.fileno() >= 0]
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.callback((0, ours))
        log.error(
            "the supervisor, process {pid}, is gone: worker {number} stops", pid=self.supervisor, number=self.number
        )
        self._listener.supervisor_lost(ours)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _bound(said: dict[str, Any], adopted: socket.socket) -> BoundSocket:
    """Returns a socket as the supervisor describes it; an older one does not say what is spoken there."""
    endpoint = said.get("endpoint")
    return BoundSocket(str(said["name"]), adopted, shared=True, address=parse(str(endpoint)) if endpoint else None)


def say_failed(channel: Channel, who: str, why: str, error: str) -> None:
    """Say why a process cannot start to the supervisor; into the log, if that cannot be reached.

    :param who: names the process in the log.
    :param error: why the application cannot be imported, with the stack; empty if that is not why.
    """
    more: dict[str, Any] = {"error": error[:LONGEST_ERROR]} if error else {}
    if not channel.send("failed", why=why, **more):
        print(f"graceful: {who}: {why}", file=sys.stderr)


def inherited(descriptor: int) -> socket.socket:
    """A descriptor that was inherited; our own children must not have it."""
    os.set_inheritable(descriptor, False)
    return socket.socket(fileno=descriptor)
