"""Finds, for each address that a successor wants, the listening socket that its predecessor offers.

Two command lines seldom write an address in the same way, and the same text may mean different things: `tcp:0` is a
port that the kernel chose once, `fd:3` a descriptor that only the first process was started with, `unix:site.socket`
depends on the directory.  So every listening socket has an address by which command lines can be compared, and an
index among the sockets with the same address.

The successor adopts the sockets that it wants and is offered, and binds the others that it wants; the predecessor
closes the rest.  Until the predecessor has let go, both hold a socket: nothing may be done to it that outlives a
descriptor, and the successor may not remove a Unix socket's path.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from attrs import asdict, evolve, frozen

from graceful.sockets.address import Address
from graceful.sockets.binding import BoundSocket
from graceful.sockets.handshakes import admit_new
from graceful.sockets.socket_file import inode_of, set_mode


class BadOffer(ValueError):
    """An offered socket does not match its description.  The text is one line for the operator."""


@frozen
class Offer:
    """One listening socket, as the process that holds it describes it.

    :ivar role: its purpose: `LISTEN`, `STATUS` or `CONTROL`.
    :ivar address: the address that command lines are compared by.
    :ivar index: counts the sockets of one address, from 0.
    :ivar name: its name in log lines.
    :ivar shared: a process that takes no part in the takeover holds it too: the parent process, or systemd.
    :ivar path: the path of a Unix socket that its holder has bound; None otherwise.
    :ivar inode: the device and inode number of that path.
    """

    role: str
    address: str
    index: int
    name: str
    shared: bool = False
    path: str | None = None
    inode: tuple[int, int] | None = None

    def describe(self) -> dict[str, Any]:
        """Returns the offer as a JSON object."""
        return asdict(self)

    @classmethod
    def read(cls, said: Any) -> Offer:
        """Read the result of `describe` from another process, maybe of another version.

        :raises BadOffer: the description is not valid.
        """
        try:
            inode = said["inode"]
            offer = cls(
                str(said["role"]),
                str(said["address"]),
                int(said["index"]),
                str(said["name"]),
                bool(said["shared"]),
                None if said["path"] is None else str(said["path"]),
                None if inode is None else (int(inode[0]), int(inode[1])),
            )
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadOffer(f"an offered socket is described in an unknown way: {str(said)[:100]}") from None
        return offer


def offers(sockets: Iterable[tuple[str, BoundSocket]]) -> list[Offer]:
    """Returns an offer for each socket, in the order given.

    :param sockets: each with its role.
    """
    found: list[Offer] = []
    numbers: Counter[tuple[str, str]] = Counter()
    for role, bound in sockets:
        address = _address_of(bound)
        index = numbers[role, address]
        found.append(Offer(role, address, index, bound.name, bound.shared, bound.path, bound.inode))
        numbers[role, address] += 1
    return found


def match(role: str, wanted: Sequence[Address], offered: Sequence[Offer]) -> list[int | None]:
    """Find the offered socket for each wanted address.

    :param role: the purpose of the wanted sockets.
    :returns: for each address the number of an offer, or None if it has to be bound.  Offers with the same address
        are used in their order.
    """
    keys = [key(address) for address in wanted]
    free = {number: offer for number, offer in enumerate(offered) if offer.role == role}
    found: list[int | None] = [None] * len(wanted)
    # Addresses that are written in the same way match first, then those that lead to the same place: a descriptor
    # that was passed to the predecessor may be the very port that is wanted now.
    for by_name in (False, True):
        for wish, wanted_at in enumerate(keys):
            if found[wish] is None:
                same = (one for one, offer in free.items() if wanted_at == (offer.name if by_name else offer.address))
                number = next(same, None)
                if number is not None:
                    found[wish] = number
                    del free[number]
    return found


def adopt(offer: Offer, fd: int, address: Address) -> BoundSocket:
    """Take over a socket that its holder goes on serving.

    :param offer: the holder's description of it.
    :param fd: its descriptor; owned by this function, which closes it on failure.
    :param address: the address it is wanted for.
    :returns: the socket, to be treated as shared until its holder has let go; then `inherit` replaces it.
    :raises BadOffer: it is not a listening socket.
    """
    try:
        adopted = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
        raise BadOffer(f"what is offered as {offer.name} is not a socket") from None
    try:
        if adopted.type != socket.SOCK_STREAM or not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise BadOffer(f"what is offered as {offer.name} does not listen")
        adopted.set_inheritable(False)
        adopted.setblocking(False)
        if adopted.family != socket.AF_UNIX:
            admit_new(adopted)
        if address.kind in ("tcp", "tcp6", "unix"):
            adopted.listen(address.backlog)  # the backlog may differ from the predecessor's
        if address.kind == "unix" and offer.path is not None:
            with suppress(OSError):
                set_mode(offer.path, offer.inode, address.mode)
    except OSError as error:
        adopted.close()
        raise BadOffer(f"what is offered as {offer.name} cannot be used: {error.strerror}") from None
    except BaseException:
        adopted.close()
        raise
    return BoundSocket(offer.name, adopted, shared=True, address=address)


def inherit(bound: BoundSocket, offer: Offer) -> BoundSocket:
    """Returns an adopted socket as it is once its former holder has let go of it."""
    return evolve(bound, shared=offer.shared, path=offer.path, inode=offer.inode)


def reachable(offer: Offer) -> bool:
    """Whether clients can still reach the socket: a Unix socket's path may have been removed or replaced."""
    return offer.path is None or inode_of(offer.path) == offer.inode


def key(address: Address) -> str:
    """Returns the text by which addresses of two command lines are compared."""
    if address.kind in ("tcp", "tcp6") and address.port:
        family = socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET
        with suppress(OSError):
            where = socket.getaddrinfo(
                address.interface or None, address.port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0][4]
            host, port = str(where[0]), where[1]
            return f"tcp6:[{host}]:{port!r}" if address.kind == "tcp6" else f"tcp:{host}:{port!r}"
    if address.kind == "unix":
        return f"unix:{os.path.abspath(address.path)}"
    return address.where


def _address_of(bound: BoundSocket) -> str:
    """Returns the `key` of a bound socket, without looking its host name up again."""
    address = bound.address
    if address is None or (address.kind in ("tcp", "tcp6") and address.port):
        return bound.name
    if address.kind == "unix" and bound.path is not None:
        return f"unix:{bound.path}"
    return key(address)
