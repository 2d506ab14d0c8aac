"""Which kind of connection the clients of a listening socket get: plain, by TLS, or behind a balancer.

It is decided once for each socket, by its `--listen` string.  So a plain connection does not pay for what others can.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from graceful.logs.sparing import SparingLog
from graceful.sockets.binding import BoundSocket
from graceful.tls.certificates import CertificateStore
from graceful.web.connection import Address, Connection, accept_connection, address_of, begin_to_read, server_of
from graceful.web.proxied_connection import ProxiedConnection
from graceful.web.proxies import TrustedProxies
from graceful.web.tls_connection import TLSConnection

if TYPE_CHECKING:
    from graceful.web.hub import Hub
    from graceful.web.site import Site

Accept = Callable[[socket.socket, Any], object]
Make = Callable[[socket.socket, Address | None], Connection]


def acceptor(site: Site, hub: Hub, bound: BoundSocket, store: CertificateStore) -> Accept:
    """Returns what makes connections of a listening socket's clients; for the reactor thread.

    It is given the socket and what `accept` has said of the peer, and raises OSError if the kernel cannot watch one
    more descriptor; then the connection is closed.

    :param store: has the certificates of sockets that speak TLS.
    """
    server = server_of(bound.socket)
    address = bound.address
    if address is None or (address.tls is None and address.proxy is None):

        def plain(sock: socket.socket, peer: Any) -> None:
            accept_connection(site, hub, sock, peer, server)

        return plain

    refusals = SparingLog()
    proxies = TrustedProxies(address.proxy) if address.proxy is not None else None
    if address.tls is not None:
        certificates = store.of(address.tls)

        def make(sock: socket.socket, peer: Address | None) -> Connection:
            return TLSConnection(site, hub, sock, peer, server, refusals, certificates, proxies is not None)
    else:

        def make(sock: socket.socket, peer: Address | None) -> Connection:
            return ProxiedConnection(site, hub, sock, peer, server, refusals)

    return _accept(hub, bound.name, make, proxies, refusals)


def _accept(hub: Hub, name: str, make: Make, proxies: TrustedProxies | None, refusals: SparingLog) -> Accept:
    """Returns what makes connections by `make`, of these peers only if there are any."""

    def accept(sock: socket.socket, peer: Any) -> None:
        address = address_of(peer)
        host = address[0] if address is not None else None
        if proxies is not None and not proxies.trusts(host):
            refusals.warn("socket {name}: {peer} is refused: it is not in proxy=", name=name, peer=host or "unix")
            sock.close()
            return
        begin_to_read(hub, make(sock, address))

    return accept
