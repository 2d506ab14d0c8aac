"""The health that a load balancer asks for: whether this server wants requests.

The answer must be right when everything else is not: with all threads stuck, with a full disk, in the middle of a
drain.  So it is made whenever it changes, and sent as it is: no application, no pool's thread, no lock.

It says "going down" from the moment a drain begins, while the sockets still accept for as long as the lame duck
lasts; and "away" while an operator has taken the server out of the rotation without stopping it.  Leaving and
entering are two orders, not a toggle: to give one twice changes nothing.
"""

from __future__ import annotations

from typing import Final

from graceful.web.exchange import Exchange
from graceful.web.response_headers import reason

#: The methods that health answers; OPTIONS is HAProxy's default.
METHODS: Final = ("GET", "HEAD", "OPTIONS")
HEADERS: Final = [("Content-Type", "text/plain; charset=utf-8"), ("Cache-Control", "no-store")]
_NOT_ALLOWED: Final = (
    "405 Method Not Allowed",
    [*HEADERS, ("Allow", ", ".join(METHODS))],
    b"405 Method Not Allowed\n",
)


class Health:
    """The health of one instance.

    :param path: the path that it answers at.
    :param going_down_status: the status that means "no more requests": 503, or 404 for HAProxy's `disable-on-404`.
    :param app_version: shown behind the word; empty for none.
    :ivar going_down: a drain has begun; for good.  Reactor thread.
    :ivar away: out of the rotation by order.  Reactor thread.
    """

    def __init__(self, path: str, going_down_status: int = 503, app_version: str = "") -> None:
        self._path = path.encode("latin-1")
        self._going_down_status = going_down_status
        self._version = f", version {app_version}" if app_version else ""
        self.going_down = self.away = False
        # Replaced as a whole by the reactor thread, read by any.
        self._answer: tuple[str, list[tuple[str, str]], bytes]
        self._renew()

    def _renew(self) -> None:
        if self.going_down or self.away:
            code, word = self._going_down_status, "going down" if self.going_down else "away"
        else:
            code, word = 200, "serving"
        self._answer = f"{code} {reason(code)}", HEADERS, f"{word}{self._version}\n".encode()

    # -- orders: reactor thread ---------------------------------------------------------------------------

    def begin_going_down(self) -> None:
        """Say "going down" from now on: a drain has begun."""
        self.going_down = True
        self._renew()

    def leave(self) -> None:
        """Leave the rotation; everything is still accepted and served."""
        self.away = True
        self._renew()

    def enter(self) -> None:
        """Enter the rotation again; once a drain has begun this changes nothing."""
        self.away = False
        self._renew()

    # -- any thread ---------------------------------------------------------------------------------------

    def answer(self, exchange: Exchange) -> bool:
        """Answer an exchange, if it asks for this path (see :meth:`graceful.web.prefix_routes.PrefixRoutes.add`)."""
        if exchange.target.partition(b"?")[0] != self._path:
            return False
        status, headers, body = self._answer if exchange.method in METHODS else _NOT_ALLOWED
        exchange.start(status, headers)
        exchange.finish_and_release(body)
        return True
