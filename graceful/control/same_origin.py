"""Which requests for the status page may come from a hostile page.

A browser on the operator's machine reaches what listens on loopback, and so does every page that is open in it.  A
page cannot read an answer that is meant for another origin, and we send no header that would let it.  There is one
way around: the page's owner points a name of their own at 127.0.0.1, and then it *is* the same origin (DNS
rebinding).  But the request still has that name in its Host field.  So a request is refused unless its Host is an
address, or a name of the machine itself.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import Final

from graceful.web.exchange import Exchange

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::[0-9]+)?")
_NOT_OURS: Final = (
    "this server is not known by that name: use its address, localhost, or the machine's own name",
    "this is not for pages of other sites",
)


class SameOrigin:
    """Knows the names of this machine.

    :param names: further names, from the endpoints of the status page.
    :param hostname: returns the machine's name.
    """

    def __init__(self, names: Iterable[str] = (), hostname: Callable[[], str] = socket.gethostname) -> None:
        own = hostname().lower()
        self._names = {"localhost", own, own.partition(".")[0], *(name.lower() for name in names if name)}

    def why_not(self, exchange: Exchange) -> str | None:
        """Returns why a request is refused; None if it is not."""
        fields = {name.lower(): value.decode("latin-1") for name, value in exchange.headers}
        host = fields.get(b"host")
        if host is not None and not self._ours(host):
            return _NOT_OURS[0]
        if fields.get(b"sec-fetch-site") in ("cross-site", "same-site"):
            # A link to the page is all right: what it opens is the page's own.
            if fields.get(b"sec-fetch-mode") != "navigate" or fields.get(b"sec-fetch-dest") != "document":
                return _NOT_OURS[1]
        return None

    def _ours(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower().rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True
