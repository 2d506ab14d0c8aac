"""How long a connection may do nothing: one look at all of them, instead of a timer for each.

A timer per request costs more than the request; one sweep a second over thousands of idle connections costs a few
milliseconds for each thousand.  It is done in portions, between which the server serves what has come meanwhile.
Each connection is in exactly one of these situations, and each has its rule:

* *lingering*: the kernel has everything, and the client has yet to take it and to close;
* *sending*: the client is slow to take what is left of an answer;
* *receiving*: a request has begun and is not complete: its head has one limit in all, its body may not pause
  for longer than another;
* *fresh*: accepted, and not a byte has come;
* *idle*: between two exchanges.

An exchange that is queued or in the application waits for the server, not for the client, and is not timed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.config.settings import ON_ITS_WAY
from graceful.web.connection import Connection, open_connections

if TYPE_CHECKING:
    from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Seconds of silence after which a client that has all of its last answer is taken to be gone.
LINGER: Final = 2.0
#: Seconds after the last answer at which its connection is closed although the client still sends.
LINGER_LONGEST: Final = 30.0
#: Seconds that a new connection has for its first byte, also in a drain: a request may be on its way.
FRESH_LEAST: Final = 1.0
#: Seconds past the keep-alive time, for a client with the same one: it closes the connection first.
PAST_KEEP_ALIVE: Final = 1.0
#: Seconds of silence after which an idle connection gives back what its next request makes again.
RESTS: Final = 1.0
#: Connections that are looked at in one go, for about a millisecond.
PORTION: Final = 400


class Sweep:
    """Applies the rules to every connection of a site.  Reactor thread.

    :param site: whose connections; its settings give the limits in seconds.
    :param clock: gives the others their turn between two portions.
    """

    def __init__(self, site: Site, clock: IReactorTime) -> None:
        self._site = site
        self._clock = clock
        self._portions: Iterator[None] | None = None  # of a look that is not done
        # Not before the announced time is over and what was sent in it has come; `idle_grace` is not shorter either.
        self._kept = site.settings.keep_alive + PAST_KEEP_ALIVE
        if announced := site.settings.announced_keep_alive:
            self._kept = max(self._kept, announced + ON_ITS_WAY)
        # How much of a connection's last answer its client had yet to take, and since when.
        self._unsent: dict[Connection, tuple[int, float]] = {}
        self._unsent_before = self._unsent

    def __call__(self, now: float) -> None:
        """Look at all connections, unless the last look still goes on; `now` is in monotonic seconds."""
        if self._portions is None:
            self._portions = self._look_at_all(now)
            self._look_on()

    def _look_on(self) -> None:
        """Look at the next portion; and at the one behind it when all else has had its turn."""
        portions, self._portions = self._portions, None  # one that fails is over, and the next look begins
        if portions is not None:
            try:
                next(portions)
            except StopIteration:
                return
            self._portions = portions
            self._clock.callLater(0, self._look_on)

    def _look_at_all(self, now: float) -> Iterator[None]:
        """Look at all connections, and yield between two portions."""
        self._unsent_before, self._unsent = self._unsent, {}
        connections = list(open_connections(self._site))
        for start in range(0, len(connections), PORTION):
            if start:
                yield
            for connection in connections[start : start + PORTION]:
                if connection.write_token.closed or connection.leaving:
                    continue
                try:
                    self.look(connection, now)
                except Exception:
                    log.failure("a connection failed and is closed")
                    connection.close()

    def look(self, connection: Connection, now: float) -> None:
        """Apply the rule that fits the connection's situation."""
        settings = self._site.settings
        write_token = connection.write_token
        silent = now - connection.active
        receiving = connection.parser.exchange
        if write_token.lingering:
            self._linger(connection, now)
        elif connection.stalls():
            if silent > settings.send_timeout:
                log.info("a client takes nothing: {exchange} is cut", exchange=write_token.current)
                connection.close(reset=True)
        elif receiving is not None:
            if connection.receiver.stalled():
                return
            if connection.parser.head_done:
                late = silent > settings.send_timeout
            else:
                late = now - receiving.started > settings.header_timeout
            if late:
                connection.parser.refuse(408)
        elif connection.idle():
            if self._site.draining and not self._site.quiet:
                self._count_from_taken(connection, now)
            if now > self._until(connection):
                connection.half_close()
            elif silent > RESTS:
                connection.rest()

    def _until(self, connection: Connection) -> float:
        """When an idle connection has had its time, monotonic seconds."""
        site, settings = self._site, self._site.settings
        if connection.answered:
            since, least, grace = connection.active, 0.0, settings.idle_grace
            until = since + self._kept
        else:
            since, least, grace = connection.opened, FRESH_LEAST, max(FRESH_LEAST, settings.idle_grace)
            until = since + settings.header_timeout
        if site.quiet:
            return since + least
        if site.draining:
            return min(until, max(site.draining_since, since) + grace)
        return until

    def _count_from_taken(self, connection: Connection, now: float) -> None:
        """The client counts from the moment at which it has all of an answer, which the kernel may have held long."""
        unsent = connection.unsent()
        before, _ = self._unsent_before.get(connection, (0, now))
        if unsent:
            self._unsent[connection] = unsent, now
        if unsent != before:  # one that takes nothing is not waited for
            connection.active = now

    def _linger(self, connection: Connection, now: float) -> None:
        """Nothing more will be sent: wait until the client has all of it, and a moment for it to close."""
        current = connection.write_token.current
        ended = current.ended if current is not None else connection.active
        unsent = connection.unsent()
        if unsent:
            before, since = self._unsent_before.get(connection, (-1, now))
            if unsent != before:
                since = now
            self._unsent[connection] = unsent, since
            late = now - since > self._site.settings.send_timeout
        else:
            late = now - max(connection.active, ended) > LINGER or now - ended > LINGER_LONGEST
        if late:
            connection.close()
