"""How long a connection may do nothing: one look at all of them, instead of a timer for each.

A timer per request costs more than the request; one sweep a second over thousands of idle connections costs a
few milliseconds.  Each connection is in exactly one of these situations, and each has its rule:

* *lingering*: everything is sent, and the client has yet to close;
* *sending*: the client is slow to take what is left of an answer;
* *receiving*: a request has begun and is not complete: its head has one limit in all, its body may not pause
  for longer than another;
* *fresh*: accepted, and not a byte has come;
* *idle*: between two exchanges.

An exchange that is queued or in the application is nobody's delay but our own, and not timed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.web.connection import Connection
    from graceful.web.site import Site

LINGER: Final = 2.0
LINGER_LONGEST: Final = 30.0
FRESH_LEAST: Final = 1.0
GRACE_PAST_ANNOUNCED: Final = 1.0


class Sweep:
    """Applies the rules to every connection of a site.  Reactor thread.

    :param site: whose connections; its settings give the limits in seconds.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self, now: float) -> None:
        """Look at all connections; `now` is in monotonic seconds."""
        for connection in list(self._site.connections()):
            if not connection.turn.closed:
                self.look(connection, now)

    def look(self, connection: Connection, now: float) -> None:
        """Apply the rule that fits the connection's situation."""
        settings = self._site.settings
        turn = connection.turn
        silent = now - connection.active
        receiving = connection.intake.exchange
        if turn.lingering:
            self._linger(connection, now, silent)
        elif turn.held:
            if silent > settings.send_timeout:
                self._site.log.info("a client takes nothing: {exchange} is cut", exchange=turn.current)
                connection.close()
        elif receiving is not None:
            if connection.receiver.stalled():
                return
            if connection.intake.head_done:
                late = silent > settings.send_timeout
            else:
                late = now - receiving.started > settings.header_timeout
            if late:
                connection.intake.refuse(408)
        elif connection.idle():
            if now > self._until(connection):
                connection.half_close()

    def _until(self, connection: Connection) -> float:
        """When an idle connection has had its time, monotonic seconds."""
        site, settings = self._site, self._site.settings
        if not connection.answered:
            until = connection.active + settings.header_timeout
            if site.quiet:
                return 0.0
            if site.draining:
                least = max(FRESH_LEAST, settings.idle_grace)
                until = min(until, max(site.draining_since, connection.opened) + least)
            return until
        if site.quiet:
            return 0.0
        until = connection.active + settings.keep_alive + GRACE_PAST_ANNOUNCED
        if site.draining:
            announced = connection.active + settings.keep_alive
            until = min(announced, max(site.draining_since, connection.active) + settings.idle_grace)
        return until

    def _linger(self, connection: Connection, now: float, silent: float) -> None:
        """Everything is sent: wait for the client to close, or to have all of it and be silent."""
        current = connection.turn.current
        since = current.ended if current is not None else connection.active
        if (
            now - since > LINGER_LONGEST
            or (silent > LINGER and connection.unsent() == 0)
            or silent > self._site.settings.send_timeout
        ):
            connection.close()
