"""Listening through a Twisted endpoint plugin: `ssl:`, `haproxy:`, or any other that is installed.

Such an endpoint binds, accepts and closes by itself, inside the reactor.  Its sockets cannot be handed to a
successor.  This module gives it the interface of our own listeners, so that the drain need not know the difference,
and has it accept all completed connections before it closes, which would reset them.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger

from graceful.sockets.binding import BindError
from graceful.sockets.handshakes import admit_new, filter_new, half_open
from graceful.sockets.listener import HANDSHAKES_LOOK, HANDSHAKES_WAIT

log = Logger(namespace="graceful")


#: Accepts at most before a port closes, so that a flood of clients cannot keep it open.
MOST: Final = 4096


class EndpointListener:
    """One endpoint that a plugin listens on.  Everything here happens in the reactor thread.

    :ivar description: as it was given.
    :ivar name: what log lines call it: the plugin's prefix and where it listens, `ssl:0.0.0.0:8443`.
    :ivar paused: why nothing is accepted for now, None if it is.
    :ivar closed: whether it has stopped listening.
    """

    def __init__(self, reactor: Any, description: str, factory: IProtocolFactory) -> None:
        """Nothing is bound before `start`.

        :param reactor: for the endpoint.
        :param description: as `twisted.internet.endpoints.serverFromString` takes it.
        :param factory: makes the protocols of its connections.
        """
        self.name = description
        self.paused: str | None = None
        self.closed = False
        self._reactor = reactor
        self.description = description
        self._factory = factory
        self._port: Any = None  # an IListeningPort, and mostly more than that

    def start(self) -> Deferred[None]:
        """Bind and begin to accept.

        :returns: fires once it listens; fails with `BindError`, one line for the operator.
        """
        # Not at import time: it takes LISTEN_FDS out of the environment.
        from twisted.internet.endpoints import serverFromString

        def listening(port: IListeningPort) -> None:
            self._port = port
            self.name = name_of(self.description.partition(":")[0], port) or self.description

        def cannot(failure: object) -> None:
            reason = getattr(failure, "value", failure)
            raise BindError(f"cannot listen on {self.description}: {str(reason) or repr(reason)}")

        starting = maybeDeferred(lambda: serverFromString(self._reactor, self.description).listen(self._factory))
        return starting.addCallbacks(listening, cannot)

    def pause(self, reason: str) -> None:
        """Leave new connections in the kernel's queue until `resume`, if the plugin's port can do that."""
        self.paused = reason
        if hasattr(self._port, "stopReading"):
            self._port.stopReading()

    def resume(self) -> None:
        """Accept again."""
        self.paused = None
        if hasattr(self._port, "startReading"):
            self._port.startReading()

    def close(self) -> Deferred[None]:
        """Stop listening, and say so in the log.

        :returns: fires when it is done, and never with a failure.
        """
        if self._port is None:
            self.closed = True
            return succeed(None)
        port, self._port = self._port, None

        def closed(ignored: object) -> None:
            self.closed = True

        return Deferred.fromCoroutine(close_port(self._reactor, self.name, port)).addCallback(closed)


async def close_port(reactor: Any, name: str, port: Any) -> None:
    """Close a port of Twisted or of a plugin, and log it; never fails.

    All completed connections are accepted before; no new handshake begins.

    :param name: what the log line calls it.
    """
    try:
        await _close(reactor, port)
    except Exception:
        log.failure("socket {name}: trouble while closing", name=name)
    log.info("socket {name} closed (pid {pid})", name=name, pid=os.getpid())


async def _close(reactor: Any, port: Any) -> None:
    listening = getattr(port, "socket", None)
    if isinstance(listening, socket.socket):
        if listening.family != socket.AF_UNIX and filter_new(listening):
            number, looks = listening.getsockname()[1], int(HANDSHAKES_WAIT / HANDSHAKES_LOOK)
            while looks and half_open(number):
                looks -= 1
                await deferLater(reactor, HANDSHAKES_LOOK)
        # The port closes in the reactor's next turn; this is called just before.
        reactor.callLater(0, _last_look, port, listening)
    await maybeDeferred(port.stopListening)


def name_of(kind: str, port: IListeningPort) -> str | None:
    """Return the name of a port for log lines: `ssl:0.0.0.0:8443`; None if it does not say where it listens.

    :param kind: the prefix of the endpoint string, such as `ssl`.
    """
    where = port.getHost()
    if isinstance(where, IPv4Address):
        return f"{kind}:{where.host}:{where.port}"
    if isinstance(where, IPv6Address):
        return f"{kind}:[{where.host}]:{where.port}"
    if isinstance(where, UNIXAddress) and where.name is not None:
        return f"{kind}:{os.fsdecode(where.name)}"
    return None


def _last_look(port: Any, listening: socket.socket) -> None:
    """Accept all completed connections; another process that holds the socket gets the later ones."""
    _accept_all(port)
    admit_new(listening)


def _accept_all(port: Any) -> None:
    """Have a port of the reactor's accept every connection that the kernel has completed."""
    poll = select.poll()
    poll.register(port.fileno(), select.POLLIN)
    for _ in range(MOST):
        if not poll.poll(0):
            return
        port.doRead()
