"""The handlers of the signals that a server obeys.

Twisted's own handlers stop the reactor at once and log a traceback at the second SIGTERM; twistd rotates its log at
SIGUSR1 when it has one, and dies of it when it has none; SIGHUP kills.  Ours are installed when the reactor runs,
after Twisted's.  A handler does as little as it can: it arms the last limit, which must not depend on the reactor,
and leaves the rest to the reactor thread.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from graceful.process.orders import SignalOrders, StopOrders

Handler = Callable[[int, FrameType | None], object]


def in_background() -> bool:
    """Whether this process is a background job of a terminal that is its input or output."""
    for descriptor in range(3):
        try:
            return os.tcgetpgrp(descriptor) != os.getpgrp()
        except OSError:
            pass  # it is no terminal, or not that of this session
    return False


class Stoppers:
    """Handlers of the signals that mean "stop".

    :param orders: obeys them.
    :param call: calls a function in the reactor thread; safe in a signal handler.
    :ivar interrupted: SIGINT has come.
    """

    def __init__(self, orders: StopOrders, call: Callable[..., object]) -> None:
        self._orders = orders
        self._call = call
        self.interrupted = False

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: drain; again: log what the drain waits for."""
        self._arm_and(self._stop, False)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """SIGINT: drain without waiting for a browser's idle connections; again: without waiting for anything."""
        if self.interrupted:
            self._arm_and(self._orders.hurry)
        else:
            self._arm_and(self._stop, True)
        self.interrupted = True

    def quit(self, number: int, frame: FrameType | None) -> None:
        """SIGQUIT: take down at once what is in flight."""
        self._arm_and(self._orders.hurry)

    def _arm_and(self, order: Callable[..., object], *args: object) -> None:
        """Arm the last limit and give an order, which must not be lost by anything that goes wrong with the limit."""
        try:
            self._orders.arm_last_limit()
        finally:
            self._call(order, *args)

    def _stop(self, quiet: bool) -> None:
        if self._orders.draining:
            self._orders.log_in_flight()
        self._orders.stop(quiet)


class Signals:
    """Handlers of all signals that a server has a meaning for.

    :param orders: obeys them.
    :param call: calls a function in the reactor thread; safe in a signal handler.
    :param on_terminal: whether standard input is a terminal.
    :param set_handler: installs a handler, signal.signal.
    :param in_background: whether this process is a background job of a terminal.
    :param suspend: sends a signal to this process.
    """

    def __init__(
        self,
        orders: SignalOrders,
        call: Callable[..., object],
        on_terminal: Callable[[], bool] = lambda: os.isatty(0),
        set_handler: Callable[[int, Handler | signal.Handlers], Any] = signal.signal,
        in_background: Callable[[], bool] = in_background,
        suspend: Callable[[int], object] = signal.raise_signal,
    ) -> None:
        self._orders = orders
        self._call = call
        self._on_terminal = on_terminal
        self._set_handler = set_handler
        self._in_background = in_background
        self._suspend = suspend
        self._stoppers = Stoppers(orders, call)

    def stoppers(self) -> dict[int, Handler]:
        """Returns the handlers of the two signals that mean "stop"."""
        return {signal.SIGTERM: self._stoppers.terminate, signal.SIGINT: self._stoppers.interrupt}

    def install(self) -> None:
        """Install all handlers.  Main thread, when the reactor runs."""
        for number, handler in self.stoppers().items():
            self._set_handler(number, handler)
        self._set_handler(signal.SIGQUIT, self._stoppers.quit)
        self._set_handler(signal.SIGHUP, self._hang_up)
        self._set_handler(signal.SIGUSR1, lambda number, frame: self._call(self._orders.reopen_logs))
        self._set_handler(signal.SIGUSR2, lambda number, frame: self._call(self._orders.log_in_flight))
        self._set_handler(signal.SIGTTIN, self._change_workers)
        self._set_handler(signal.SIGTTOU, self._change_workers)

    def _change_workers(self, number: int, frame: FrameType | None) -> None:
        """SIGTTIN: one worker more; SIGTTOU: one fewer.  Those of the process's own terminal suspend it, as always.

        The terminal sends them to a background job that reads or writes there, and again at each attempt: to log a
        refusal would be one.
        """
        if self._in_background():
            self._set_handler(number, signal.SIG_DFL)
            self._suspend(number)
            self._set_handler(number, self._change_workers)
        else:
            self._call(self._orders.change_workers, 1 if number == signal.SIGTTIN else -1)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        """SIGHUP: deploy in place; from a terminal that was closed, drain."""
        if self._on_terminal():
            self._stoppers.terminate(number, frame)
        else:
            self._call(self._orders.deploy)
