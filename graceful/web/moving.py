"""What a connection is to another process: its descriptor, and the little that the kernel does not know of it.

At a deploy a connection may move to the successor.  When nothing of a request has been read and nothing of an answer
is left to send, all that is between the client and the server is in the kernel, and goes with the descriptor.  Else
the rest goes beside it (:mod:`graceful.web.carrying`).
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import asdict, frozen

from graceful.web.carrying import Carried, Resume, go_on
from graceful.web.connection import Address, Connection

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site


#: Descriptors that come with one connection: of its requests' bodies, a file that is sent, and what names them.
MOST: Final = 20


class BadConnection(Exception):
    """What another process has sent is no description of a connection.  Its text is one line."""


@frozen
class MovedConnection:
    """A connection on its way from one process to the next; times are of the machine's monotonic clock, seconds.

    :ivar peer: the client's address, host and port; None on a Unix socket.
    :ivar server: the listener's own address, host and port.
    :ivar opened: when it was accepted.
    :ivar active: when something last came from or went to the client.
    :ivar answered: whether it has carried an answer.
    :ivar descriptors: how many descriptors come behind its own, with what of it is not in the kernel.
    :ivar scheme: `https` if a proxy has told so of the client.
    :ivar facts: what a proxy has told of the client's TLS; None if nothing.
    :ivar listener: the address of the listener, if a proxy has told another one for `server`.
    """

    peer: Address | None
    server: Address
    opened: float
    active: float
    answered: bool
    descriptors: int = 0
    scheme: str = "http"
    facts: Mapping[str, str] | None = None
    listener: Address | None = None

    @classmethod
    def of(cls, connection: Connection, descriptors: int = 0) -> MovedConnection:
        """Returns the description of a connection.

        :param descriptors: how many come behind its own.
        """
        peer = (connection.peer, connection.port) if connection.peer else None
        return cls(
            peer,
            connection.server,
            connection.opened,
            connection.active,
            connection.answered,
            descriptors,
            connection.scheme,
            connection.facts,
            connection.listener,
        )

    def describe(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, said: object) -> MovedConnection:
        """Returns what another process has described.

        :raises BadConnection: it is not valid.
        """
        try:
            assert isinstance(said, dict) and 0 <= int(said.get("descriptors", 0)) <= MOST
            return cls(
                _address(said["peer"]) if said["peer"] is not None else None,
                _address(said["server"]),
                float(said["opened"]),
                float(said["active"]),
                bool(said["answered"]),
                int(said.get("descriptors", 0)),
                *_told(said),
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
            raise BadConnection(f"not a connection: {str(said)[:200]}") from None


def _told(said: Any) -> tuple[str, Mapping[str, str] | None, Address | None]:
    """Returns what a proxy has told, which an older process does not describe."""
    facts, listener = said.get("facts"), said.get("listener")
    return (
        "https" if said.get("scheme") == "https" else "http",
        {str(name): str(value) for name, value in facts.items()} if facts else None,
        _address(listener) if listener is not None else None,
    )


def _address(said: Any) -> Address:
    host, port = said
    return str(host), int(port)


def take_in(
    site: Site,
    hub: Hub,
    sock: socket.socket,
    moved: MovedConnection,
    carried: Carried | None = None,
    resume: Mapping[str, Resume] | None = None,
) -> None:
    """Serve on a connection that another process has accepted.  Reactor thread.

    :param carried: what of it is not in the kernel.
    :param resume: goes on with an answer, by its kind.
    :raises OSError: the kernel cannot watch one more descriptor; the connection is closed.
    """
    sock.setblocking(False)
    connection = Connection(site, hub, sock, moved.peer, moved.server)
    connection.scheme, connection.facts = moved.scheme, moved.facts
    connection.listener = moved.listener or moved.server
    connection.opened, connection.active, connection.answered = moved.opened, moved.active, moved.answered
    try:
        hub.add(connection)
    except OSError:
        connection.close()
        raise
    site.arrived += 1
    if carried is not None:
        go_on(connection, carried, resume or {})
