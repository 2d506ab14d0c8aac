"""Trees of Twisted resources, each rendered with the real `twisted.web.server.Request` it was written for.

A site is seldom one WSGI application alone: it also has static files, an API in klein, a proxied path.  All of
Twisted's resources expect a `Request`.  This module makes one for each exchange that reaches the tree, over a channel
(:mod:`graceful.web.request_channel`) that stands for the exchange.

Twisted finds the resource.  If it is a handler that answers exchanges itself, such as a WSGI application, the request
is dropped and the handler gets the exchange.

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

    The exchange frames its answer.  It gives the exchange to a handler, if the tree has one at its path.  And it
    parses a form only when `args` is read: a large upload to a WSGI application must not be parsed in the event loop.
    """

    channel: Any
    content: Any
    _finishing = False
    _form_is_unread = False
    _reads_form = False

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The arguments of the query and of a form in the body (see :class:`twisted.web.http.Request`)."""
        if self._form_is_unread:
            self._read_form()
        args: dict[bytes, list[bytes]] = self.__dict__["args"]
        return args

    @args.setter
    def args(self, args: dict[bytes, list[bytes]]) -> None:
        self._form_is_unread = False
        self.__dict__["args"] = args

    def process(self) -> None:
        """Find the resource in the tree, and render it."""
        if not self._reads_form:
            self._form_is_unread = self.method == b"POST"
            super().process()  # type: ignore[no-untyped-call]

    def _read_form(self) -> None:
        # Twisted reads the form in requestReceived(), and takes the file's position for the length of the body.  At
        # the first call the position was 0, so Twisted took the body for empty; now it is at the end of the file.
        path, position = self.path, self.content.tell()
        self._reads_form = True
        self.content.seek(0, io.SEEK_END)
        self.requestReceived(self.method, self.uri, self.clientproto)  # type: ignore[no-untyped-call]
        self._reads_form = False
        self.content.seek(position)
        self.path = path

    def render(self, resource: Any) -> None:
        """Render the resource for this request; if it is a handler, give it the exchange instead."""
        handler = IHandler(resource, None)
        if self.channel is None:
            return  # the resource was found after the client had left
        if handler is not None and not self.startedWriting:
            self.channel.give_to(handler, self.prepath, self.postpath)
            return
        self.args  # noqa: B018 - resources expect the form to be parsed by now
        if self.channel.bad_request:
            self.channel.fail(400)
        else:
            super().render(resource)  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        """Write a piece of the body (see :meth:`twisted.web.http.Request.write`).

        An empty piece at the beginning sends the head, for a client that waits for events.
        """
        started = self.startedWriting
        if started:
            super().write(data)  # type: ignore[no-untyped-call]
            return
        # For HTTP/1.1 Twisted would write chunks itself, which the exchange would frame a second time.
        protocol, self.clientproto = self.clientproto, b"HTTP/1.0"
        try:
            super().write(data)  # type: ignore[no-untyped-call]
        finally:
            self.clientproto = protocol
        if self.startedWriting and not data and not self._finishing:
            self.channel.flush()

    def finish(self) -> None:
        """Complete the answer (see :meth:`twisted.web.http.Request.finish`)."""
        self._finishing = True
        super().finish()  # type: ignore[no-untyped-call]

    def processingFailed(self, reason: Failure) -> Failure:
        """Answer 500; if the body has begun, cut it, where Twisted would append an error page to it."""
        if not self.startedWriting:
            return super().processingFailed(reason)  # type: ignore[no-any-return, no-untyped-call]
        self._log.failure("", failure=reason)
        if self.channel is not None:
            self.channel.fail(500)
        return reason


@implementer(IHandler)
class ResourceTree:
    """Answers exchanges from a tree of resources.

    :param root: the resource at the root of the tree.
    :param hub: calls functions in the reactor thread.
    """

    def __init__(self, root: IResource, hub: Hub) -> None:
        self.site = server.Site(root, requestFactory=Request)
        self.call = hub.call
        self._hub = hub
        self._streams: dict[Exchange, RequestChannel] = {}

    def handle(self, exchange: Exchange) -> None:
        """Find the resource for an exchange, and render it.  Any thread."""
        if self._hub.in_reactor_thread():
            self._render(exchange)
        else:
            self._hub.call(self._render, exchange)

    def take(self, exchange: Exchange, prefix: list[bytes], rest: list[bytes]) -> None:
        """Answer an exchange whose path begins at the tree's root, since a tree is always a root."""
        self.handle(exchange)

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the exchange's request that its client is gone."""
        stream = self._streams.get(exchange)
        if stream is not None:
            stream.lost()

    def parked(self, exchange: Exchange) -> bool:
        """Whether the exchange's resource has nothing to send, and no producer that makes more."""
        stream = self._streams.get(exchange)
        return stream is not None and stream.parked()

    def works_for(self, exchange: Exchange) -> bool:
        """Whether its resource has still to answer."""
        return exchange in self._streams

    def _render(self, exchange: Exchange) -> None:
        write_token = exchange.connection.write_token
        if write_token.closed or write_token.current is not exchange:
            exchange.abandon()  # the client left, or the deadline came, before the reactor thread had the call
            exchange.release()
            return
        exchange.handler = self
        exchange.phase = APPLICATION
        try:
            stream = self._streams[exchange] = RequestChannel(self, exchange)
            stream.render()
        except Exception:
            self._streams.pop(exchange, None)
            exchange.connection.site.fail(exchange)
            return
        if write_token.eof and self.parked(exchange):
            self.call(self._end_parked, exchange)  # not at once: this may be called while a request is parsed

    def _end_parked(self, exchange: Exchange) -> None:
        """Close the connection of a client that has left, unless its exchange has come to life meanwhile."""
        if exchange.connection.write_token.current is exchange and self.parked(exchange):
            exchange.connection.close()

    def forget(self, exchange: Exchange) -> None:
        """Forget an exchange that is answered, or that another handler answers."""
        self._streams.pop(exchange, None)
