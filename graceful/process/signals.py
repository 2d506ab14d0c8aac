"""What the signals mean.

Twisted's own handlers stop the reactor at once and log a traceback at the second SIGTERM; twistd rotates its log at
SIGUSR1 when it has one, and dies of it when it has none; SIGHUP kills.  Ours are installed when the reactor runs,
after Twisted's.  A handler does as little as it can: it sees to the last limit, which must not depend on the
reactor, and leaves the rest to the reactor thread.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

Handler = Callable[[int, FrameType | None], None]


class Stoppable(Protocol):
    """What can be stopped by a signal.  Reactor thread, except `limit`."""

    def limit(self) -> None:
        """See to it that the process ends in time, whatever happens; in the signal handler itself."""

    def stop(self, quiet: bool) -> None:
        """Begin to drain, or say what it waits for."""

    def hurry(self) -> None:
        """Take down at once what is in flight."""


class Server(Stoppable, Protocol):
    """What else can be asked of a server.  Reactor thread."""

    def reopen_logs(self) -> None:
        """Open the log files anew: somebody has moved them."""

    def deploy(self) -> None:
        """Start a successor that takes over."""

    def say_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""


class Stoppers:
    """Takes the signals that mean "stop".

    :param stoppable: who acts on them.
    :param call: calls a function in the reactor thread; safe in a signal handler.
    :ivar interrupted: SIGINT has come.
    """

    def __init__(self, stoppable: Stoppable, call: Callable[..., object]) -> None:
        self._stoppable = stoppable
        self._call = call
        self.interrupted = False

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: drain."""
        self._stoppable.limit()
        self._call(self._stoppable.stop, False)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """SIGINT: a person pressed Ctrl-C: do not wait for a browser's idle connections; twice: for nothing."""
        self._stoppable.limit()
        self._call(self._stoppable.hurry if self.interrupted else self._stop_quietly)
        self.interrupted = True

    def _stop_quietly(self) -> None:
        self._stoppable.stop(True)


class Signals:
    """Takes signals to a server.

    :param server: who acts on them.
    :param call: calls a function in the reactor thread; safe in a signal handler.
    :param on_terminal: whether a person sits at standard input.
    """

    def __init__(
        self,
        server: Server,
        call: Callable[..., object],
        on_terminal: Callable[[], bool] = lambda: os.isatty(0),
        set_handler: Callable[[int, Handler], Any] = signal.signal,
    ) -> None:
        self._server = server
        self._call = call
        self._on_terminal = on_terminal
        self._set_handler = set_handler
        self._stoppers = Stoppers(server, call)

    def stoppers(self) -> dict[int, Handler]:
        """The handlers of the two signals that mean "stop"."""
        return {signal.SIGTERM: self._stoppers.terminate, signal.SIGINT: self._stoppers.interrupt}

    def install(self) -> None:
        """Install all handlers.  Main thread, when the reactor runs."""
        for number, handler in self.stoppers().items():
            self._set_handler(number, handler)
        self._set_handler(signal.SIGQUIT, self._quit)
        self._set_handler(signal.SIGHUP, self._hang_up)
        self._set_handler(signal.SIGUSR1, lambda number, frame: self._later(self._server.reopen_logs))
        self._set_handler(signal.SIGUSR2, lambda number, frame: self._later(self._server.say_in_flight))

    def _later(self, function: Callable[..., object], *args: object) -> None:
        self._call(function, *args)

    def _quit(self, number: int, frame: FrameType | None) -> None:
        self._server.limit()
        self._later(self._server.hurry)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """A closed terminal ends what was started in it; a daemon goes on."""
        if self._on_terminal():
            self._stoppers.terminate(number, frame)
        else:
            self._later(self._server.deploy)
