"""Taking over from a running instance: the successor's side, which blocks until the reactor runs.

twistd wants to know whether the server has started, and sheds privileges, before its reactor runs.  So the sockets
are asked for by a client that blocks, briefly and with time limits, as they would be bound: by whoever is root, if
anybody is, before anything is imported.  Whoever has them serves on meanwhile, and goes on if this process fails.

That this process accepts can only be said when its reactor runs.  The word is given by a thread of its own, so that a
predecessor which is slow to answer keeps nobody waiting.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from graceful.control.client import (
    ANSWERS_IN,
    ClientError,
    ControlClient,
    ControlRefused,
    NobodyThere,
    Silent,
    Vanished,
    process_descriptor,
)
from graceful.control.discovery import beside
from graceful.drain import State
from graceful.sockets.address import Address
from graceful.sockets.binding import BoundSocket
from graceful.sockets.receive_fds import receive
from graceful.takeover.offers import BadOffer, Offer, adopt, inherit, match, reachable
from graceful.takeover.succession import PROTOCOL
from graceful.takeover.successor_api import AT_ONCE, INTERIM

#: Seconds that one which is on its way out has to close its sockets.
CLOSES_IN: Final = 30.0

#: Seconds that one whose connection has broken has to be gone; else it lives, and has hung up.
DIES_IN: Final = 1.0


class TakeoverError(Exception):
    """There is no taking over.  Its text is one line for the operator."""


class _Receiving(ControlClient):
    """A client that takes descriptors which come before an answer.

    :ivar descriptors: those that have come; close-on-exec.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.descriptors: list[int] = []

    def _before_answer(self) -> None:
        while self._peek(len(INTERIM)) == INTERIM:
            self.descriptors += receive(self.socket, len(INTERIM), AT_ONCE)[1]

    def _peek(self, size: int) -> bytes:
        """Look at the first bytes of what comes; fewer only at its end."""
        data = b""
        while len(data) < size:
            seen = self.socket.recv(size, socket.MSG_PEEK | socket.MSG_WAITALL)
            if len(seen) == len(data):
                break
            data = seen
        return data


