"""A real server in a test of trial: each method that waits returns a Deferred.

class ReportTests(AppServerMixin, TestCase):

    @inlineCallbacks
    def test_report(self):
        server = yield self.serve("mysite.wsgi:application")
        report = server.get("/report")
        yield server.arrived("/report")
        yield server.redeploy()
        self.assertEqual((yield report).status, 200)
        self.assertEqual(server.lost, [])

For pytest-twisted, the fixture `deferred_app_server` does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from graceful.testing.client import Answer, Lost
from graceful.testing.server import LiveServer

if TYPE_CHECKING:
    from graceful.testing.treq_client import TreqClient

T = TypeVar("T")


class DeferredServer:
    """A :class:`LiveServer` whose waiting methods return Deferreds."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._treq: TreqClient | None = None

    @property
    def port(self) -> int:
        """The server's port on 127.0.0.1."""
        return self._server.port

    @property
    def url(self) -> str:
        """The server's address, such as `http://127.0.0.1:8080`, without a slash at the end."""
        return self._server.url

    @property
    def lost(self) -> list[Lost]:
        """The lost requests, in the order in which they were lost."""
        return self._server.lost

    @property
    def treq(self) -> TreqClient:
        """A treq client for the server: ``await server.treq.get("/report")``.  :meth:`stop` closes its connections.

        :raises ImportError: treq is not installed.
        """
        if self._treq is None:
            try:
                from graceful.testing.treq_client import TreqClient
            except ModuleNotFoundError as error:
                if error.name != "treq":
                    raise
                raise ImportError("server.treq needs the package treq: pip install 'graceful-app[testing]'") from None
            from twisted.internet import reactor

            self._treq = TreqClient(reactor, lambda: self.url)
        return self._treq

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Deferred[Answer]:
        """Send a request; fires with its answer."""
        return deferToThread(self._server.request, method, path, body, **headers)

    def get(self, path: str, **headers: str) -> Deferred[Answer]:
        """Send a GET; fires with its answer."""
        return self.request("GET", path, None, **headers)

    def arrived(self, path: str, count: int = 1) -> Deferred[None]:
        """Fires when `count` requests for a path are in flight."""
        return deferToThread(self._server.arrived, path, count)

    def leave(self) -> Deferred[None]:
        """Have the server leave the rotation; fires when it has."""
        return deferToThread(self._server.leave)

    def enter(self) -> Deferred[None]:
        """Have the server enter the rotation again; fires when it has."""
        return deferToThread(self._server.enter)

    def sigterm(self) -> None:
        """Send SIGTERM to the server."""
        self._server.sigterm()

    def closed(self) -> Deferred[None]:
        """Fires when the server's listening sockets are closed."""
        return deferToThread(self._server.closed)

    def gone(self) -> Deferred[int]:
        """Fires with the server's exit status when it has ended."""
        return deferToThread(self._server.gone)

    def redeploy(self) -> Deferred[int]:
        """Replace the server's process; fires with the process id of the new one when that serves."""
        return deferToThread(self._server.redeploy)

    def in_flight(self) -> Deferred[list[dict[str, Any]]]:
        """Fires with the exchanges in flight."""
        return deferToThread(self._server.in_flight)

    def stop(self) -> Deferred[list[int]]:
        """Close the treq client's connections, and stop the server.

        Fires with the exit statuses of the server's processes, oldest first.
        """
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> list[int]:
        try:
            if self._treq is not None:
                await self._treq.close()
        finally:
            statuses = await deferToThread(self._server.stop)
        return statuses


def start(
    add_cleanup: Callable[[Callable[[], Deferred[Any]]], object],
    application: str,
    *options: str,
    environment: Mapping[str, str] | None = None,
) -> Deferred[DeferredServer]:
    """Start a server; see :meth:`AppServerMixin.serve`.

    :param add_cleanup: called with the function that stops the server.
    """

    def started(live: LiveServer) -> DeferredServer:
        server = DeferredServer(live)
        add_cleanup(server.stop)
        return server

    return deferToThread(LiveServer, application, *options, environment=environment).addCallback(started)


class AppServerMixin:
    """A mixin for `twisted.trial.unittest.TestCase` that starts servers, and stops them at the end of the test."""

    addCleanup: Callable[..., None]

    def serve(
        self, application: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> Deferred[DeferredServer]:
        """Start a server; fires with it when it serves, or fails with :class:`StartFailed`.

        :param application: MODULE:CALLABLE.
        :param options: options of `graceful-app`, such as ``"--deadline", "5"``.
        :param environment: variables that the server gets in addition to those of the test.
        """
        return start(self.addCleanup, application, *options, environment=environment)
