"""The header of the PROXY protocol, versions 1 and 2: a parser without I/O.

A balancer that forwards TCP says in front of a connection's first byte which client it stands for, as a line of text
(`send-proxy` of HAProxy) or in binary (`send-proxy-v2`, AWS and others).  The specification is HAProxy's
`proxy-protocol.txt`; the numbers of sections below are its own.

What the client has sent follows the header at once, and is for another parser.  So this one says how many of the
bytes that it is shown belong to the header, and the caller takes no more than these from the kernel.  A header has an
end, however it is cut: a line of at most 107 bytes, or a length.  Whatever is no valid header is refused, since the
receiver must not guess whether there is one (§2).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from attrs import field, frozen

#: Bytes of the longest line of version 1 (§2.1).
LONGEST_LINE: Final = 107

#: Bytes of a header of version 2, behind its first 16, that are accepted: the certificate of a client has room.
LONGEST: Final = 16_384

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_LINE: Final = b"PROXY "
_FIXED: Final = 16
_LOCAL, _PROXY = 0, 1
_STREAM: Final = 1
_UNSPECIFIED, _INET, _INET6, _UNIX = range(4)
_SIZES: Final = {_INET: 12, _INET6: 36, _UNIX: 216}
_TLS: Final = 0x20
_TLS_VERSION: Final = 0x21
_TLS_SUBJECT: Final = 0x22
_TLS_CIPHER: Final = 0x23
#: The client is connected by TLS to the proxy.
_BY_TLS: Final = 0x01
#: The client has shown a certificate: on this connection, or earlier in the same session of TLS.
_CERTIFICATE: Final = 0x06

Address = tuple[str, int]


class BadHeader(ValueError):
    """What a peer has sent is no header of the PROXY protocol.  The text is one line."""


@frozen
class Told:
    """What a header tells about a client.

    :ivar source: the client's address; None if it is connected to the proxy by a Unix socket.
    :ivar destination: the address that the client has connected to; None on a Unix socket.
    :ivar tls: whether the client speaks TLS with the proxy.
    :ivar facts: what is known of that, under the names that mod_ssl of Apache gives it: `SSL_PROTOCOL` and others.
    """

    source: Address | None
    destination: Address | None
    tls: bool = False
    facts: Mapping[str, str] = field(factory=dict)


class ProxyHeader:
    """Reads one header.

    :ivar done: whether it is complete.
    :ivar told: what it tells; None if the connection is the proxy's own, such as a health check (§2.2, `LOCAL`), or
        if the proxy does not know the client: the addresses of the connection itself hold.
    """

    def __init__(self) -> None:
        self._held = b""
        self.done = False
        self.told: Told | None = None

    @property
    def begun(self) -> bool:
        """Whether a byte of it has come."""
        return bool(self._held)

    def feed(self, data: bytes) -> int:
        """Look at the next bytes of the connection.

        :returns: how many of them, from the first, belong to the header; it may be done with them.
        :raises BadHeader: they cannot belong to a header.
        """
        held = self._held + data
        if held.startswith(_LINE):
            end = held.find(b"\n", 0, LONGEST_LINE) + 1
            if not end and len(held) >= LONGEST_LINE:
                raise BadHeader("a line of the PROXY protocol without an end")
            read: Callable[[bytes], Told | None] = _line
        elif held.startswith(_SIGNATURE):
            end = _FIXED + int.from_bytes(held[14:16], "big") if len(held) >= _FIXED else 0
            if end > _FIXED + LONGEST:
                raise BadHeader(f"a header of {end} bytes, of which {_FIXED + LONGEST} are accepted")
            read = _binary
        elif _LINE.startswith(held) or _SIGNATURE.startswith(held):
            self._held = held
            return len(data)
        else:
            raise BadHeader("no header of the PROXY protocol")
        if not end or len(held) < end:
            self._held = held
            return len(data)
        self.told = read(held[:end])
        self.done = True
        return end - len(self._held)


# -- version 1 ------------------------------------------------------------------------------------------------


def _line(line: bytes) -> Told | None:
    """Read a line such as `PROXY TCP4 192.0.2.1 198.51.100.1 50000 80` (§2.1)."""
    if not line.endswith(b"\r\n"):
        raise BadHeader("a line of the PROXY protocol that does not end with CR LF")
    words = line[:-2].split(b" ")
    if words[1] == b"UNKNOWN":
        return None
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadHeader("a line of the PROXY protocol of an unknown kind")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    _, _, source, destination, from_port, to_port = words
    return Told((_host(source, kind), _port(from_port)), (_host(destination, kind), _port(to_port)))


def _host(text: bytes, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        address = ip_address(text.decode("ascii"))
    except ValueError:
        address = None
    if not isinstance(address, kind) or b"%" in text:
        raise BadHeader("an address of the PROXY protocol that is none")
    return str(address)


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or int(text) > 65_535 or (text[:1] == b"0" and text != b"0"):
        raise BadHeader("a port of the PROXY protocol that is none")
    return int(text)


# -- version 2 ------------------------------------------------------------------------------------------------


def _binary(header: bytes) -> Told | None:
    """Read a header of version 2 (§2.2)."""
    version, command = divmod(header[12], 16)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise BadHeader(f"version {version} and command {command} of the PROXY protocol, which are not known")
    if command == _LOCAL:
        return None  # whatever else it says
    family, transport = divmod(header[13], 16)
    if header[13] == 0:
        return None
    size = _SIZES.get(family)
    if size is None or transport != _STREAM:
        raise BadHeader(f"family {family} and transport {transport} of the PROXY protocol, which have no place here")
    block, more = header[_FIXED : _FIXED + size], header[_FIXED + size :]
    if len(block) < size:
        raise BadHeader("a header of the PROXY protocol that is too short for its addresses")
    source, destination = _addresses(family, block)
    for kind, value in _vectors(more):
        if kind == _TLS:
            tls, facts = _tls_of(value)
            return Told(source, destination, tls, facts)
    return Told(source, destination)


def _addresses(family: int, block: bytes) -> tuple[Address | None, Address | None]:
    if family == _UNIX:
        return None, None
    size, kind = (4, socket.AF_INET) if family == _INET else (16, socket.AF_INET6)
    source, destination, from_port, to_port = struct.unpack(f">{size}s{size}sHH", block)
    return (socket.inet_ntop(kind, source), from_port), (socket.inet_ntop(kind, destination), to_port)


def _vectors(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields each type and value (§2.2.1 and following); an unknown type is for the caller to pass over."""
    while data:
        size = int.from_bytes(data[1:3], "big")
        if len(data) < 3 + size:
            raise BadHeader("a header of the PROXY protocol that ends within one of its values")
        yield data[0], data[3 : 3 + size]
        data = data[3 + size :]


def _tls_of(value: bytes) -> tuple[bool, dict[str, str]]:
    """Read what the proxy says of the client's TLS (§2.2.6)."""
    if len(value) < 5:
        raise BadHeader("a header of the PROXY protocol whose part about TLS is too short")
    client, unverified = value[0], int.from_bytes(value[1:5], "big")
    if not client & _BY_TLS:
        return False, {}
    said = dict(_vectors(value[5:]))
    # As the environ has them: bytes of UTF-8, each a character (PEP 3333).
    facts = {
        name: said[kind].decode("latin-1")
        for name, kind in (("SSL_PROTOCOL", _TLS_VERSION), ("SSL_CIPHER", _TLS_CIPHER))
        if kind in said
    }
    facts["SSL_CLIENT_VERIFY"] = "NONE"
    if client & _CERTIFICATE:
        facts["SSL_CLIENT_VERIFY"] = "FAILED" if unverified else "SUCCESS"
        if not unverified and _TLS_SUBJECT in said:
            facts["SSL_CLIENT_S_DN_CN"] = said[_TLS_SUBJECT].decode("latin-1")
    return True, facts
