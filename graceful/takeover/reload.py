"""Deploying in place: at SIGHUP the server starts its own successor, which takes over from it.

The successor is meant to run the new release, and that goes wrong in a well-known way: a process which started in
`/srv/app/current` has the directory that this symbolic link led to then, and so has its interpreter.  Started again
from what the process knows of itself, the successor would run the old release for ever.  So everything is kept as it
was given: the directory as the shell has written it (`$PWD`), the script as it was called, and the environment before
anybody changed it.  By these paths all is looked up afresh.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from graceful.process.child import Child
from graceful.process.origin import VARIABLE, Origin
from graceful.takeover.succession import SocketHandover

log = Logger(namespace="graceful")


#: Seconds that a successor has to be gone that was killed, as this server stops.
GONE_IN: Final = 2.0


class Reload:
    """Starts successors.  Reactor thread.

    :param origin: how this process was started.
    :param control: where it is to be asked for its sockets; None for nowhere.
    :param succession: the takeover that is to follow.
    :param clock: times it; monotonic.
    :param timeout: seconds from the start of the successor until it accepts.
    """

    def __init__(
        self,
        origin: Origin,
        control: Callable[[], str | None],
        succession: SocketHandover,
        reactor: Any,
        clock: IReactorTime,
        timeout: float,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
        getpid: Callable[[], int] = os.getpid,
        kill: Callable[[int, int], object] = os.kill,
    ) -> None:
        self._origin = origin
        self._control = control
        self._succession = succession
        self._reactor = reactor
        self._clock = clock
        self._timeout = timeout
        self._spawn = spawn
        self._getpid = getpid
        self._kill = kill
        self._child: Child | None = None
        self._timer: IDelayedCall | None = None
        self._gone: Deferred[None] | None = None  # fires when nothing is left of a deploy that was given up

    def deploy(self) -> None:
        """Start a successor, unless one is on its way."""
        why = self._why_not()
        if why is not None:
            log.error("no deploy: {why}; this one serves on", why=why)
            return
        origin = self._origin
        environment = {**origin.environment, VARIABLE: self._control() or ""}
        try:
            process = self._spawn(origin.program(), cwd=origin.directory, env=environment, close_fds=True)
        except OSError as error:
            log.error(
                "no deploy: {command} cannot be started in {directory}: {why}; this one serves on",
                command=origin.command[0],
                directory=origin.directory,
                why=error.strerror,
            )
            return
        self._child = Child(self._reactor, process, self._ended)
        self._timer = self._clock.callLater(self._timeout, self._late)
        log.info(
            "deploy: successor, process {pid}, runs {new} (was {old})",
            pid=process.pid,
            new=os.path.realpath(origin.application),
            old=origin.led_to,
        )

    def give_up(self) -> Deferred[None]:
        """This server stops, and so does a deploy that has not come to its end; fires when nothing is left of it.

        Who stops a server does not mean to start another; and as long as the successor holds the sockets, they are
        not closed.
        """
        if self._timer is None:
            return succeed(None)
        self._stop_timer()
        log.warn("no deploy: it is stopping")
        self._succession.leaving = True
        if self._child is not None:
            self._child.kill()
        if self._succession.successor:  # a daemon, which is no child of ours
            with suppress(ProcessLookupError):
                self._kill(self._succession.successor, signal.SIGKILL)
        gone = self._gone = Deferred()
        gone.addTimeout(GONE_IN, self._clock, lambda *ignored: None)
        self._look_whether_gone()
        return gone

    def _look_whether_gone(self) -> None:
        if self._gone is not None and self._child is None and not self._succession.successor:
            gone, self._gone = self._gone, None
            gone.callback(None)

    def _why_not(self) -> str | None:
        if self._timer is not None or self._gone is not None:
            return "one is under way"
        if self._getpid() == 1:
            return "the container would end with process 1, which this is"
        if not self._control():
            return "without a control socket nobody can take over"
        return self._succession.cannot()

    def _ended(self, child: Child, status: int) -> None:
        """A child is gone; one that has become a daemon has left the work to another process."""
        if child is not self._child:
            return  # an earlier one
        self._child = None
        self._look_whether_gone()
        if self._timer is not None and status != 0:
            self._stop_timer()
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            self._say(f"the successor, process {child.pid}, has ended with {how}; its own log says why")

    def _late(self) -> None:
        self._timer = None
        if self._child is not None:
            self._child.kill()
        self._say(f"the successor has not accepted within {self._timeout:g} s")

    def takeover_ended(self) -> None:
        """The takeover that we have started, or somebody else's, has ended; it has been said how."""
        self._stop_timer()
        self._look_whether_gone()

    def _say(self, why: str) -> None:
        log.error("no deploy: {why}; this one serves on", why=why)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
