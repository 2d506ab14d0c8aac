"""Taking over from a running instance: the successor's side, which blocks until the reactor runs.

twistd wants to know whether the server has started, and sheds privileges, before its reactor runs.  So a
client that blocks, briefly and with time limits, asks for the sockets when they would be bound: still as root, before
anything is imported.  The predecessor serves on meanwhile, and goes on if this process fails.

This process can say that it accepts only when its reactor runs.  A separate thread says so, because a slow
predecessor must not block the reactor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.logger import Logger

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
from graceful.drain.state import State
from graceful.sockets.address import Address
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_arrivals import Source
from graceful.takeover.connection_links import BadLinks, Link, read_links
from graceful.takeover.offers import BadOffer, Offer, adopt, inherit, match, reachable
from graceful.takeover.parcels import FORMAT
from graceful.takeover.receiving_client import ReceivingClient, has_ended
from graceful.takeover.socket_handover import PROTOCOL
from graceful.threads.start import NoThread, start_thread

log = Logger(namespace="graceful")


#: Seconds that a draining instance has to close its sockets.
CLOSES_IN: Final = 30.0


class TakeoverError(Exception):
    """This process cannot take over.  The text is one line for the operator."""


class Taking(Protocol):
    """What takes in the connections that move here.  Any thread.

    :ivar count: how many processes take.
    """

    count: int

    def take(self, links: Sequence[Link]) -> None:
        """Take in what moves on these links, of which each has as many as the others."""

    def take_from(self, source: Source, pid: int, dead: Callable[[], bool], end: Callable[[], object]) -> None:
        """Take in what the predecessor itself gives.

        :param source: its control.
        :param pid: its process number.
        :param dead: returns whether it has ended, when it has hung up.
        :param end: called when nothing more comes, in any thread.
        """


class Predecessor:
    """A running instance whose sockets this process has received and does not accept from yet.

    Main thread; `accepts` when the reactor runs.

    :ivar pid: its process number.
    :ivar counted: what it has counted when it has let go; None before, and if it does not say.
    :ivar foreign: endpoints that it cannot hand over; they are free soon after it has let go.
    """

    def __init__(self, client: ReceivingClient, pid: int, offered: Sequence[Offer], foreign: Sequence[str]) -> None:
        self.pid = pid
        self.counted: object = None
        self.foreign = foreign
        self._client = client
        self._process = process_descriptor(client.peer_pid)
        self._offered = offered
        self._left: dict[int, int] = dict(enumerate(client.take_descriptors()))  # those not claimed yet
        self._kept: dict[int, BoundSocket] = {}

    @classmethod
    def find(cls, path: str) -> Predecessor | None:
        """Ask the instance at a control socket for its listening sockets.

        :param path: the control socket.
        :returns: None if no instance answers there, or if it is closing its sockets: then the addresses are free.
        :raises TakeoverError: an instance answers, and does not hand them over.
        """
        try:
            client = ReceivingClient(path)
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
        """Take the offered sockets that are wanted.

        :returns: for each address a socket, or None if it has to be bound.
        :raises TakeoverError: an offered socket cannot be used.
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
        """Take the offered Unix socket at this path, with its backlog and mode; None if there is none.

        :raises TakeoverError: the offered socket cannot be used.
        """
        for number, offer in enumerate(self._offered):
            if offer.role == role and offer.name == f"unix:{path}" and number in self._left:
                try:
                    self._kept[number] = bound = adopt(offer, self._left.pop(number), Address("fd", offer.address))
                except BadOffer as error:
                    raise TakeoverError(f"cannot take over: {error}") from None
                return bound
        return None

    def close_unclaimed(self) -> None:
        """Close the sockets that were not claimed, so that only the predecessor holds them."""
        for descriptor in self._left.values():
            os.close(descriptor)
        self._left.clear()

    def accepts(
        self,
        call: Callable[..., object],
        done: Callable[[str | None], object],
        afterwards: Callable[[], object],
        taking: Taking | None = None,
    ) -> None:
        """Tell the predecessor that this process accepts, so that it lets go.

        :param call: calls a function in the reactor thread, from any thread.
        :param done: called in the reactor thread, with None if the predecessor has let go, else with the reason.
        :param afterwards: called after that if it has let go, in a thread that may block.
        :param taking: takes in the predecessor's connections, which move here; None if they stay there.
        """

        def say() -> None:
            why_not, links = self._say(taking)
            call(done, why_not)
            if why_not is None and taking is not None:
                taking.take(links)
                taking.take_from(self._client, self.pid, self._dead, lambda: call(self.close))
            else:
                call(self.close)
            if why_not is None:
                afterwards()

        try:
            start_thread(say, "graceful takeover", "the thread that tells the predecessor")
        except NoThread as error:
            call(done, str(error))  # the predecessor serves on as soon as this process is gone
            call(self.close)

    def _say(self, taking: Taking | None) -> tuple[str | None, Sequence[Link]]:
        """Post the message.  Blocks.

        :returns: why the predecessor has not let go, or None if it has; and the links to processes that have its
            connections.
        """
        wanted = {"moves": taking.count == 1, "links": taking.count} if taking is not None else {}
        try:
            said = self._client.post(
                "/takeover/accepts", timeout=None, kept=sorted(self._kept), carries=FORMAT, **wanted
            )
            self.counted = said.get("counted")
        except ControlRefused as refused:
            return str(refused), ()
        except Vanished:
            # It has crashed, and only this process is left to serve; or it has hung up, and still serves.
            return None if self._dead() else f"process {self.pid} has hung up", ()
        except (Silent, ClientError) as error:
            return str(error), ()
        try:
            return None, read_links(said.get("links", []), self._client.take_descriptors())
        except BadLinks as error:
            log.warn("connections stay with process {pid}: {error}", pid=self.pid, error=error)
            return None, ()

    def _dead(self) -> bool:
        return has_ended(self._process)

    def inheritance(self) -> list[BoundSocket]:
        """Returns the adopted sockets as they are now that the predecessor has let go of them."""
        return [inherit(bound, self._offered[number]) for number, bound in self._kept.items()]

    def close(self) -> None:
        """Hang up; claimed sockets stay open."""
        self.close_unclaimed()
        self._client.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1


def limit_draining(path: str, most: int) -> None:
    """Hurry the oldest draining predecessors if too many are draining.  Blocks.

    :param path: the control path that they have given up; their new paths are beside it.
    :param most: how many may go on draining.
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
    """Whether an instance has sockets to hand over; waits until it has closed them if it is closing them."""
    state = State.parse(client.get("/status?limit=0", timeout=ANSWERS_IN).get("state"))
    if state is not None and state.accepts:
        return True
    with suppress(Vanished):
        client.get("/wait?for=closed", timeout=CLOSES_IN)
    return False


def _read(said: dict[str, Any], descriptors: int) -> list[Offer]:
    """Returns the offers of an answer.

    :param said: the answer.
    :param descriptors: how many descriptors came with it.
    :raises BadOffer: the answer does not match the descriptors, or is not valid.
    """
    described = said.get("sockets")
    if said.get("protocol") != PROTOCOL or not isinstance(described, list) or len(described) != descriptors:
        raise BadOffer("what was handed over is not what was announced")
    return [Offer.read(one) for one in described]
