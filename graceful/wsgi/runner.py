"""One exchange in a thread of the pool: call the application, send what it gives, close what it gave.

PEP 3333 lets an application answer in many ways (one list, an iterator, `write`, a second `start_response` with
an error), fail in each of them, and promises it that `close` is called exactly once, whatever happens: also when
the client has left.  And the wish of every other part of this server is that the thread is soon back.

A takedown raises an exception in the thread, and only where the application runs: every way into its code sets
`in_application`, and every way out of it unsets it and looks for a takedown (see :mod:`graceful.threads.async_exc`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from twisted.logger import Logger

from graceful.application.current import set_current
from graceful.application.deadlines import DeadlineExceeded, Takedown
from graceful.reports.reporter import DEADLINE, ERROR, Reporter
from graceful.threads.async_exc import NOTHING, clear_pending, set_exception
from graceful.web.exchange import APPLICATION, SENDING, Disconnected, Exchange
from graceful.web.site import RETRY_AFTER
from graceful.wsgi.environ import of_connection, of_request, of_server
from graceful.wsgi.filewrapper import FileWrapper

log = Logger(namespace="graceful")


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Runner:
    """Runs WSGI applications: of each exchange, its handler's.

    :param reports: gets a report of each that fails.
    """

    def __init__(self, reports: Reporter | None = None) -> None:
        self._server = of_server()
        self._reports = reports if reports is not None else Reporter()

    def __call__(self, exchange: Exchange) -> None:
        """Answer the exchange.  In a thread of the pool."""
        connection = exchange.connection
        if connection.write_token.current is not exchange or connection.write_token.closed:
            exchange.abandon()  # the client left, or the deadline came, while it waited for a thread
            exchange.release()
            return
        exchange.phase = APPLICATION
        set_current(exchange)
        base = connection.memo
        if base is None:
            base = connection.memo = of_connection(self._server, connection)
        result: Iterable[bytes] | None = None
        handed_over: Callable[[], object] | None = None
        try:
            environ = exchange.environ = of_request(base, exchange)
            if exchange.mount is not None:
                environ["SCRIPT_NAME"], environ["PATH_INFO"] = exchange.mount

            def start_response(
                status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
            ) -> Callable[[bytes], None]:
                was, exchange.in_application = exchange.in_application, False
                try:
                    if exchange.takedown is not None:
                        clear_pending(exchange.takedown)
                    if exchange.head is not None:
                        _again(exchange, exc_info)
                    exchange.start(status, headers)
                finally:
                    exchange.in_application = was
                return exchange.push

            # 1. Into the application's code, where a takedown may be raised.
            exchange.in_application = True
            result = exchange.handler.application(environ, start_response)
            # 2. Out of it; then look for a takedown, and clear what has not been raised yet.
            exchange.in_application = False
            if exchange.takedown is not None:
                clear_pending(exchange.takedown)
            # 3. Send the answer; _send() goes into an iterator and out of it by the same steps.
            if type(result) is list and len(result) == 1 and exchange.offer is None:
                exchange.finish(result[0])
            else:
                handed_over = self._send(exchange, result)
        except BaseException as error:
            exchange.in_application = False
            takedown = exchange.takedown
            if takedown is not None:
                with takedown.lock:  # as clear_pending() does it, which must not be called here
                    set_exception(takedown.thread, NOTHING)
            self._failed(exchange, error)
        finally:
            # 4. Close what the application gave, and cancel what it wanted to have called.
            if exchange.phase == APPLICATION:
                exchange.phase = SENDING
            if type(result) is not list:
                close = getattr(result, "close", None)
                if close is not None:
                    self._close(exchange, close)
            if exchange.hooks is not None:
                for hook in exchange.hooks.copy():
                    hook.cancel()
            exchange.environ = None  # which refers to the exchange
            # 5. Let go: the event loop goes on with the answer, or the exchange is released.
            if handed_over is not None:
                handed_over()
            else:
                exchange.release()

    @staticmethod
    def _send(exchange: Exchange, result: Iterable[bytes]) -> Callable[[], object] | None:
        """Send an answer piece by piece.  Returns what hands it over to the event loop, if that takes it."""
        write_token = exchange.connection.write_token
        if exchange.offer is not None or type(result) is FileWrapper:
            handed_over = _hand_over(exchange, result)
            if handed_over is not None:
                return handed_over
        exchange.in_application = True
        for piece in result:
            exchange.in_application = False
            if exchange.takedown is not None:
                clear_pending(exchange.takedown)
            if exchange.offer is not None:  # `start_response` was called with the first piece
                handed_over = _hand_over(exchange, result)
                if handed_over is not None:
                    return handed_over
            if piece:
                exchange.write(piece)
            elif write_token.closed:
                raise Disconnected
            exchange.in_application = True
        exchange.in_application = False
        if exchange.takedown is not None:
            clear_pending(exchange.takedown)
        handed_over = _hand_over(exchange, result) if exchange.offer is not None else None
        if handed_over is None:
            exchange.finish()
        return handed_over

    def _close(self, exchange: Exchange, close: Callable[[], object]) -> None:
        """Close what the application gave."""
        try:
            exchange.in_application = True
            close()
            exchange.in_application = False
            if exchange.takedown is not None:
                clear_pending(exchange.takedown)
        except BaseException as error:
            exchange.in_application = False
            takedown = exchange.takedown
            if takedown is not None:
                with takedown.lock:
                    set_exception(takedown.thread, NOTHING)
                if isinstance(error, Takedown):
                    return  # it has been said
            exchange.report = exchange.report or self._reports.new_id()
            log.failure(
                "{exchange}: close() of the answer failed ({report})", exchange=exchange, report=exchange.report
            )
            if not exchange.error:  # else there is a report of it already
                exchange.error = 500
                self._reports.failed(exchange, ERROR, error)

    def _failed(self, exchange: Exchange, error: BaseException) -> None:
        """The application raised: a 500, or, if its answer has begun, a body that is visibly cut."""
        if isinstance(error, Disconnected):
            exchange.abandon()
            return
        if exchange.takedown is not None:
            # Its client has its answer.  What the takedown raised may come up as another exception of the code's.
            exchange.abandon()
            if not isinstance(error, Takedown):
                log.info("{exchange}: the takedown ended in {error!r}", exchange=exchange, error=error)
            return
        exchange.report = exchange.report or self._reports.new_id()
        if isinstance(error, DeadlineExceeded):
            kind, status, extra = DEADLINE, 503, RETRY_AFTER
            log.warn(
                "{exchange} [{request}]: {error} ({report})",
                exchange=exchange,
                request=exchange.request_id,
                error=error,
                report=exchange.report,
            )
        else:
            kind, status, extra = ERROR, 500, ""
            log.failure(
                "{exchange} [{request}]: the application failed ({report})",
                exchange=exchange,
                request=exchange.request_id,
                report=exchange.report,
            )
        exchange.error = status
        self._reports.failed(exchange, kind, error)
        try:
            exchange.fail(status, extra)
        except Disconnected:
            exchange.abandon()


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
