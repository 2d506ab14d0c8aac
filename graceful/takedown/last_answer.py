"""The last answer to a client whose exchange is taken down: 503, or a visible cut.

A client that waits for an answer is owed one, and a client that has a part of an answer must not take it for the
whole.  So if nothing was sent, a substitute takes the exchange's place and answers 503, and the thread that still
works for the exchange finds it disconnected.  Else the exchange ends visibly with its connection: a body stays short
of its announced length, and one that would end with the connection is reset (RFC 9112 §8).

Everything here runs in the reactor thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.web.exchange import Exchange

if TYPE_CHECKING:
    from graceful.web.carrier import Carrier


def take_down(connection: Carrier[Exchange]) -> list[Exchange]:
    """End a connection, with the exchanges on it: their deadline has come.

    :returns: the exchanges that were interrupted: the one that is being answered, and those behind it.
    """
    write_token = connection.write_token
    current = write_token.current
    if current is None:
        under_way = connection.under_way()
        if not under_way:
            connection.close()
            return []
        for exchange in under_way:
            exchange.taken_down = True
        connection.refuse(503)
        return under_way
    if write_token.lingering and connection.unsent() == 0:
        return []
    interrupted = [current, *write_token.waiting, *connection.under_way()]
    for exchange in interrupted:
        exchange.taken_down = True
    if not _replace(current, keep=False):
        connection.close(reset=not current.framed)
    current.abandon()
    return interrupted


def interrupt(exchange: Exchange) -> bool:
    """End one exchange, whose time is over.

    Others on its connection go on, unless the connection has to be cut.

    :returns: False if the exchange is not current any more, or its answer is complete and on its way.
    """
    if _replace(exchange, keep=True):
        return True
    if exchange.ended:
        return False  # set before the last piece was queued: that piece has prevented the substitute
    exchange.taken_down = True  # before the end, at which it is logged
    exchange.taken_down = exchange.connection.close(reset=not exchange.framed, only=exchange)
    return exchange.taken_down


def _replace(exchange: Exchange, keep: bool) -> bool:
    """Answer 503 in place of an exchange.

    :param keep: the connection may carry other exchanges afterwards.
    :returns: False if the exchange is not current, or its answer has begun.
    """
    connection = exchange.connection
    substitute = exchange.substitute()
    substitute.taken_down = True
    substitute.keep = keep and exchange.keep
    if not connection.write_token.replace(exchange, substitute):
        return False
    connection.site.replaced(substitute)
    connection.site.disconnected(exchange)
    exchange.taken_down = True
    exchange.status = 503
    connection.site.answer(substitute, 503)
    return True
