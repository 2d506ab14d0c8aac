"""Taking down one exchange that a person has chosen, while everything else goes on."""

from __future__ import annotations

from graceful.takedown.request_timeout import Overtime
from graceful.web.site import Site

WHY = "by order"


def take_down_one(site: Site, overtime: Overtime, number: int) -> list[int]:
    """Take down an exchange as a deadline would; those behind it on its connection go on, if that can be kept.

    Reactor thread.

    :param site: whose exchange.
    :param overtime: takes single exchanges down.
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
    return [one.id for one in overtime.interrupt(exchange, WHY, cut=True)]
