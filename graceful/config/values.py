"""Values that are more than a number or a string: a request time-out, a download mapping, a network of proxies."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from attrs import frozen

_VISIBLE: Final = re.compile(r"[!-~]*\Z")


_PREFIX: Final = re.compile(r"(/[A-Za-z0-9\-._~+@]+)+\Z")


class BadTarget(ValueError):
    """A mapping on the command line that cannot be used.  Its text says what is expected."""


@frozen
class Mapping:
    """A prefix of paths, and the URL or directory that serves them.

    :ivar prefix: such as `/files`, without a slash at its end.
    :ivar base: a URL or a directory, without a slash at its end.
    :ivar remote: whether it is a URL.
    """

    prefix: str
    base: str
    remote: bool


def parse_mapping(text: str) -> Mapping:
    """Read `/PREFIX=URL-or-DIRECTORY`.

    :raises BadTarget: the text is no such mapping.
    """
    prefix, equals, base = text.partition("=")
    prefix = prefix.rstrip("/")
    if not equals or not _PREFIX.match(prefix) or {".", ".."} & set(prefix.split("/")):
        raise BadTarget("expected /PREFIX=URL or /PREFIX=DIRECTORY, such as /files=http://librarian:58000/")
    if "://" in base:
        try:
            parts = urlsplit(base)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.query or parts.fragment or parts.username is not None or not _VISIBLE.match(base):
            raise BadTarget("expected a URL of http or https, with a host, without user, query and fragment")
        return Mapping(prefix, base.rstrip("/"), True)
    if not os.path.isdir(base):
        raise BadTarget("expected a URL, or a directory, which this is not")
    return Mapping(prefix, os.path.abspath(base), False)


class Limit(NamedTuple):
    """A `--request-timeout`.

    :ivar seconds: how long an exchange may run.
    :ivar prefix: for which request targets; empty for all.
    :ivar report: only report an exchange that passes it, and let it go on.
    """

    seconds: float
    prefix: str = ""
    report: bool = False

    def __str__(self) -> str:
        """Return it as it is typed."""
        start = f"{self.prefix}=" if self.prefix else ""
        return f"{start}{self.seconds:g}{':report' if self.report else ''}"


#: The entry of a list of trusted networks that means every peer on a Unix socket.
UNIX: Final = "unix"


Address = IPv4Address | IPv6Address


Network = IPv4Network | IPv6Network


def parse_network(text: str) -> Network:
    """Parse a network in CIDR form, or a single address.

    :raises ValueError: it is neither, or has bits set behind the prefix, which is more likely a mistake than
        the wish to trust a whole network.
    """
    if "%" in text:
        raise ValueError(f"{text!r} has a zone, which means nothing to other machines")
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network((mapped, network.prefixlen - 96))
    return network
