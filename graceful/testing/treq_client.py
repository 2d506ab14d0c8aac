"""treq for the server of one test: it takes paths, tries nothing again, and leaves no connection behind.

Its pool is persistent, since what happens to a connection that is kept is what a deploy may get wrong; a client that
opens a connection for each request never sees it.  Twisted's pool sends a GET a second time when a kept connection
breaks; here it does not, so that a lost request fails in the test.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from hyperlink import DecodedURL, EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred, fail, gatherResults
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.client import Agent, HTTPConnectionPool

if TYPE_CHECKING:
    from treq.response import _Response
    from twisted.web._newclient import HTTP11ClientProtocol


class OwnedPool(HTTPConnectionPool):
    """A pool that knows the connections in use as well as those that it keeps, and can end all of them."""

    retryAutomatically = False
    maxPersistentPerHost = 100  # two by default, and a test with more at once would close the others

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._closed = False
        self._connecting: set[Deferred[HTTP11ClientProtocol]] = set()
        self._connected: WeakSet[HTTP11ClientProtocol] = WeakSet()

    def getConnection(self, key: Hashable, endpoint: IStreamClientEndpoint) -> Deferred[HTTP11ClientProtocol]:
        """Return a Deferred that fires with a connection: a kept one, or a new one.

        It fails with :class:`RuntimeError` once the pool is closed: what a test has left running cannot go on asking.
        """
        if self._closed:
            return fail(RuntimeError("the client is closed: its server has been stopped"))
        connecting = super().getConnection(key, endpoint)

        def connected(connection: HTTP11ClientProtocol) -> HTTP11ClientProtocol:
            self._connected.add(connection)
            return connection

        def ended(result: Any) -> Any:
            self._connecting.discard(connecting)
            return result

        self._connecting.add(connecting)
        return connecting.addCallback(connected).addBoth(ended)

    def close(self) -> Deferred[None]:
        """End every connection, also those whose answer was not read; fires when all of them are closed."""
        self._closed = True
        for connecting in list(self._connecting):
            connecting.cancel()
        kept = self.closeCachedConnections()  # type: ignore[no-untyped-call]
        used = []
        for connection in list(self._connected):
            used.append(connection.abort())
            transport: Any = connection.transport  # what it is of depends on the endpoint
            if transport is not None:
                transport.abortConnection()  # else an upload that the server does not read would be waited for
        return gatherResults([kept, *used]).addCallback(lambda ignored: None)


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
