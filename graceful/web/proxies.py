"""The client's address and scheme, as the header fields of trusted proxies tell them.

Behind a load balancer every connection comes from the balancer.  Only header fields tell the client's address, and
whether the client spoke TLS.  But every client can write such fields, and a server that believes them from every
peer lets clients choose their own address.  So the operator names the trusted peers, as networks or as Unix sockets,
and the server ignores these fields from all other peers.

Each proxy appends the address that it saw, so the list is read from its end.  The peer itself wrote the last entry;
the proxy that the last entry names wrote the one before, and so on for as long as the writers are trusted.  The
first address that is not a trusted proxy's is the client; a client can have made up everything to the left of it.
An entry that is no address (`unknown`, an obfuscated `_name`, rubbish) ends the walk at the last good one.

There are two families of fields, `Forwarded` (RFC 7239) and the older X-Forwarded-For and X-Forwarded-Proto.  A
request can carry both, one written by the proxy, the other written by the client and passed on; the server cannot
know which is which.  Nearly every proxy writes the older ones.  So where X-Forwarded-For is present, `Forwarded` does
not count for the address, and where X-Forwarded-Proto is present, it does not count for the scheme.  A proxy that
writes only `Forwarded` must therefore remove X-Forwarded-* from what it passes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from graceful.config.values import UNIX, Address, parse_network
from graceful.web.field_kinds import remember_name

MAX_HOPS: Final = 16
"""Entries of a list that are read, from its end."""

MAX_LIST: Final = 4096
"""Characters of a `Forwarded` list that are read, from its end."""

#: Results that are cached, of entries and of all that is told about a client.
_REMEMBERED: Final = 1024
#: Bytes of fields whose result is cached.
_SHORT: Final = 256
_LONGEST_NODE: Final = 128
# A port may be obfuscated (RFC 7239 §6).
_PORT: Final = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
_NODE: Final = re.compile(rf"\[([0-9A-Fa-f:.]+)\]{_PORT}|([0-9.]+){_PORT}|([0-9A-Fa-f:.]+)")
# No two neighbouring parts can match the same character, so the match never backtracks.
_PAIR: Final = re.compile(r"[ \t]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)=(?:\"([^\"\\]*)\"|([^ \t\",;\\]*))[ \t]*(?:;|\Z)")
_LIST_MARK: Final = re.compile('[",]')
_REQUEST_ID: Final = re.compile(r"[!#-\[\]-~]{1,128}\Z")
_SCHEMES: Final = frozenset(("http", "https"))
_TELLING: Final = frozenset((b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"x-request-id"))
# Names as they were sent: in lower case if they tell something, else nothing.
_names: dict[bytes, bytes] = {}
_known_name: Final = _names.get


def _learn_name(name: bytes) -> bytes:
    lowered = name.lower()
    kind = lowered if lowered in _TELLING else b""
    remember_name(_names, name, kind)
    return kind


class Forwarded(NamedTuple):
    """What trusted proxies tell about the client of a request.

    :ivar address: the client's address, or the address nearest to the client that is known.
    :ivar scheme: `http` or `https`; None if no proxy tells it.
    :ivar request_id: the proxy's id of the request; None if it gives none.
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
    """The proxies whose header fields the server believes.

    :param networks: each is a network in CIDR form, an address, or `unix`.
    :raises ValueError: an entry of `networks` is none of these.
    """

    def __init__(self, networks: Sequence[str]) -> None:
        self._unix = UNIX in networks
        self._networks = [parse_network(text) for text in networks if text != UNIX]
        # The same addresses come again; parsing one and comparing it with every network takes microseconds.
        self._judge_short = lru_cache(_REMEMBERED)(self._judge_uncached)
        self._told_shortly = lru_cache(_REMEMBERED)(self._told)

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def trusts(self, peer_ip: str | None) -> bool:
        """Whether the header fields of a peer count.

        :param peer_ip: the address of the connection's other end; None on a Unix socket.
        """
        if peer_ip is None:
            return self._unix
        try:
            return self._contains(_parse_address(peer_ip))
        except ValueError:
            return False

    def client(self, headers: Sequence[tuple[bytes, bytes]], peer: str) -> Forwarded:
        """Returns what the fields of a request from a trusted peer tell about the client.

        The work is bounded, whatever the fields hold.

        :param headers: the request's fields, names in any case.
        :param peer: the peer's own address, which is returned if the fields tell no other.
        """
        lists: dict[bytes, bytes] = {}
        request_id = None
        size = 0
        for name, value in headers:
            kind = _known_name(name)
            if kind is None:
                kind = _learn_name(name)
            if not kind:
                continue
            size += len(value)
            if kind == b"x-request-id":
                text = value.decode("latin-1")
                request_id = text if _REQUEST_ID.match(text) else None
            else:  # in several lines it is one list (RFC 9110 §5.3)
                lists[kind] = lists[kind] + b"," + value if kind in lists else value
        told = self._told_shortly if size <= _SHORT else self._told
        address, scheme = told(
            lists.get(b"x-forwarded-for"), lists.get(b"x-forwarded-proto"), lists.get(b"forwarded"), peer
        )
        return Forwarded(address, scheme, request_id)

    def _told(
        self, addresses: bytes | None, schemes: bytes | None, forwarded: bytes | None, peer: str
    ) -> tuple[str, str | None]:
        """Returns address and scheme of the client, by the three lists; None: there is no such field."""
        if addresses is not None:
            address, hop = self._walk(_split_from_end(addresses), peer)
        else:
            address, hop = peer, 0
        scheme = _scheme_at(schemes, hop) if schemes is not None else None
        if forwarded is not None and (addresses is None or schemes is None):
            told_address, told_scheme = self._walk_forwarded(forwarded, peer)
            if addresses is None:
                address = told_address
            if schemes is None:
                scheme = told_scheme
        return address, scheme

    def _walk(self, entries: Sequence[str], peer: str) -> tuple[str, int]:
        """Returns the client's address, and how many entries follow the one that names it in the list.

        :param entries: the list, last entry first.
        """
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

    def _walk_forwarded(self, field: bytes, peer: str) -> tuple[str, str | None]:
        address = peer
        scheme = None
        for element in _forwarded_from_end(field):
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

    def _judge(self, text: str) -> _Node | None:
        """Returns the address in an entry, without its port; None if the entry is no address."""
        return self._judge_short(text) if len(text) <= _LONGEST_NODE else None

    def _judge_uncached(self, text: str) -> _Node | None:
        match = _NODE.fullmatch(text)
        if match is None:
            return None
        try:
            address = _parse_address(match[1] or match[2] or match[3])
        except ValueError:
            return None
        return _Node(str(address), self._contains(address))


