"""The task in which an application has a WebSocket: its scope, its call, and what becomes of it when that returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from graceful.asgi.client_left import says_that_the_client_left
from graceful.asgi.scope import beyond_http, http_scope
from graceful.reports.failed_answer import report_failure
from graceful.websocket.application import WebSocketEvents
from graceful.websocket.opening_handshake import BadHandshake, Handshake

if TYPE_CHECKING:
    from graceful.asgi.http_session import Application
    from graceful.asgi.lifespan import Lifespan
    from graceful.asgi.loop_thread import LoopThread
    from graceful.reports.reporter import Reporter
    from graceful.web.exchange import Exchange


class TaskHost(Protocol):
    """What runs the application.

    :ivar thread: its loop's thread.
    :ivar reports: gets a report of each exchange that fails.
    :ivar extensions: that an HTTP scope offers.
    """

    thread: LoopThread
    reports: Reporter
    extensions: dict[str, Any]


def open_websocket(
    exchange: Exchange, application: Application, lifespan: Lifespan, host: TaskHost
) -> WebSocketTask | None:
    """Returns the task of a request that asks for a WebSocket; None if it asks wrongly, and is answered."""
    site = exchange.connection.site
    try:
        handshake = Handshake.read(exchange.headers)
    except BadHandshake as refused:
        site.answer(exchange, refused.status, refused.extra)
        return None
    events = WebSocketEvents(exchange, handshake, host.thread, site.websockets)
    exchange.handler = events.session
    return WebSocketTask(exchange, application, lifespan, events, host)


class WebSocketTask:
    """Calls an application for one WebSocket.

    :param exchange: the request that asks for it.
    :param application: the ASGI application.
    :param lifespan: the application's.
    :param events: what the application receives and sends.
    :param host: runs the application.
    """

    __slots__ = ("_application", "_events", "_exchange", "_host", "_lifespan")

    handed_over = False

    def __init__(
        self,
        exchange: Exchange,
        application: Application,
        lifespan: Lifespan,
        events: WebSocketEvents,
        host: TaskHost,
    ) -> None:
        self._exchange = exchange
        self._application = application
        self._lifespan = lifespan
        self._events = events
        self._host = host

    async def run(self) -> bool:
        """Call the application.  Returns True: the exchange is released.  The loop's thread."""
        events, exchange = self._events, self._exchange
        owed: tuple[int, str] | None = None
        try:
            await self._lifespan.until_ready()
            scope = exchange.environ = self._scope(self._lifespan.state)
            await self._application(scope, events.receive, events.send)
            events.check_returned()
        except BaseException as error:
            # Most applications let their framework's exception for the client's leaving, or for the server's close,
            # through.  It is no failure, and a stop would else report each of them.
            if not (events.has_ended() and says_that_the_client_left(error)):
                owed = report_failure(exchange, error, self._host.reports)
        events.returned(owed)
        return True

    def _scope(self, state: dict[str, Any] | None) -> dict[str, Any]:
        exchange = self._exchange
        scope = http_scope(exchange, beyond_http(self._host.extensions), state)
        del scope["method"]
        self._events.complete_scope(scope)
        return scope
