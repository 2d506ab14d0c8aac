"""Taking down one exchange that a person has chosen, while everything else goes on."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.takedown.stacks import stack_of
from graceful.web.exchange import Exchange
from graceful.web.site import Site

log = Logger(namespace="graceful")


def take_down_one(
    site: Site, clock: IReactorTime, working: Callable[[], dict[Exchange, int]], number: int
) -> list[int]:
    """Take down an exchange as a deadline would, with what is behind it on its connection.  Reactor thread.

    :param site: whose exchange.
    :param clock: monotonic time.
    :param working: the exchanges that a thread works for, each with its thread.
    :param number: the exchange's.
    :returns: the numbers of those that were interrupted; none if it is not in flight, or if others are before it on
        its connection, which would be interrupted first.
    """
    exchange = site.register.exchanges.get(number)
    if exchange is None:
        return []
    connection = exchange.connection
    current = connection.turn.current
    if current is None:
        if exchange not in connection.receiver.under_way():
            return []
    elif current is not exchange:
        return []
    stack = stack_of(working().get(exchange, 0))
    log.warn(
        "taking down {what} by order{stack}",
        what=exchange.describe(clock.seconds()),
        stack=f", its thread is here:\n{stack}" if stack else "",
    )
    interrupted = connection.take_down()
    for one in interrupted:
        site.finished(one)
    return [one.id for one in interrupted]
