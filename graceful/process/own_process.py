"""What a server gets when the process is its own: signals, pid file, exit status, the last limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.error import ReactorNotRunning

from graceful.drain import DrainResult
from graceful.process.exit import LastLimit
from graceful.process.origin import Origin
from graceful.process.pidfile import PidFile
from graceful.process.startup import Startup


@frozen
class OwnProcess:
    """What a server gets when the process is its own: it takes the signals, and the exit status is its verdict.

    :ivar startup: surrounds everything that may fail until the reactor runs.
    :ivar pid_file: given up when the sockets are closed; None for none.
    :ivar sockets: what systemd has said of the sockets that it hands over.
    :ivar pid: the process it has said it to.
    :ivar limit: the moment at which the process ends in any case.
    :ivar control: where the control socket is unless the settings say; None for nowhere.
    :ivar owner: the user and group that the process will change to; -1 where it will not.
    :ivar takeover: it is to take the sockets of the server that answers at the control socket.
    :ivar asked_at: another control socket, at which to ask; None for our own.
    :ivar origin: how the process was started; None if that is not known, and cannot be done again.
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
    origin: Origin | None = None

    def leave(self, reactor: Any, ending: DrainResult, within: float, tell: Callable[[DrainResult], object]) -> None:
        """End the process with the drain's exit status.  Reactor thread.

        :param ending: how the drain has gone.
        :param within: seconds after which the process is ended in any case.
        :param tell: says the last word.
        """
        self.limit.verdict(ending.exit_status, within)
        if self.pid_file is not None:
            self.pid_file.remove()
        tell(ending)
        # A SIGTERM that came before our handlers was obeyed all the same; twistd would die of it once more.
        reactor._exitSignal = None
        try:
            reactor.stop()
        except ReactorNotRunning:
            pass  # it was the reactor's stopping that made us drain
