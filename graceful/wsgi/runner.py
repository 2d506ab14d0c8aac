"""Runs a WSGI application for one exchange: calls it, sends its answer, and calls the answer's `close`.

PEP 3333 lets an application answer in many ways (one list, an iterator, `write`, a second `start_response` with an
error), and it may fail in each of them.  The server must call `close` exactly once, whatever happens, also when the
client has left.  And the thread must soon be free again, since the application's threads are few.

A takedown raises an exception in the thread, but only while the thread runs the application's code.  So every way
into that code sets `in_application`, and every way out of it unsets it and looks for a takedown (see
:mod:`graceful.threads.async_exc`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any

from twisted.logger import Logger

from graceful.application.current import set_current
from graceful.application.deadlines import Takedown
from graceful.reports.failed_answer import answer_failure
from graceful.reports.reporter import ERROR, Reporter
from graceful.threads.async_exc import NOTHING, clear_pending, set_exception
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import APPLICATION, SENDING, Exchange
from graceful.web.response_headers import ResponseFields
from graceful.wsgi.environ import ConnectionEnviron, of_connection, of_request, of_server
from graceful.wsgi.filewrapper import FileWrapper

log = Logger(namespace="graceful")


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
StartResponse = Callable[..., Callable[[bytes], None]]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class Runner:
    """Answers exchanges, each with the WSGI application of its handler.

    :param reports: gets a report of each exchange that fails.
    :param multiprocess: other processes call the same applications at the same time.
    """

    def __init__(self, reports: Reporter | None = None, multiprocess: bool = False) -> None:
        self._server = of_server(multiprocess)
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
        common = connection.memo
        if common is None:
            common = connection.memo = ConnectionEnviron(of_connection(self._server, connection))
        result: Iterable[bytes] | None = None
        handed_over: Callable[[], object] | None = None
        try:
            try:
                environ = exchange.environ = of_request(common, exchange)
                if exchange.mount is not None:
                    environ["SCRIPT_NAME"], environ["PATH_INFO"] = exchange.mount
                start_response = partial(_start_response, exchange)  # half of what a nested function costs
                # 1. Enter the application's code, where a takedown may be raised.
                exchange.in_application = True
                result = exchange.handler.application(environ, start_response)
                # 2. Leave it; then look for a takedown, and clear an exception that has not been raised yet.
                exchange.in_application = False
                if exchange.takedown is not None:
                    clear_pending(exchange.takedown)
                # 3. Send the answer; _send() enters and leaves an iterator by the same steps.
                if type(result) is list and len(result) == 1 and exchange.offer is None:
                    exchange.finish(result[0])
                else:
                    handed_over = self._send(exchange, result)
            except BaseException:
                exchange.in_application = False  # CPython 3.10 looks for exceptions at the beginning of a handler,
                raise  # so what it raises there, or here, gets to the next one
        except BaseException as error:
            exchange.in_application = False
            takedown = exchange.takedown
            if takedown is not None:
                # As clear_pending() does; its call here could raise the exception.
                set_exception(takedown.thread, NOTHING)
                with takedown.lock:
                    set_exception(takedown.thread, NOTHING)
            answer_failure(exchange, error, self._reports)
        finally:
            # 4. Call the answer's close(), and cancel the application's hooks.
            if exchange.phase == APPLICATION:
                exchange.phase = SENDING
            if type(result) is not list:
                close = getattr(result, "close", None)
                if close is not None:
                    self._close(exchange, close)
            if exchange.hooks is not None:
                for hook in exchange.hooks.copy():
                    hook.cancel()
            exchange.environ = None  # it refers to the exchange, which would be a cycle
            # 5. Leave the answer to the event loop, or release the exchange.
            if handed_over is not None:
                handed_over()
            else:
                exchange.release()

    @staticmethod
    def give_up(exchange: Exchange) -> None:
        """End an exchange that this class itself has failed to answer.  In the `except` block."""
        exchange.in_application = False
        exchange.environ = None
        if not exchange.ended:
            exchange.connection.site.fail(exchange)
        elif not exchange.released:
            exchange.release()

    @staticmethod
    def _send(exchange: Exchange, result: Iterable[bytes]) -> Callable[[], object] | None:
        """Send an answer piece by piece.

        :returns: the function that begins a hand-over, if the event loop sends the answer; else None.
        """
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
        """Call the `close` of an answer, which is application code."""
        try:
            try:
                exchange.in_application = True
                close()
                exchange.in_application = False
                if exchange.takedown is not None:
                    clear_pending(exchange.takedown)
            except BaseException:
                exchange.in_application = False  # as in __call__()
                raise
        except BaseException as error:
            exchange.in_application = False
            takedown = exchange.takedown
            if takedown is not None:
                set_exception(takedown.thread, NOTHING)
                with takedown.lock:
                    set_exception(takedown.thread, NOTHING)
                if not isinstance(error, Takedown):
                    log.info("{exchange}: the takedown ended in {error!r}", exchange=exchange, error=error)
                return  # the takedown is in the log already, and has a report
            exchange.report = exchange.report or self._reports.new_id()
            log.failure(
                "{exchange}: close() of the answer failed ({report})", exchange=exchange, report=exchange.report
            )
            if not exchange.error:  # else the exchange has a report already
                exchange.error = 500
                self._reports.failed(exchange, ERROR, error)


def _hand_over(exchange: Exchange, result: Iterable[bytes]) -> Callable[[], object] | None:
    """Offer an answer to the event loop, unless it has begun.

    :returns: the function that begins a hand-over; None if the thread has to send the answer.
    """
    hand_over = exchange.connection.site.hand_over
    if hand_over is None or (exchange.begun and not exchange.resumes):
        return None
    return hand_over(exchange, result)


def _start_response(
    exchange: Exchange, status: str, headers: ResponseFields, exc_info: ExcInfo | None = None
) -> Callable[[bytes], None]:
    """PEP 3333's `start_response`: leaves the application's code, and enters it again."""
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


def _again(exchange: Exchange, exc_info: ExcInfo | None) -> None:
    """Permit a second `start_response` only if it reports an error, and only before any byte was sent.

    :raises AssertionError: it reports no error.
    """
    if exc_info is None:
        raise AssertionError("start_response was called a second time without exc_info")
    exchange.offer = None
    try:
        if exchange.begun:
            raise exc_info[1].with_traceback(exc_info[2])
    finally:
        del exc_info  # it refers to this frame
