"""The server in memory for ASGI applications: streams, WebSockets, and the notice of a stop.

Each version of the application runs in an asyncio loop of its own, with its lifespan, as in a process of its own.  So
a test sees in milliseconds whether an event stream ends itself when the server is replaced, what an application does
when its client leaves, and whether it bears the close of its WebSockets.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

from graceful.testing.client import Answer, Lost
from graceful.testing.memory import ServerInMemory
from graceful.testing.memory_exchange import Application, ExchangeInMemory
from graceful.testing.memory_stream import HttpInMemory, MemoryStream
from graceful.testing.memory_version import VersionInMemory
from graceful.testing.memory_websocket import MemoryWebSocket, WebSocketInMemory

#: Seconds that an application has to return when its clients have left at the end of a test.
LEFT: Final = 1.0
#: Seconds that the test waits for an answer in one piece.
ANSWERED: Final = 60.0


class AsgiMemoryServer(ServerInMemory):
    """A server in memory for an ASGI application, with the methods of :class:`graceful.testing.LiveServer`.

    The application's lifespan begins at once, and ends behind the last request.  A `with` block ends what is left.

    :param application: the application.
    :param next_version: returns the application that serves after a redeploy; by default it is the same one.
    :ivar lost: the lost requests: those whose application raised, and those that were taken down.
    :ivar rotation: `in`, `away` after :meth:`leave`, or `leaving` after :meth:`sigterm`.
    :raises StartFailed: the application's lifespan does not begin.
    """

    def __init__(self, application: Application, next_version: Callable[[], Application] | None = None) -> None:
        super().__init__()
        self._next_version = next_version or (lambda: application)
        self._numbers: dict[ExchangeInMemory, int] = {}  # under the lock
        self._version = VersionInMemory(application, self._over)
        self._versions = [self._version]

    def __enter__(self) -> AsgiMemoryServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- requests -----------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Call the application.  Returns its answer, which must be whole within a minute of its last piece.

        :param headers: in Python's spelling: ``content_type="text/plain"``.
        :raises Refused: the server was told to stop.
        :raises LostRequest: the application raised, or was taken down.
        """
        return self.stream(method, path, body, **headers).answer(ANSWERED)

    def stream(self, method: str, path: str, body: bytes | None = None, **headers: str) -> MemoryStream:
        """Send a request.  Returns its answer, which the test reads piece by piece; does not wait for it.

        :param headers: in Python's spelling: ``last_event_id="7"``.
        :raises Refused: the server was told to stop.
        """
        exchange = self._serve(
            method, path, lambda version: HttpInMemory(version, method, path, body or b"", headers)
        )
        assert isinstance(exchange, HttpInMemory)
        return MemoryStream(exchange)

    def websocket(self, path: str, *subprotocols: str, **headers: str) -> MemoryWebSocket:
        """Ask for a WebSocket.  Returns it when the application has accepted or denied it.

        :param subprotocols: that the client offers.
        :param headers: in Python's spelling.
        :raises Refused: the server was told to stop.
        :raises LostRequest: the application raised before it answered.
        """
        exchange = self._serve("GET", path, lambda version: WebSocketInMemory(version, path, subprotocols, headers))
        assert isinstance(exchange, WebSocketInMemory)
        return MemoryWebSocket(exchange)

    def _serve(self, method: str, path: str, make: Callable[[VersionInMemory], ExchangeInMemory]) -> ExchangeInMemory:
        with self._lock:
            number = self._begins(method, path)
            version = self._version
            exchange = make(version)
            self._numbers[exchange] = number
        version.serve(exchange)
        return exchange

    def _over(self, exchange: ExchangeInMemory, failure: Exception | None) -> None:
        if failure is not None:
            path = exchange.shown_target
            self.lost.append(Lost(exchange.method, path, f"{type(failure).__name__}: {failure}"))
        self._ends(self._numbers.pop(exchange))

    # -- orders -------------------------------------------------------------------------------------------

    def sigterm(self) -> None:
        """Stop listening, tell the application, and close its WebSockets a moment later; requests go on."""
        super().sigterm()
        self._version.drain()

    def gone(self, within: float = 5.0) -> int:
        """Wait until nothing is in flight, take down what still is, and end the lifespan.

        :param within: seconds to wait at most, as the server's deadline.
        :returns: the exit status: 0, or 70 if something was taken down.
        """
        status = super().gone(within)
        versions, self._versions = self._versions, []
        for version in versions:
            version.take_down()
            version.end()
        return status

    def redeploy(self) -> None:
        """Start the next version, serve with it, and stop the former one, which finishes what is in flight.

        :raises StartFailed: its lifespan does not begin; the former version goes on.
        """
        version = VersionInMemory(self._next_version(), self._over)
        with self._lock:
            former, self._version = self._version, version
        self._versions.append(version)
        former.drain()

    def close(self) -> None:
        """End all that is left: the clients leave, and the server stops."""
        if not self._versions:
            return
        for version in self._versions:
            version.leave()
        self.sigterm()
        self.gone(LEFT)