class Predecessor:
    """A running instance, whose sockets this process has got and does not accept from yet.

    Main thread; `accepts` when the reactor runs.

    :ivar pid: its process number.
    :ivar foreign: endpoints that it cannot hand over, and closes: free soon after it has let go.
    """

    def __init__(self, client: _Receiving, pid: int, offered: Sequence[Offer], foreign: Sequence[str]) -> None:
        self.pid = pid
        self.foreign = foreign
        self._client = client
        self._process = process_descriptor(client.peer_pid)
        self._offered = offered
        self._left: dict[int, int] = dict(enumerate(client.descriptors))  # descriptors that nobody has claimed
        self._kept: dict[int, BoundSocket] = {}

    @classmethod
    def find(cls, path: str) -> Predecessor | None:
        """Ask whoever answers at a control socket for its sockets.

        :returns: None if nobody does, or one that closes its sockets anyway: then the addresses are free.
        :raises TakeoverError: one answers, and does not hand them over.
        """
        try:
            client = _Receiving(path)
        except NobodyThere:
            return None
        except ClientError as error:
            raise TakeoverError(f"cannot take over: {error}") from None
        try:
            if not _serves(client):
                client.close()
                return None
            said = client.post("/takeover", protocol=PROTOCOL)
            foreign = [str(one) for one in said.get("foreign", [])]
            return cls(client, int(said["pid"]), _read(said, len(client.descriptors)), foreign)
        except BaseException as error:
            for descriptor in client.descriptors:
                os.close(descriptor)
            client.close()
            if isinstance(error, ClientError | BadOffer):
                raise TakeoverError(f"cannot take over: {error}") from None
            raise

    def claim(self, role: str, wanted: Sequence[Address]) -> list[BoundSocket | None]:
        """Take the offered sockets that are wanted; for each address a socket, or None: it has to be bound.

        :raises TakeoverError: one of them is no good.
        """
        found: list[BoundSocket | None] = []
        for address, number in zip(wanted, match(role, wanted, self._offered), strict=True):
            bound = None
            if number is not None and number in self._left and reachable(self._offered[number]):
                try:
                    bound = adopt(self._offered[number], self._left.pop(number), address)
                except BadOffer as error:
                    raise TakeoverError(f"cannot take over: {error}") from None
                self._kept[number] = bound
            found.append(bound)
        return found

    def claim_path(self, role: str, path: str) -> BoundSocket | None:
        """Take the Unix socket of a role that is at this path, as it is."""
        for number, offer in enumerate(self._offered):
            if offer.role == role and offer.name == f"unix:{path}" and number in self._left:
                try:
                    self._kept[number] = bound = adopt(offer, self._left.pop(number), Address("fd", offer.address))
                except BadOffer as error:
                    raise TakeoverError(f"cannot take over: {error}") from None
                return bound
        return None

    def close_unclaimed(self) -> None:
        """Close what nobody wants, so that the predecessor is the only one that holds it."""
        for descriptor in self._left.values():
            os.close(descriptor)
        self._left.clear()

    def accepts(
        self, call: Callable[..., object], done: Callable[[str | None], object], afterwards: Callable[[], object]
    ) -> None:
        """Say that this process accepts, and have the predecessor let go.

        :param call: calls a function in the reactor thread, from any thread.
        :param done: called there, with None: the sockets are ours; or with why they are not.
        :param afterwards: called if they are, in a thread that may wait.
        """

        def say() -> None:
            why_not = self._say()
            call(done, why_not)
            if why_not is None:
                afterwards()

        try:
            threading.Thread(target=say, name="graceful takeover", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            # The predecessor serves on as soon as this process is gone.
            call(done, f"the thread that tells the predecessor cannot be started: {error}")

    def _say(self) -> str | None:
        """Give the word; returned is why it was not heard.  In a thread of its own."""
        try:
            self._client.post("/takeover/accepts", timeout=None, kept=sorted(self._kept))
        except ControlRefused as refused:
            return str(refused)
        except Vanished:
            # It has crashed, and nobody but us is left to serve; or it has hung up, and serves.
            return None if self._dead() else f"process {self.pid} has hung up"
        except (Silent, ClientError) as error:
            return str(error)
        return None

    def _dead(self) -> bool:
        if self._process < 0:
            return True
        poll = select.poll()
        poll.register(self._process, select.POLLIN)
        return bool(poll.poll(DIES_IN * 1000))

    def inheritance(self) -> list[BoundSocket]:
        """What the adopted sockets are, now that their former holder has let go of them."""
        return [inherit(bound, self._offered[number]) for number, bound in self._kept.items()]

    def close(self) -> None:
        """Hang up; what has been claimed is for others to close."""
        self.close_unclaimed()
        self._client.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1


def limit_draining(path: str, most: int) -> None:
    """Have the oldest predecessors take down what they have left, if too many still finish.  Blocks.

    :param path: the control path that they have given up, and live beside.
    :param most: how many may go on.
    """
    draining: list[tuple[float, str]] = []
    for other in beside(path):
        with suppress(ClientError), ControlClient(other) as client:
            status = client.get("/status?limit=0")
            state = State.parse(status["state"])
            if state is not None and state.leaving:
                draining.append((status["drain"]["began"], other))
    for _, other in sorted(draining)[: max(0, len(draining) - most)]:
        with suppress(ClientError), ControlClient(other) as client:
            client.post("/hurry")


def _serves(client: ControlClient) -> bool:
    """Whether an instance has sockets to hand over; one that is closing them is waited for."""
    state = State.parse(client.get("/status?limit=0", timeout=ANSWERS_IN).get("state"))
    if state is not None and state.accepts:
        return True
    with suppress(Vanished):
        client.get("/wait?for=closed", timeout=CLOSES_IN)
    return False


def _read(said: dict[str, Any], descriptors: int) -> list[Offer]:
    """Understand what has been offered.

    :raises BadOffer: it is not what has come.
    """
    described = said.get("sockets")
    if said.get("protocol") != PROTOCOL or not isinstance(described, list) or len(described) != descriptors:
        raise BadOffer("what was handed over is not what was announced")
    return [Offer.read(one) for one in described]
