"""One exchange in a thread of the pool: call the application, send what it gives, close what it gave.

PEP 3333 lets an application answer in many ways (one list, an iterator, `write`, a second `start_response` with
an error), fail in each of them, and promises it that `close` is called exactly once, whatever happens: also when
the client has left.  And the wish of every other part of this server is that the thread is soon back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from twisted.logger import Logger

from graceful.current import current
from graceful.web.exchange import APPLICATION, SENDING, Disconnected, Exchange
from graceful.wsgi.environ import of_connection, of_request, of_server
from graceful.wsgi.filewrapper import FileWrapper

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

log = Logger(namespace="graceful")


class Runner:
    """Runs WSGI applications: of each exchange, its handler's."""

    def __init__(self) -> None:
        self._server = of_server()

    def __call__(self, exchange: Exchange) -> None:
        """Answer the exchange.  In a thread of the pool."""
        connection = exchange.connection
        if connection.turn.current is not exchange or connection.turn.closed:
            exchange.flushed = True  # the client left, or the deadline came, while it waited for a thread
            connection.site.through(exchange)
            return
        exchange.phase = APPLICATION
        current.set(exchange)
        base = connection.memo
        if base is None:
            base = connection.memo = of_connection(self._server, connection)
        result: Iterable[bytes] | None = None
        handed_over: Callable[[], object] | None = None
        try:
            environ = of_request(base, exchange)
            if exchange.mount is not None:
                environ["SCRIPT_NAME"], environ["PATH_INFO"] = exchange.mount

            def start_response(
                status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
            ) -> Callable[[bytes], None]:
                if exchange.started_answer:
                    _again(exchange, exc_info)
                exchange.start(status, headers)
                return exchange.write

            result = exchange.handler.application(environ, start_response)
            if type(result) is list and len(result) == 1 and exchange.offer is None:
                exchange.finish(result[0])
            else:
                handed_over = self._send(exchange, result)
        except Disconnected:
            exchange.flushed = True
        except BaseException:
            self._failed(exchange)
        finally:
            if exchange.phase == APPLICATION:
                exchange.phase = SENDING
            if type(result) is not list:
                close = getattr(result, "close", None)
                if close is not None:
                    try:
                        close()
                    except BaseException:
                        log.failure("{exchange}: close() of the answer failed", exchange=exchange)
            if handed_over is not None:
                handed_over()
            else:
                connection.site.through(exchange)

    @staticmethod
    def _send(exchange: Exchange, result: Iterable[bytes]) -> Callable[[], object] | None:
        """Send an answer piece by piece; returned is what gives it to the event loop, if somebody wants that."""
        turn = exchange.connection.turn
        if exchange.offer is not None or type(result) is FileWrapper:
            handed_over = _hand_over(exchange, result)
            if handed_over is not None:
                return handed_over
        for piece in result:
            if exchange.offer is not None:  # `start_response` was called with the first piece
                handed_over = _hand_over(exchange, result)
                if handed_over is not None:
                    return handed_over
            if piece:
                exchange.write(piece)
            elif turn.closed:
                raise Disconnected
        handed_over = _hand_over(exchange, result) if exchange.offer is not None else None
        if handed_over is None:
            exchange.finish()
        return handed_over

    def _failed(self, exchange: Exchange) -> None:
        """The application raised: a 500, or, if its answer has begun, a body that is visibly cut."""
        log.failure("{exchange} [{request}]: the application failed", exchange=exchange, request=exchange.request_id)
        try:
            exchange.fail(500)
        except Disconnected:
            exchange.flushed = True


def _hand_over(exchange: Exchange, result: Iterable[bytes]) -> Callable[[], object] | None:
    """Offer the answer to the event loop; once it has begun, it is too late for that."""
    hand_over = exchange.connection.site.hand_over
    return hand_over(exchange, result) if hand_over is not None and not exchange.begun else None


def _again(exchange: Exchange, exc_info: ExcInfo | None) -> None:
    """`start_response` was called a second time: only to report an error, and only before anything was sent."""
    if exc_info is None:
        raise AssertionError("start_response was called a second time without exc_info")
    exchange.offer = None
    try:
        if exchange.begun:
            raise exc_info[1].with_traceback(exc_info[2])
    finally:
        del exc_info  # it refers to this frame
