"""Requests to an upstream server, such as a file store: Twisted's client, with the limits that it lacks.

It is Twisted's `Agent` with a persistent pool, not treq on top of it: treq unpacks gzip on the way, after which the
announced length, the validator and the ranges are those of another representation.

The agent has no limit for the bytes of a response's head, and its time-out for connecting goes by the wall clock.
Here are both; the time-out goes by a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web._newclient import HTTP11ClientProtocol, HTTPClientParser, TransportProxyProducer
from twisted.web.client import URI, Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

Fields = Sequence[tuple[str, str]]

#: Bytes of a response's head: an upstream that sends more is broken, and would fill the memory.
MAX_HEAD: Final = 1 << 17
#: Idle connections that are kept for each host; more are closed after their response.
KEPT_PER_HOST: Final = 64
#: Seconds that an idle connection is kept: few, so that a request rarely meets one that the upstream is closing.
KEPT_SECONDS: Final = 20
#: Seconds: the endpoint's own time-out, which goes by the wall clock, must never be the one that fires.
NEVER: Final = 86_400.0


class HeadTooLong(Exception):
    """The head of an upstream's response is longer than `MAX_HEAD`."""

    def __str__(self) -> str:
        return f"the head of the answer is longer than {MAX_HEAD} bytes"


class AbortingTransport(TransportProxyProducer):
    """The transport of a response; closing it aborts the connection."""

    def loseConnection(self) -> None:
        """Abort: the rest is not wanted, and TLS would wait for an orderly goodbye."""
        if self._producer is not None:
            self._producer.abortConnection()


class UpstreamClient(HTTP11ClientProtocol):
    """A connection to an upstream server; it is closed if the head of a response is too long."""

    _head = 0

    def request(self, request: Any) -> Deferred[IResponse]:
        """Send a request, and begin to count the bytes of its response's head."""
        self._head = 0
        asking: Deferred[IResponse] = super().request(request)
        parser = self._parser
        if parser is None:
            return asking  # the request was refused
        proxy: Any = AbortingTransport(self.transport)  # type: ignore[no-untyped-call]
        self._transportProxy = parser.transport = proxy
        return asking.addCallback(_without_the_connections_own, parser)

    def dataReceived(self, data: bytes) -> None:
        """Count the bytes of a head, and give up when they are too many."""
        if self._parser is not None and self._parser.bodyDecoder is None:
            self._head += len(data)
            if self._head > MAX_HEAD:
                self._giveUp(Failure(HeadTooLong()))  # type: ignore[no-untyped-call]
                return
        super().dataReceived(data)  # type: ignore[no-untyped-call]


def _without_the_connections_own(response: IResponse, parser: HTTPClientParser) -> IResponse:
    """Remove the fields that concern only this connection (RFC 9110 §7.6.1); only the parser has their names."""
    for value in parser.connHeaders.getRawHeaders(b"connection", []):
        for name in value.split(b","):
            response.headers.removeHeader(name.strip())
    return response


class UpstreamClientFactory(Factory):
    """Makes the connections of the pool."""

    noisy = False

    def __init__(self, quiescent: Any, metadata: str) -> None:
        self._quiescent = quiescent

    def buildProtocol(self, addr: object) -> UpstreamClient:
        """Return the protocol for a new connection."""
        return UpstreamClient(self._quiescent)  # type: ignore[no-untyped-call]


class UpstreamPool(HTTPConnectionPool):
    """Connections that are kept between requests."""

    _factory: Any = UpstreamClientFactory
    maxPersistentPerHost = KEPT_PER_HOST
    cachedConnectionTimeout = KEPT_SECONDS


@implementer(IStreamClientEndpoint)
class TimedEndpoint:
    """An endpoint with a time-out for connecting, by a monotonic clock.

    :param limit: seconds.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, clock: IReactorTime, limit: float) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._limit = limit

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; fails with `TimeoutError` after the limit."""
        connecting = self._endpoint.connect(factory)
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            connecting.cancel()

        def ended(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            if late:
                raise TimeoutError(f"it does not connect within {self._limit:g} s")
            return result

        timer = self._clock.callLater(self._limit, give_up)
        return connecting.addBoth(ended)


@implementer(IAgentEndpointFactory)
class UpstreamEndpoints:
    """Makes the endpoints that the agent connects to."""

    def __init__(self, reactor: Any, clock: IReactorTime, limit: float) -> None:
        self._reactor = reactor
        self._clock = clock
        self._limit = limit
        self._policy: Any = None

    def endpointForURI(self, uri: URI) -> TimedEndpoint:
        """Return the endpoint for a URL; the reactor resolves its host."""
        endpoint: Any = HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=NEVER)
        if uri.scheme == b"https":
            if self._policy is None:
                self._policy = BrowserLikePolicyForHTTPS()
            endpoint = wrapClientTLS(self._policy.creatorForNetloc(uri.host, uri.port), endpoint)
        return TimedEndpoint(endpoint, self._clock, self._limit)


class Upstream:
    """The client of all upstream servers.  Reactor thread.

    :param reactor: Twisted's.
    :param clock: monotonic time.
    :param connect: time-out for connecting, seconds.
    """

    def __init__(self, reactor: Any, clock: IReactorTime, connect: float) -> None:
        self._pool = UpstreamPool(reactor)  # type: ignore[no-untyped-call]
        self._agent = Agent.usingEndpointFactory(reactor, UpstreamEndpoints(reactor, clock, connect), self._pool)

    def ask(self, method: str, url: str, fields: Fields) -> Deferred[IResponse]:
        """Send a request.

        :returns: fires with the response; cancelling it closes the connection.
        :raises ValueError: the URL is invalid.
        """
        headers = Headers()
        for name, value in fields:
            headers.addRawHeader(name.encode("latin-1"), value.encode("latin-1"))
        asking: Deferred[IResponse] = self._agent.request(method.encode("ascii"), url.encode("ascii"), headers)
        return asking

    def stop(self) -> None:
        """Close the idle connections."""
        self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]
