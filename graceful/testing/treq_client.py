"""treq for the server of one test: it takes paths, tries nothing again, and leaves no connection behind.

Its pool is persistent, since what happens to a connection that is kept is what a deploy may get wrong; a client that
opens a connection for each request never sees it.  Twisted's pool sends a GET a second time when a kept connection
breaks; here it does not, so that a lost request fails in the test.
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


class _Watched(WrappingFactory[ProtocolWrapper]):
    """Has the connections that it makes in a pool's list while they are open."""

    def __init__(self, factory: IProtocolFactory, pool: OwnedPool) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self._pool = pool

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        """A connection is open."""
        self._pool.opened(p)

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        """It is closed."""
        self._pool.lost(p)


@implementer(IStreamClientEndpoint)
class _WatchedEndpoint:
    """An endpoint whose connections a pool knows."""

    def __init__(self, endpoint: IStreamClientEndpoint, pool: OwnedPool) -> None:
        self._endpoint = endpoint
        self._pool = pool

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect; fires with the protocol."""
        connecting: Deferred[Any] = self._endpoint.connect(_Watched(factory, self._pool))
        return connecting.addCallback(lambda wrapper: wrapper.wrappedProtocol)


class OwnedPool(HTTPConnectionPool):
    """A pool that knows the connections in use as well as those that it keeps, and can end all of them."""

    retryAutomatically = False
    maxPersistentPerHost = 100  # two by default, and a test with more at once would close the others

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._closed = False
        self._connecting: set[Deferred[Any]] = set()
        self._open: set[ProtocolWrapper] = set()
        self._emptied: Deferred[None] = Deferred()

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[HTTP11ClientProtocol]:
        """Return a Deferred that fires with a connection: a kept one, or a new one.

        It fails with :class:`RuntimeError` once the pool is closed: what a test has left running cannot go on asking.
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
        """Take note of a connection."""
        self._open.add(connection)

    def lost(self, connection: ProtocolWrapper) -> None:
        """Forget it, since it is closed."""
        self._open.discard(connection)
        self._look()

    def close(self) -> Deferred[None]:
        """End every connection, also those whose answer was not read; fires when all of them are closed."""
        self._closed = True
        for connecting in list(self._connecting):
            connecting.cancel()
        self.closeCachedConnections()  # type: ignore[no-untyped-call]  # its timers end with this, too
        for connection in list(self._open):
            connection.abortConnection()
        self._look()
        return self._emptied

    def _look(self) -> None:
        if self._closed and not self._open and not self._emptied.called:
            self._emptied.callback(None)


class TreqClient(HTTPClient):
    """A :class:`treq.client.HTTPClient` for which a URL may be a path of the server.

    :param reactor: opens the connections.
    :param url: returns where the server is now.
    """

    def __init__(self, reactor: Any, url: Callable[[], str]) -> None:
        self._pool = OwnedPool(reactor)
        self._url = url
        super().__init__(Agent(reactor, pool=self._pool))

    def request(self, method: str, url: str | bytes | EncodedURL | DecodedURL, **options: Any) -> Deferred[_Response]:
        """Send a request, as :func:`treq.request` does; `get`, `post` and the others call this.

        :param url: such as ``"/report?year=2026"``.
        """
        if isinstance(url, bytes):
            url = url.decode("ascii")
        elif isinstance(url, DecodedURL):
            url = url.encoded_url
        return super().request(method, EncodedURL.from_text(self._url()).click(url), **options)

    def close(self) -> Deferred[None]:
        """End its connections; fires when they are closed."""
        return self._pool.close()
