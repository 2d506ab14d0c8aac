"""A treq client for the server of one test: it accepts paths, sends no request twice, and leaves no connection open.

Its pool keeps connections, since a deploy may break exactly these; a client that opens a connection for each request
never sees it.  Twisted's pool sends a GET a second time when a kept connection breaks.  This one does not, so that a
lost request fails in the test.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from hyperlink import DecodedURL, EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.web.client import Agent, HTTPConnectionPool
from zope.interface import implementer

if TYPE_CHECKING:
    from treq.response import _Response
    from twisted.web._newclient import HTTP11ClientProtocol

    _WrappingFactory = WrappingFactory[ProtocolWrapper]
else:
    _WrappingFactory = WrappingFactory  # before Twisted 24.10 it is generic for type checkers alone


class _Watched(_WrappingFactory):
    """Tells a pool about each connection that is opened, and when it closes."""

    def __init__(self, factory: IProtocolFactory, pool: OwnedPool) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self._pool = pool

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        """Tell the pool that a connection is open."""
        self._pool.opened(p)

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        """Tell the pool that a connection is closed."""
        self._pool.lost(p)


@implementer(IStreamClientEndpoint)
class _WatchedEndpoint:
    """An endpoint that tells a pool about its connections."""

    def __init__(self, endpoint: IStreamClientEndpoint, pool: OwnedPool) -> None:
        self._endpoint = endpoint
        self._pool = pool

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; fires with the protocol."""
        connecting: Deferred[Any] = self._endpoint.connect(_Watched(factory, self._pool))
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)


class OwnedPool(HTTPConnectionPool):
    """A pool that knows its connections in use as well as the idle ones, and can close all of them."""

    retryAutomatically = False
    maxPersistentPerHost = 100  # by default 2; if a test uses more at once, the pool would close the others

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._closed = False
        self._connecting: set[Deferred[Any]] = set()
        self._open: set[ProtocolWrapper] = set()
        self._emptied: Deferred[None] = Deferred()

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[HTTP11ClientProtocol]:
        """Returns a Deferred that fires with a connection: a kept one, or a new one.

        Once the pool is closed, it fails with :class:`RuntimeError`, which ends what a test has left running.
        """
        if self._closed:
            return fail(RuntimeError("the client is closed: its server has been stopped"))
        connecting = super().getConnection(key, _WatchedEndpoint(endpoint, self))

        def ended(result: Any) -> Any:
            self._connecting.discard(connecting)
            return result

        self._connecting.add(connecting)
        return connecting.addBoth(ended)

    def opened(self, connection: ProtocolWrapper) -> None:
        """Note an open connection."""
        self._open.add(connection)

    def lost(self, connection: ProtocolWrapper) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._look()

    def close(self) -> Deferred[None]:
        """Close every connection, also those whose answer was not read; fires when all are closed."""
        self._closed = True
        for connecting in list(self._connecting):
            connecting.cancel()
        self.closeCachedConnections()  # type: ignore[no-untyped-call]  # this also cancels its timers
        for connection in list(self._open):
            connection.abortConnection()
        self._look()
        return self._emptied

    def _look(self) -> None:
        if self._closed and not self._open and not self._emptied.called:
            self._emptied.callback(None)


class TreqClient(HTTPClient):
    """A :class:`treq.client.HTTPClient` whose URLs may be paths of the server.

    :param reactor: opens the connections.
    :param url: returns the server's address, without a path.
    """

    def __init__(self, reactor: Any, url: Callable[[], str]) -> None:
        self._pool = OwnedPool(reactor)
        self._url = url
        super().__init__(Agent(reactor, pool=self._pool))

    def request(self, method: str, url: str | bytes | EncodedURL | DecodedURL, **options: Any) -> Deferred[_Response]:
        """Send a request, as :func:`treq.request` does; `get`, `post` and the others call this.

        :param url: a URL, or a path such as ``"/report?year=2026"``.
        """
        if isinstance(url, bytes):
            url = url.decode("ascii")
        elif isinstance(url, DecodedURL):
            url = url.encoded_url
        return super().request(method, EncodedURL.from_text(self._url()).click(url), **options)

    def close(self) -> Deferred[None]:
        """Close the client's connections; fires when they are closed."""
        return self._pool.close()
