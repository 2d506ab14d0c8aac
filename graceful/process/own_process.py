"""The process of a server that owns it: start-up, pid file, exit status, the last limit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from twisted.internet.error import ReactorNotRunning

from graceful.drain.result import DrainResult
from graceful.logs.attempt import attempt
from graceful.process.exit import LastLimit
from graceful.process.origin import Origin
from graceful.process.pidfile import PidFile
from graceful.process.startup import Startup


@frozen
class OwnProcess:
    """A process that belongs to one server, which takes its signals and decides its exit status.

    :ivar startup: handles failures and early signals until the reactor runs.
    :ivar pid_file: released when the sockets are closed; None for none.
    :ivar sockets: the environment variables in which systemd describes the sockets that it passes.
    :ivar pid: the process to which systemd has passed them.
    :ivar limit: ends the process at a certain time in any case.
    :ivar control: the path of the control socket if the settings do not name one; None for no control socket.
    :ivar owner: the user and group ids that the process will change to; -1 for no change.
    :ivar takeover: whether to take over from the instance at the control socket.
    :ivar asked_at: another control socket at which to ask for the sockets; None for the server's own path.
    :ivar notify: the environment variables that say how to notify the service manager.
    :ivar reload: a change of the application's files is a deploy.
    :ivar preload: workers are forked from a process that has imported the application.
    :ivar origin: how the process was started; None if it cannot be started again in the same way.
    """

    startup: Startup
    pid_file: PidFile | None
    sockets: dict[str, str]
    pid: int
    limit: LastLimit
    control: str | None = None
    owner: tuple[int, int] = (-1, -1)
    takeover: bool = False
    asked_at: str | None = None
    notify: Mapping[str, str] = field(factory=dict)
    origin: Origin | None = None
    reload: bool = False
    preload: bool = False

    def leave(self, reactor: Any, ending: DrainResult, within: float, tell: Callable[[DrainResult], object]) -> None:
        """End the process with the drain's exit status.  Reactor thread.

        :param ending: the result of the drain.
        :param within: seconds after which the process ends in any case.
        :param tell: is called with the result, before the reactor stops.
        """
        self.limit.verdict(ending.exit_status, within)
        if self.pid_file is not None:
            attempt(self.pid_file.remove)
        attempt(tell, ending)
        # A SIGTERM that came before our handlers was obeyed already; twistd would end with it again.
        reactor._exitSignal = None
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass  # the drain began because the reactor stops


def systemd_sockets(process: OwnProcess | None) -> tuple[Mapping[str, str], int | None]:
    """Returns the environment variables in which systemd describes the sockets that it passes, and for which process.

    :param process: None if the server does not own its process: then they are this process's, and the pid is None.
    """
    return (process.sockets, process.pid) if process is not None else (os.environ, None)
