"""The listening sockets of a server that stands alone: bound here, or handed over by a predecessor.

The server's own sockets (tcp, tcp6, unix, fd, systemd) can be handed over.  An endpoint's plugin makes others, which
cannot: while a predecessor still listens there, this server serves without them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from graceful.config.settings import Settings
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.process.own_process import OwnProcess, systemd_sockets
from graceful.server.socket_source import Acceptor
from graceful.sockets.address import Address, parse
from graceful.sockets.binding import LISTEN, BindError, BoundSocket, bind
from graceful.sockets.endpoint_listener import EndpointListener
from graceful.takeover.predecessor import CLOSES_IN, Predecessor
from graceful.tls.certificates import BadCertificate, CertificateStore
from graceful.web.site import Interceptor
from graceful.web.transport_connection import EndpointFactory

log = Logger(namespace="graceful")

#: Seconds between two attempts to listen where the predecessor still does.
RETRY_SECONDS = 0.02


def load_certificates(listen: Sequence[str], store: CertificateStore) -> None:
    """Load the certificates of all sockets that speak TLS.

    :param listen: the endpoints.
    :raises BindError: one line for the operator.
    """
    for text in listen:
        try:
            store.add([parse(text).tls])
        except BadCertificate as error:
            raise BindError(f"cannot listen on {text}: {error}") from None


class OwnSockets:
    """A :class:`graceful.server.socket_source.SocketSource` that binds, or takes over from a predecessor.

    :param settings: name the listeners.
    :param process: None if the process is not the server's own.
    """

    control: socket.socket | None = None
    label = ""
    words = "stopping", "drained"
    interceptors: Sequence[Interceptor] = ()

    def __init__(self, settings: Settings, process: OwnProcess | None) -> None:
        self._settings = settings
        self._process = process
        self._bound: list[BoundSocket] = []
        self._endpoints: list[EndpointListener] = []
        self._late: list[EndpointListener] = []  # a predecessor has these, and cannot hand them over
        self._starting: list[Deferred[Any]] = []
        self._cannot: BaseException | None = None
        self._server: Acceptor | None = None

    def bind(self, reactor: Any, factory: EndpointFactory, predecessor: Predecessor | None) -> None:
        """Bind every socket that the predecessor has not handed over.

        :raises BindError: one line for the operator.
        """
        environ, pid = systemd_sockets(self._process)
        addresses = [parse(text) for text in self._settings.listen]
        ours = [address for address in addresses if address.kind != "plugin"]
        adopted = iter(predecessor.claim(LISTEN, ours) if predecessor is not None else [None] * len(ours))
        for address in addresses:
            if address.kind == "plugin":
                self._bind_endpoint(address, reactor, factory, predecessor)
                continue
            bound = next(adopted) or bind(address, environ, pid)
            self._bound.append(bound)
            if self._process is not None:
                self._process.startup.undo.callback(bound.close)

    def _bind_endpoint(
        self, address: Address, reactor: Any, factory: EndpointFactory, predecessor: Predecessor | None
    ) -> None:
        """Have a plugin listen: here, since only root may have its port, or read its key."""
        listener = EndpointListener(reactor, address.text, factory)
        if predecessor is not None and address.text in predecessor.foreign:
            self._late.append(listener)
            return
        self._endpoints.append(listener)
        starting = listener.start().addErrback(self._cannot_listen)
        if self._cannot is not None:
            raise self._cannot
        self._starting.append(starting)

    def _cannot_listen(self, failure: Failure) -> Failure | None:
        """A plugin has failed: start-up fails with it; or, if that comes later, the server stops."""
        if self._server is None:
            self._cannot = failure.value
            return None
        error = failure.value
        assert error is not None
        log.critical("{reason}: stopping", reason=failure.getErrorMessage())
        self._server.leave_after(error)
        return failure

    def names(self) -> list[str]:
        """Returns where the server will listen."""
        return [bound.name for bound in self._bound] + [listener.name for listener in self._endpoints]

    def descriptors(self) -> list[int]:
        """Returns the descriptors of the sockets that do not accept yet."""
        return [bound.socket.fileno() for bound in self._bound]

    def accept(self, server: Acceptor, reactor: Any) -> None:
        """Accept as soon as the reactor runs."""
        self._server = server
        server.engine.accept(self._bound, self._endpoints, server.factory)
        listening = DeferredList(self._starting, fireOnOneErrback=True, consumeErrors=True)
        listening.addCallback(lambda ignored: reactor.callWhenRunning(self._opened, server))
        listening.addErrback(lambda ignored: None)  # the failure is logged
        self._bound, self._endpoints, self._starting = [], [], []

    def _opened(self, server: Acceptor) -> None:
        server.engine.listening.say_open()
        server.accepting()

    def inherited(self) -> None:
        """Listen on the endpoints that the predecessor could not hand over, as soon as they are free."""
        for listener in self._late:
            Deferred.fromCoroutine(self._listen_late(listener))

    async def _listen_late(self, listener: EndpointListener) -> None:
        """Listen as soon as the predecessor does not; it has let go of the others, so a failure is only logged."""
        server = self._server
        assert server is not None
        clock = server.engine.clock
        give_up = clock.seconds() + CLOSES_IN
        while server.drain.state == State.SERVING:
            try:
                await listener.start()
            except BindError as error:
                if clock.seconds() < give_up:
                    await deferLater(clock, RETRY_SECONDS)
                    continue
                log.error("{error}; the other sockets are served", error=error)
            else:
                server.engine.listening.add(listener)
            return

    def close(self) -> Deferred[None]:
        """Close everything: the server stops before it was built."""
        for bound in self._bound:
            bound.close()
        closing: Deferred[None] = Deferred()
        DeferredList([listener.close() for listener in self._endpoints]).addCallback(
            lambda ignored: closing.callback(None)
        )
        return closing

    def before_closing(self) -> Deferred[None]:
        """Nothing to wait for: no other process of this instance has the sockets."""
        return succeed(None)

    def sockets_closed(self) -> None:
        """Nothing else has to hear of it."""

    def drained(self, result: DrainResult, snapshot: dict[str, Any]) -> None:
        """Nothing else has to hear of it."""