def _split_from_end(field: bytes) -> list[str]:
    """Returns the last entries of a comma-separated list, last first, without empty ones (RFC 9110 §5.6.1)."""
    parts = field.rsplit(b",", MAX_HOPS)
    if len(parts) > MAX_HOPS:
        del parts[0]
    entries = [part.strip(b" \t").decode("latin-1") for part in reversed(parts)]
    return [entry for entry in entries if entry]


def _scheme_at(field: bytes, hop: int) -> str | None:
    """Returns the scheme written beside the client's address; if not every proxy writes one, the leftmost."""
    entries = _split_from_end(field)
    if not entries:
        return None
    scheme = entries[min(hop, len(entries) - 1)].lower()
    return scheme if scheme in _SCHEMES else None


def _forwarded_from_end(field: bytes) -> Iterator[str]:
    """Yields the elements of a `Forwarded` list, last first.

    The list is parsed from its end, so that a quote which a client left open cannot hide what proxies appended.
    That is sound because no usable element has a backslash in it, and so no escaped quote.
    """
    text = field.decode("latin-1")
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
    """Returns the parameters of one element (RFC 7239 §4), names in lower case; None if it is malformed."""
    pairs: dict[str, str] = {}
    position = 0
    while position < len(element):
        match = _PAIR.match(element, position)
        if match is None or match[1].lower() in pairs:
            return None
        pairs[match[1].lower()] = match[2] if match[2] is not None else match[3]
        position = match.end()
    return pairs
