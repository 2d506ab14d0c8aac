"""What a client hears when its exchange is taken down.

A client that waits for an answer is owed one, and one that has a part of an answer must not take it for the whole.
So an exchange of which nothing was sent is answered with 503 by a substitute in its place, and whoever still works
for it finds itself gone; any other ends with its connection, and visibly so: a body that was announced stays short
of that, and one that would end with the connection is reset (RFC 9112 §8).

Everything here runs in the reactor thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graceful.web.exchange import Exchange

if TYPE_CHECKING:
    from graceful.web.connection import Connection


def take_down(connection: Connection) -> list[Exchange]:
    """End what is left on a connection, as its deadline has come.

    :returns: the exchanges that were interrupted: the one that is being answered, and those behind it.
    """
    write_token = connection.write_token
    current = write_token.current
    if current is None:
        receiving = connection.receiver.refuse(503)
        if receiving is None:
            connection.close()
            return []
        return [receiving]
    if write_token.lingering and connection.unsent() == 0:
        return []
    interrupted = [current, *write_token.waiting, *connection.receiver.under_way()]
    if not _oust(current, keep=False):
        connection.close(reset=not current.framed)
    current.abandon()
    return interrupted


def interrupt(exchange: Exchange) -> bool:
    """End this one exchange, which has had its time.

    Others on its connection go on, unless that has to be cut.

    :returns: False: it is not its turn any more, or its answer is complete and on its way.
    """
    if _oust(exchange, keep=True):
        return True
    if exchange.ended:
        return False  # it was set before the last piece was given away, which is what has stopped us
    return exchange.connection.close(reset=not exchange.framed, only=exchange)


def _oust(exchange: Exchange, keep: bool) -> bool:
    """Answer 503 instead of whoever works for an exchange.  False: it is not its turn, or its answer has begun.

    :param keep: the connection may carry other exchanges afterwards.
    """
    connection = exchange.connection
    substitute = Exchange(connection)
    substitute.id, substitute.method, substitute.target = exchange.id, exchange.method, exchange.target
    substitute.version, substitute.report = exchange.version, exchange.report
    substitute.keep = keep and exchange.keep
    if not connection.write_token.oust(exchange, substitute):
        return False
    connection.site.disconnected(exchange)
    exchange.status = 503
    connection.site.answer(substitute, 503)
    return True
