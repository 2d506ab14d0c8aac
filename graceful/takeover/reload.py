"""Deploying in place: at SIGHUP the server starts its own successor, which takes over from it.

The successor must run the new release.  A process that was started in `/srv/app/current` has the directory to which
this symbolic link led then, and so has its interpreter: started from what the process knows about itself, each
successor would run the old release.  So :class:`graceful.process.origin.Origin` keeps everything as it was given: the
directory as the shell wrote it (`$PWD`), the script as it was called, and the environment before any change to it.
The successor resolves these paths again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from graceful.humanize import ending
from graceful.process.container import ends_with_this_process
from graceful.process.origin import VARIABLE, Origin
from graceful.process.orphan import Orphan
from graceful.takeover.socket_handover import SocketHandover

log = Logger(namespace="graceful")


#: Seconds that a killed successor has to exit, before this server stops without waiting for it.
GONE_IN: Final = 2.0


class Reload:
    """Starts successors.  Reactor thread.

    :param origin: how this process was started.
    :param control: returns the control path at which the successor asks for the sockets; None if there is none.
    :param handover: the takeover by the successor.
    :param clock: monotonic.
    :param timeout: seconds from the start of the successor until it accepts.
    :param start: starts a program that becomes a child of process 1.
    :param container_ends: returns why a container would end with this process; None if it would not.
    :param takes_over: returns whether this process itself takes over just now, so that no successor can ask it yet.
    """

    def __init__(
        self,
        origin: Origin,
        control: Callable[[], str | None],
        handover: SocketHandover,
        reactor: Any,
        clock: IReactorTime,
        timeout: float,
        start: Callable[..., Orphan] = Orphan,
        container_ends: Callable[[], str | None] = ends_with_this_process,
        kill: Callable[[int, int], object] = os.kill,
        takes_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._origin = origin
        self._control = control
        self._handover = handover
        self._reactor = reactor
        self._clock = clock
        self._timeout = timeout
        self._start = start
        self._container_ends = container_ends
        self._kill = kill
        self._takes_over = takes_over
        self._child: Orphan | None = None
        self._timer: IDelayedCall | None = None
        self._gone: Deferred[None] | None = None  # fires when the successor of an abandoned deploy is gone
        self._again = False  # another deploy was asked for while this one is under way

    def deploy(self) -> None:
        """Start a successor; if a takeover is under way, after that, which may be of an older release."""
        if self._timer is not None or self._takes_over():
            self._again = True
            log.info("deploy: one is under way; another one follows it")
            return
        why = self._why_not()
        if why is not None:
            log.error("no deploy: {why}; this one serves on", why=why)
            return
        origin = self._origin
        environment = {**origin.environment, VARIABLE: self._control() or ""}
        try:
            self._child = self._start(self._reactor, origin.program(), origin.directory, environment, self)
        except OSError as error:
            self._cannot_start(error)
            return
        self._timer = self._clock.callLater(self._timeout, self._late)

    def started(self, orphan: Orphan) -> None:
        """The successor runs."""
        if orphan is self._child:
            log.info(
                "deploy: successor, process {pid}, runs {new} (was {old})",
                pid=orphan.pid,
                new=os.path.realpath(self._origin.application),
                old=self._origin.led_to,
            )

    def not_started(self, orphan: Orphan, error: OSError) -> None:
        """The successor cannot be started."""
        if orphan is not self._child:
            return
        self._child = None
        self._look_whether_gone()
        if self._timer is not None:
            self._stop_timer()
            self._cannot_start(error)

    def _cannot_start(self, error: OSError) -> None:
        origin = self._origin
        self._say(f"{origin.command[0]} cannot be started in {origin.directory}: {error.strerror}")

    def give_up(self) -> Deferred[None]:
        """Abandon a deploy that is under way, since this server stops; fires when its successor is gone.

        An operator that stops a server does not want another one to start; and the sockets are open as long as the
        successor holds them.
        """
        self._again = False
        if self._timer is None:
            return succeed(None)
        self._stop_timer()
        log.warn("no deploy: it is stopping")
        self._handover.abandon()
        if self._child is not None:
            self._child.kill()
        if self._handover.successor:  # a daemon is not a child of this process
            with suppress(ProcessLookupError):
                self._kill(self._handover.successor, signal.SIGKILL)
        gone = self._gone = Deferred()
        gone.addTimeout(GONE_IN, self._clock, lambda *ignored: None)
        self._look_whether_gone()
        return gone

    def _look_whether_gone(self) -> None:
        if self._gone is not None and self._child is None and not self._handover.successor:
            gone, self._gone = self._gone, None
            gone.callback(None)

    def _why_not(self) -> str | None:
        if self._gone is not None:
            return "it is stopping"
        if (why := self._container_ends()) is not None:
            return why
        if not self._control():
            return "without a control socket nobody can take over"
        return self._handover.obstacle()

    def ended(self, orphan: Orphan, status: int) -> None:
        """The successor has exited; with status 0 if it has become a daemon, which goes on in another process."""
        if orphan is not self._child:
            return  # of an earlier deploy
        self._child = None
        self._look_whether_gone()
        if self._timer is not None and status != 0:
            self._stop_timer()
            how = ending(status)
            self._say(f"the successor, process {orphan.pid}, has ended with {how}; its own log says why")

    def _late(self) -> None:
        self._timer = None
        if self._child is not None:
            self._child.kill()
        self._say(f"the successor has not accepted within {self._timeout:g} s")

    def takeover_ended(self) -> None:
        """A takeover has ended, by a successor that this process has started or by another; its result is logged."""
        self._stop_timer()
        if self._handover.handed and self._child is not None:
            # Before the service manager is told of the successor.
            self._child.let_go()
            self._child = None
        self._look_whether_gone()
        self._once_more()

    def has_taken_over(self) -> None:
        """This process has taken over."""
        self._once_more()

    def _say(self, why: str) -> None:
        log.error("no deploy: {why}; this one serves on", why=why)
        self._once_more()

    def _once_more(self) -> None:
        """Begin the deploy that was asked for meanwhile, or leave it to the process that serves now."""
        handover = self._handover
        if not self._again or (handover.successor and not handover.handed):
            return
        self._again = False
        if handover.handed:
            log.info("deploy: process {pid} is to begin another one", pid=handover.successor)
            with suppress(ProcessLookupError):
                self._kill(handover.successor, signal.SIGHUP)
        else:
            self.deploy()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
