"""The reactor itself: Twisted's own, which counts what it accepts, and drains before it shuts down."""

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
from graceful.reactor.drainable import ReactorProcess, ReactorShutdown
from graceful.reactor.environment import settings_of
from graceful.reactor.interfaces import ICountsInFlight
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

    :param settings: deadline, lame duck and control; the defaults of `graceful-app` if it is None.
    :param process: given if it is installed in a process that it may end: see :func:`graceful.reactor.install`.
    :ivar tracker: what is in flight.
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

    # -- what is accepted ---------------------------------------------------------------------------------

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
        """Answer those who ask how it is, as soon as it runs, if the settings say where."""
        self.callWhenRunning(self._shutdown.open_control)

    # -- the way out --------------------------------------------------------------------------------------

    def sigTerm(self, number: int, frame: FrameType | None = None) -> None:
        """Stop; again: say what is waited for."""
        if self._stoppers is not None:
            self._stoppers.terminate(number, frame)
        else:
            super().sigTerm(number, frame)

    def sigInt(self, number: int, frame: FrameType | None = None) -> None:
        """Stop, and do not wait for idle connections; again: for nothing."""
        if self._stoppers is not None:
            if self._stoppers.interrupted:
                self._shutdown.abandon_threads()
            self._stoppers.interrupt(number, frame)
        else:
            super().sigInt(number, frame)

    def fireSystemEvent(self, eventType: str) -> None:
        """Have everybody do what is to be done at an event; at `shutdown`, when nothing is in flight any more."""
        fire = super().fireSystemEvent
        if eventType == "shutdown" and self.running:
            self._shutdown.begin().addCallback(lambda ignored: fire(eventType))
        else:
            fire(eventType)

    def mainLoop(self) -> None:
        """Run until all is over."""
        super().mainLoop()
        self._shutdown.ended()


def install() -> None:
    """Install it; see :func:`graceful.reactor.install`.  Twisted looks for this beside a reactor's class."""
    process = ReactorProcess()
    reactor = GracefulReactor(settings_of(), process)
    installReactor(reactor)
    process.install()
    reactor.openControl()


def _listening(port: Any) -> Any:
    port.startListening()
    return port
