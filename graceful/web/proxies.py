"""The client's address, when a proxy stands in between.

Behind a load balancer every connection comes from the balancer, and the client's address, and whether it
spoke TLS, are only known from header fields.  Anybody can write such fields: who believes them from everybody
lets a client choose its own address.  So the peers whose word counts are named, networks or Unix sockets, and
nobody else's fields are ever looked at.

Each proxy appends the address that it saw, so the list is read from its end: the last entry was written by
the peer itself, the one before by the proxy named in the last, and so on for as long as the writers are
trusted.  The first address that is not a trusted proxy's is the client; whatever stands left of it is
hearsay.  An entry that is no address (`unknown`, an obfuscated `_name`, rubbish) ends the walk at the last
good one.

There are two families of fields, `Forwarded` (RFC 7239) and the older X-Forwarded-For and -Proto, and a
request can carry both: one written by the proxy, the other by the client and passed on.  We cannot know which
is which.  Nearly every proxy writes the older ones, so where X-Forwarded-For is present `Forwarded` does not
count for the address, and where X-Forwarded-Proto is present it does not count for the scheme.  A proxy that
writes `Forwarded` only must therefore remove X-Forwarded-* from what it passes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from graceful.config.values import UNIX, Address, parse_network

MAX_HOPS: Final = 16
"""How many entries of a list are looked at, from its end."""

MAX_LIST: Final = 4096
"""How many characters of a `Forwarded` list are looked at, from its end."""

_REMEMBERED: Final = 4096
_LONGEST_NODE: Final = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535")
_NODE: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
# No two neighbouring parts can match the same character, so this never tries twice.
_PAIR: Final = re.compile(r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:\"([^\"\\]*)\"|([^ \t\",;\\]*))[ \t]*(?:;|\Z)")
_LIST_MARK: Final = re.compile('[",]')
_REQUEST_ID: Final = re.compile(r"[!#-\[\]-~]{1,128}\Z")
_SCHEMES: Final = frozenset(("http", "https"))


class Forwarded(NamedTuple):
    """What trusted proxies say about a request.

    :ivar address: the client's address, or the nearest to it that is known.
    :ivar scheme: `http` or `https`, or None if nothing is said.
    :ivar request_id: the proxy's id of the request, or None.
    """

    address: str
    scheme: str | None
    request_id: str | None


class _Node(NamedTuple):
    address: str
    trusted: bool


def _parse_address(text: str) -> Address:
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


class TrustedProxies:
    """The proxies whose fields are believed.

    :param networks: each a network in CIDR form, an address, or `unix`.
    :raises ValueError: one of them is none of these.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._unix = UNIX in networks
        self._networks = [parse_network(text) for text in networks if text != UNIX]
        # Addresses come back; parsing one and comparing it with every network takes microseconds.
        self._judge = lru_cache(_REMEMBERED)(self._judge_uncached)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def trusts(self, peer_ip: str | None) -> bool:
        """Whether this peer's fields may be looked at.

        :param peer_ip: the address of the connection's other end; None on a Unix socket.
        """
        if peer_ip is None:
            return self._unix
        try:
            return self._contains(_parse_address(peer_ip))
        except ValueError:
            return False

    def client(self, headers: Sequence[tuple[bytes, bytes]], peer: str) -> Forwarded:
        """Find out about the client from the fields of a request that a trusted peer sent.

        The work is bounded whatever the fields hold.

        :param headers: the request's fields, names in any case.
        :param peer: the peer's own address, which is the answer if it does not say another.
        """
        addresses: list[bytes] = []
        schemes: list[bytes] = []
        forwarded: list[bytes] = []
        request_id = None
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"x-forwarded-for":
                addresses.append(value)
            elif lowered == b"x-forwarded-proto":
                schemes.append(value)
            elif lowered == b"forwarded":
                forwarded.append(value)
            elif lowered == b"x-request-id":
                text = value.decode("latin-1")
                request_id = text if _REQUEST_ID.match(text) else None
        if addresses:
            address, hop = self._walk(_split_from_end(addresses), peer)
        else:
            address, hop = peer, 0
        scheme = _scheme_at(schemes, hop) if schemes else None
        if forwarded and not (addresses and schemes):
            told_address, told_scheme = self._walk_forwarded(forwarded, peer)
            if not addresses:
                address = told_address
            if not schemes:
                scheme = told_scheme
        return Forwarded(address, scheme, request_id)

    def _walk(self, entries: Sequence[str], peer: str) -> tuple[str, int]:
        """The client's address, and how many entries stand behind the one that names it."""
        address = peer
        hop = 0
        for number, entry in enumerate(entries):
            node = self._judge(entry)
            if node is None:
                break
            address = node.address
            hop = number
            if not node.trusted:
                break
        return address, hop

    def _walk_forwarded(self, fields: Sequence[bytes], peer: str) -> tuple[str, str | None]:
        address = peer
        scheme = None
        for element in _forwarded_from_end(fields):
            pairs = _pairs(element)
            if pairs is None:
                break
            told = pairs.get("proto", "").lower()
            if told in _SCHEMES:
                scheme = told
            node = self._judge(pairs.get("for", ""))
            if node is None:
                break
            address = node.address
            if not node.trusted:
                break
        return address, scheme

    def _contains(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def _judge_uncached(self, text: str) -> _Node | None:
        """What an entry names, with its port taken off; None if that is no address."""
        match = _NODE.fullmatch(text) if len(text) <= _LONGEST_NODE else None
        if match is None:
            return None
        try:
            address = _parse_address(match[1] or match[2] or match[3])
        except ValueError:
            return None
        return _Node(str(address), self._contains(address))


def _split_from_end(fields: Sequence[bytes]) -> list[str]:
    """The last entries of a comma-separated list, last first; empty ones are none (RFC 9110 §5.6.1)."""
    parts = b",".join(fields).rsplit(b",", MAX_HOPS)
    if len(parts) > MAX_HOPS:
        del parts[0]
    entries = [part.strip(b" \t").decode("latin-1") for part in reversed(parts)]
    return [entry for entry in entries if entry]


def _scheme_at(fields: Sequence[bytes], hop: int) -> str | None:
    """The scheme written beside the client's address; if not every proxy writes one, the first there is."""
    entries = _split_from_end(fields)
    if not entries:
        return None
    scheme = entries[min(hop, len(entries) - 1)].lower()
    return scheme if scheme in _SCHEMES else None


def _forwarded_from_end(fields: Sequence[bytes]) -> Iterator[str]:
    """The elements of a `Forwarded` list, last first.

    Read from the end as well, so that a quote which a client left open cannot swallow what proxies appended.
    That is sound because no element that we can use has a backslash in it, hence no escaped quote.
    """
    text = b",".join(fields).decode("latin-1")
    whole = len(text) <= MAX_LIST
    if not whole:
        text = text[-MAX_LIST:]
    end = len(text)
    quoted = False
    hops = 0
    for mark in reversed(list(_LIST_MARK.finditer(text))):
        if mark.group() == '"':
            quoted = not quoted
        elif not quoted:
            element = text[mark.end() : end].strip(" \t")
            end = mark.start()
            hops += 1
            if element:
                yield element
            if hops == MAX_HOPS:
                return
    if whole and text[:end].strip(" \t"):
        yield text[:end].strip(" \t")


def _pairs(element: str) -> dict[str, str] | None:
    """The parameters of one element (RFC 7239 §4), names in lower case; None if it is malformed."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(element):
        match = _PAIR.match(element, position)
        if match is None or match[1].lower() in pairs:
            return None
        pairs[match[1].lower()] = match[2] if match[2] is not None else match[3]
        position = match.end()
    return pairs
