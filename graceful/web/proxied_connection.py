"""Connections from balancers that say in front of the first byte which client they stand for (PROXY protocol).

Such a balancer is believed, for it was named: `--listen tcp:8080:proxy=10.0.0.0/8`.  Any other peer is refused when
it connects, for what it says of itself would be believed by the application.  From the header on, everything is as if
the client itself had connected: its address is what `--trusted-proxy` looks at, and what the application gets.

The header is taken from the kernel to its last byte, and no further.  So a connection whose header has come is like
any other one, and can move to another process.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from graceful.logs.sparing import SparingLog
from graceful.sockets.proxy_header import BadHeader, ProxyHeader
from graceful.web.connection import Address, Connection

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site

#: Bytes looked at at once.
_LOOK: Final = 4096


class ProxiedConnection(Connection):
    """A connection on a plain socket that begins with a header of the PROXY protocol."""

    __slots__ = ("_header", "_refusals")

    def __init__(
        self,
        site: Site,
        hub: Hub,
        sock: socket.socket,
        peer: Address | None,
        server: Address,
        refusals: SparingLog,
        proxied: bool = True,
    ) -> None:
        super().__init__(site, hub, sock, peer, server)
        self._header: ProxyHeader | None = ProxyHeader() if proxied else None
        self._refusals = refusals

    @property
    def movable(self) -> bool:  # type: ignore[override]
        """Whether its header has come: no other process would wait for the rest of it."""
        return self._header is None

    def readable(self) -> None:
        """Read the header, and then what has come behind it."""
        if self._header is not None and not self._read_header():
            return
        super().readable()

    def _read_header(self) -> bool:
        """Take what has come of the header.  Returns whether it is complete, and bytes behind it may be read."""
        header = self._header
        assert header is not None
        try:
            while not header.done:
                data = self.sock.recv(_LOOK, socket.MSG_PEEK)
                if not data:
                    self.close()  # also a health check that only connects
                    return False
                self.sock.recv(header.feed(data))
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        except BadHeader as error:
            self._refusals.warn("{peer} is refused: it has sent {why}", peer=self.peer or "unix", why=error)
            self.close(reset=True)
            return False
        self._header = None
        told = header.told
        if told is not None:
            self.peer, self.port = told.source if told.source is not None else ("", 0)
            self.server = told.destination if told.destination is not None else self.server
            self.trusted = self.site.trusts(told.source)
            self.scheme = "https" if told.tls else self.scheme
            self.facts = told.facts
        return True

    def half_close(self) -> None:
        """Close an idle connection; one whose header has not come in time has nothing to be answered."""
        if self._header is not None and not self._read_header():
            self.close()
            return
        super().half_close()
