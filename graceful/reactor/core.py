"""The reactor itself: Twisted's own, which tracks what it accepts, and drains before it shuts down."""

from __future__ import annotations

import socket
from types import FrameType
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.main import installReactor
from zope.interface import implementer

from graceful.config.settings import Settings
from graceful.process.signals import Stoppers
from graceful.reactor.environment import settings_of
from graceful.reactor.interfaces import ICountsInFlight
from graceful.reactor.reactor_process import ReactorProcess
from graceful.reactor.reactor_shutdown import ReactorShutdown
from graceful.reactor.tracking import Tracker
from graceful.reactor.transports import TCPPort, TCPServer, UNIXPort, UNIXServer
from graceful.reactor.twisted_web import kind_of

if TYPE_CHECKING:
    from twisted.internet.epollreactor import EPollReactor as Stock
else:
    try:
        from twisted.internet.epollreactor import EPollReactor as Stock
    except ImportError:
        from twisted.internet.pollreactor import PollReactor as Stock


@implementer(ICountsInFlight)
class GracefulReactor(Stock):
    """Twisted's reactor for this system, with a drain before its shutdown.

    :param settings: deadline, lame duck and control; None for the defaults of `graceful-app`.
    :param process: the process, if the reactor may end it: see :func:`graceful.reactor.install`.
    :ivar tracker: knows what is in flight.
    """

    def __init__(self, settings: Settings | None = None, process: ReactorProcess | None = None) -> None:
        self.tracker = Tracker(kind_of)
        super().__init__()  # type: ignore[no-untyped-call]
        self._shutdown = ReactorShutdown(
            self, settings if settings is not None else Settings(), self.tracker, process
        )
        self._stoppers = Stoppers(self._shutdown, self.callFromThread) if process is not None else None

    # -- ICountsInFlight ----------------------------------------------------------------------------------

    def inFlight(self, deferred: Deferred[Any], what: str) -> Deferred[Any]:
        """Wait for a Deferred before stopping."""
        self.tracker.track(deferred, what)
        return deferred

    # -- listening ----------------------------------------------------------------------------------------

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Listen on TCP; see `IReactorTCP`."""
        return _listening(TCPPort(port, factory, backlog, interface, self))

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        """Listen on a Unix socket; see `IReactorUNIX`."""
        return _listening(UNIXPort(address, factory, backlog, mode, self, wantPID))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """Listen on a socket that was made elsewhere; see `IReactorSocket`."""
        if addressFamily not in self._supportedAddressFamilies:
            raise UnsupportedAddressFamily(addressFamily)
        if addressFamily == socket.AF_UNIX:
            return _listening(UNIXPort._fromListeningDescriptor(self, fileDescriptor, factory))  # type: ignore[no-untyped-call]
        return _listening(TCPPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory))  # type: ignore[no-untyped-call]

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """Serve a connection that was accepted elsewhere; see `IReactorSocket`."""
        if addressFamily not in self._supportedAddressFamilies:
            raise UnsupportedAddressFamily(addressFamily)
        if addressFamily == socket.AF_UNIX:
            return UNIXServer._fromConnectedSocket(fileDescriptor, factory, self)  # type: ignore[no-untyped-call]
        return TCPServer._fromConnectedSocket(fileDescriptor, addressFamily, factory, self)  # type: ignore[no-untyped-call]

    # -- control ------------------------------------------------------------------------------------------

    def openControl(self) -> None:
        """Open control as soon as the reactor runs, if the settings say where."""
        self.callWhenRunning(self._shutdown.open_control)

    # -- stopping -----------------------------------------------------------------------------------------

    def sigTerm(self, number: int, frame: FrameType | None = None) -> None:
        """Stop at SIGTERM; at a second one, log what is in flight."""
        if self._stoppers is not None:
            self._stoppers.terminate(number, frame)
        else:
            super().sigTerm(number, frame)

    def sigInt(self, number: int, frame: FrameType | None = None) -> None:
        """Stop at SIGINT without waiting for idle connections; at a second one, wait for nothing."""
        if self._stoppers is not None:
            if self._stoppers.interrupted:
                self._shutdown.abandon_threads()
            self._stoppers.interrupt(number, frame)
        else:
            super().sigInt(number, frame)

    def fireSystemEvent(self, eventType: str) -> None:
        """Run the triggers of an event; those of `shutdown` wait until nothing is in flight."""
        fire = super().fireSystemEvent
        if eventType == "shutdown" and self.running:
            self._shutdown.begin().addCallback(lambda ignored: fire(eventType))
        else:
            fire(eventType)

    def mainLoop(self) -> None:
        """Run until the reactor has stopped, and report how the drain ended."""
        super().mainLoop()
        self._shutdown.ended()


def install() -> None:
    """Install the reactor; Twisted expects this function beside its class.  See :func:`graceful.reactor.install`."""
    process = ReactorProcess()
    reactor = GracefulReactor(settings_of(), process)
    installReactor(reactor)
    process.install()
    reactor.openControl()


def _listening(port: Any) -> Any:
    port.startListening()
    return port
