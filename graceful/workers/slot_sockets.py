"""Which listening sockets belong to which worker.

Measured: of several processes that accept from one socket, one gets nearly all connections.  So every worker gets a
socket of its own for each TCP address, and the kernel spreads connections over them (SO_REUSEPORT, socket(7)).  Two
things follow.  A connection in the queue of one of these sockets can only be accepted by a process that holds it; so
the supervisor holds them all, and a sibling accepts for a worker that is gone until the next one accepts.  And any
process of the same user may bind the same address with that option; so the first is bound without it, which fails if
the address is taken, and gets it afterwards.

Unix sockets, and sockets that come from outside (`fd:`, `systemd:`), are one for all.  So are the sockets of a slot
that has been removed: to close one would reset the connections that the kernel is completing for it.

A port below 1024 takes root to bind, and the kernel gives an address to the sockets of one user only.  So a
supervisor that is to become another user first binds more sockets than it has slots.  They do not listen: no
connection comes to them until a slot is added, and to listen takes no privilege.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from attrs import define, evolve, field

from graceful.sockets.address import Address
from graceful.sockets.binding import BindError, BoundSocket, bind
from graceful.sockets.socket_file import inode_of

#: The number of slots that there are sockets for if only root can bind them; or twice as many as at the start.
RESERVED: Final = 64


@define(eq=False)
class HeldSocket:
    """A listening socket that the supervisor holds.

    :ivar key: its number in messages to workers.
    :ivar slot: the number of the slot that it belongs to; 0, or that of a removed slot, if it is shared by all.
    :ivar bound: the socket.
    """

    key: int
    slot: int
    bound: BoundSocket

    @property
    def open(self) -> bool:
        """Whether the supervisor still holds it."""
        return self.bound.socket.fileno() >= 0

    @property
    def ours(self) -> bool:
        """Whether no process outside of this instance holds it."""
        return not self.bound.shared

    def let_go(self, unlink: bool) -> None:
        """Close the supervisor's own copy; workers keep accepting from theirs.

        :param unlink: remove a Unix socket's path, so that no client can connect any more.
        """
        bound = self.bound
        if not self.open:
            return  # its path may be another process's by now, even with the same inode number
        if unlink and bound.path is not None and inode_of(bound.path) == bound.inode:
            with suppress(OSError):
                os.unlink(bound.path)
        bound.socket.close()  # not `BoundSocket.close`, which ends the listening for all processes


@define(eq=False)
class SlotSockets:
    """All listening sockets of an instance with workers.  Reactor thread.

    :ivar count: the number of slots.
    :ivar kept: every socket, in the order in which a successor gets them.
    """

    count: int
    kept: list[HeldSocket] = field(factory=list)
    _most: int | None = field(default=None, init=False)  # None: sockets can be bound at any time
    _reserved: list[BoundSocket] = field(factory=list, init=False)

    def wanted(self, addresses: Sequence[Address]) -> list[Address]:
        """Returns the addresses, each once for every socket that it needs."""
        return [address for address in addresses for _ in range(self._sockets(address))]

    def _sockets(self, address: Address) -> int:
        return self.count if address.kind in ("tcp", "tcp6") else 1

    def bind(
        self,
        addresses: Sequence[Address],
        adopted: Sequence[BoundSocket | None],
        environ: Mapping[str, str],
        pid: int | None,
        undo: Any,
    ) -> None:
        """Bind every socket, or adopt it from a predecessor or systemd.

        :param addresses: where to listen.
        :param adopted: for each of `wanted`, what a predecessor has handed over.
        :param environ: what systemd has said of the sockets that it hands over.
        :param pid: the process it has said it to.
        :param undo: called with what closes a socket, should start-up fail.
        :raises BindError: one line for the operator.
        """
        found = iter(adopted)
        for address in addresses:
            several = self._sockets(address) > 1
            first: BoundSocket | None = None
            for slot in range(1, self._sockets(address) + 1):
                bound = next(found)
                if bound is None and first is None:
                    bound = bind(address, environ, pid)
                elif bound is None:
                    assert first is not None
                    bound = _another(first, address)
                if several and first is None:
                    bound.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                first = first or bound
                self.kept.append(HeldSocket(len(self.kept), slot if several else 0, bound))
                undo(bound.close)

    def reserve(self, undo: Any) -> None:
        """Bind sockets for slots that may be added later, since it cannot be done then.  After `bind`.

        :param undo: called with what closes a socket, should start-up fail.
        """
        self._most = max(RESERVED, 2 * self.count)
        for first in self.own(1):
            # What cannot be bound is missed when it is asked for, and not before.
            with suppress(BindError):
                for _ in range(self.count, self._most):
                    self._reserved.append(_another(first.bound, None))
                    undo(self._reserved[-1].close)

    def release_reserved(self) -> None:
        """Close what was bound for slots that may be added: there will be none."""
        while self._reserved:
            self._reserved.pop().socket.close()

    def of(self, slot: int) -> list[HeldSocket]:
        """Returns the open sockets that a slot's worker accepts from."""
        return [one for one in self.kept if (one.slot in (0, slot) or one.slot > self.count) and one.open]

    def own(self, slot: int) -> list[HeldSocket]:
        """Returns the open sockets that only a slot's worker accepts from."""
        return [one for one in self.kept if one.slot == slot and one.open]

    def check_room(self, count: int) -> None:
        """Look whether there can be this number of slots.

        :raises BindError: there cannot, since root has bound sockets for fewer; one line for the operator.
        """
        if self._most is not None and count > self._most and self.own(1):
            raise BindError(
                f"root has bound sockets for {self._most} workers; restart with --workers {count} for more"
            )

    def widen(self) -> None:
        """Make room for one more slot: with a socket for each address that slots have their own sockets for.

        :raises BindError: one line for the operator; the number of slots is as before.
        """
        number = self.count + 1
        there = {one.bound.name for one in self.own(number)}  # from before the slot was removed
        made: list[HeldSocket] = []
        try:
            for first in self.own(1):
                address = first.bound.address
                if first.bound.name not in there and address is not None:
                    another = self._one_more(first.bound, address)
                    made.append(HeldSocket(len(self.kept) + len(made), number, another))
        except BindError as error:
            for one in made:
                one.bound.close()
            raise BindError(f"{error}; restart with --workers {number} for more") from None
        self.kept += made
        self.count = number

    def _one_more(self, first: BoundSocket, address: Address) -> BoundSocket:
        """Returns a listening socket beside the first of an address: a reserved one if there is one."""
        if self._most is None:
            return _another(first, address)
        found = next((one for one in self._reserved if one.name == first.name), None)
        if found is None:
            raise BindError(f"cannot listen on {first.name} with one more socket: all that root has bound are in use")
        self._reserved.remove(found)
        found.socket.listen(address.backlog)  # it has the address already
        return found

    def narrow(self) -> None:
        """Remove the last slot: its sockets belong to all others now."""
        self.count -= 1

    def open_sockets(self) -> list[BoundSocket]:
        """Returns all open sockets."""
        return [one.bound for one in self.kept if one.open]

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets: who else holds them, and whose their paths are."""
        for bound in known:
            for one in self.kept:
                if one.bound.socket is bound.socket:
                    one.bound = bound

    def names(self) -> list[str]:
        """Returns the names of the addresses, each once."""
        return list(dict.fromkeys(one.bound.name for one in self.kept))


def _another(first: BoundSocket, address: Address | None) -> BoundSocket:
    """Bind one more socket to the address of the first.

    :param address: says how to listen; None not to listen yet.
    """
    other = socket.socket(first.socket.family, socket.SOCK_STREAM)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other.setblocking(False)
        other.bind(first.socket.getsockname())
        if address is not None:
            other.listen(address.backlog)
    except OSError as error:
        other.close()
        raise BindError(
            f"cannot listen on {first.name} with one more socket: {error.strerror}; the address has to be this"
            " user's alone"
        ) from None
    return evolve(first, socket=other, shared=False)  # also if a predecessor still holds the first
