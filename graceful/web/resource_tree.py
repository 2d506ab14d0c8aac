"""Trees of Twisted resources: every one of them gets the real `twisted.web.server.Request` it was written for.

A site is seldom one WSGI application alone: there are static files, an API in klein, a proxied corner.  All of
Twisted's resources talk to a `Request`; so there is one, and what it talks to is in
:mod:`graceful.web.request_channel`.

The way down the tree is Twisted's.  If it ends at something that answers exchanges itself (a WSGI application),
the request steps aside and the exchange takes the fast way.

Everything here runs in the reactor thread.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from twisted.python.failure import Failure
from twisted.web import server
from twisted.web.resource import IResource
from zope.interface import implementer

from graceful.web.exchange import APPLICATION, Exchange
from graceful.web.interfaces import IHandler
from graceful.web.request_channel import RequestChannel

if TYPE_CHECKING:
    from graceful.web.hub import Hub


class Request(server.Request):
    """Twisted's request, with three differences.

    Its answer is framed by the exchange.  It steps aside for a handler.  And it reads a form only when somebody
    looks at `args`: a large upload on its way to a WSGI application must not be parsed in the event loop.
    """

    channel: Any
    content: Any
    _finishing = False
    _form_is_unread = False
    _reads_form = False

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The arguments of the query, and of a form in the body (see :class:`twisted.web.http.Request`)."""
        if self._form_is_unread:
            self._read_form()
        args: dict[bytes, list[bytes]] = self.__dict__["args"]
        return args

    @args.setter
    def args(self, args: dict[bytes, list[bytes]]) -> None:
        self._form_is_unread = False
        self.__dict__["args"] = args

    def process(self) -> None:
        """Find the resource, and have it rendered."""
        if not self._reads_form:
            self._form_is_unread = self.method == b"POST"
            super().process()  # type: ignore[no-untyped-call]

    def _read_form(self) -> None:
        # Twisted reads the form when it receives the request, if the body is not empty, which it takes from the
        # file's position.  When it really received it, that was at the beginning.
        path, position = self.path, self.content.tell()
        self._reads_form = True
        self.content.seek(0, io.SEEK_END)
        self.requestReceived(self.method, self.uri, self.clientproto)  # type: ignore[no-untyped-call]
        self._reads_form = False
        self.content.seek(position)
        self.path = path

    def render(self, resource: Any) -> None:
        """Render the resource found for this request, or give the exchange to it."""
        handler = IHandler(resource, None)
        if self.channel is None:
            return  # a resource that was found late, when the client had left
        if handler is not None and not self.startedWriting:
            self.channel.give_to(handler, self.prepath, self.postpath)
            return
        self.args  # noqa: B018 - as every resource expects it, the form is read by now
        if self.channel.bad_request:
            self.channel.fail(400)
        else:
            super().render(resource)  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        """Write a piece of the body (see :meth:`twisted.web.http.Request.write`).

        An empty piece at the beginning sends the head, for a client that waits for events.
        """
        if self.startedWriting:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        # Twisted chunks by itself what it takes for HTTP/1.1; the exchange frames it better.
        protocol, self.clientproto = self.clientproto, b"HTTP/1.0"
        try:
            super().write(data)  # type: ignore[no-untyped-call]
        finally:
            self.clientproto = protocol
        if self.startedWriting and not data and not self._finishing:
            self.channel.flush()

    def finish(self) -> None:
        """Say that the answer is complete (see :meth:`twisted.web.http.Request.finish`)."""
        self._finishing = True
        super().finish()  # type: ignore[no-untyped-call]

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer 500; or cut a body that has begun, where Twisted would put an error page behind it."""
        if not self.startedWriting:
            return super().processingFailed(reason)  # type: ignore[no-any-return, no-untyped-call]
        self._log.failure("", failure=reason)
        if self.channel is not None:
            self.channel.fail(500)
        return reason


@implementer(IHandler)
class ResourceTree:
    """Answers exchanges from a tree of resources.

    :param root: the tree.
    :param hub: calls into the reactor thread.
    """

    def __init__(self, root: IResource, hub: Hub) -> None:
        self.site = server.Site(root, requestFactory=Request)
        self.call = hub.call
        self._hub = hub
        self._streams: dict[Exchange, RequestChannel] = {}

    def handle(self, exchange: Exchange) -> None:
        """Find the exchange's resource, and have it rendered."""
        if self._hub.in_reactor_thread():
            self._render(exchange)
        else:
            self._hub.call(self._render, exchange)

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """A tree is always a root."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the request that its client is gone."""
        stream = self._streams.get(exchange)
        if stream is not None:
            stream.lost()

    def parked(self, exchange: Exchange) -> bool:
        """Whether its resource has neither anything to send nor somebody who makes it."""
        stream = self._streams.get(exchange)
        return stream is not None and stream.parked()

    def _render(self, exchange: Exchange) -> None:
        write_token = exchange.connection.write_token
        if write_token.closed or write_token.current is not exchange:
            exchange.abandon()  # the client left, or the deadline came, on the way to this thread
            exchange.release()
            return
        exchange.handler = self
        stream = self._streams[exchange] = RequestChannel(self, exchange)
        exchange.phase = APPLICATION
        stream.render()
        if write_token.eof and self.parked(exchange):
            exchange.connection.close()

    def forget(self, exchange: Exchange) -> None:
        """The exchange is answered, or somebody else's."""
        self._streams.pop(exchange, None)
