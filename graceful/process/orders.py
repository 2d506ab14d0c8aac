"""The orders that a running instance obeys, by a signal or through its control socket.

One object obeys both, so that a stop means the same either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred


class OrderRefused(Exception):
    """An order cannot be obeyed.  The text is one line for the operator."""


class StopOrders(Protocol):
    """The orders that end a process.  Reactor thread, except `arm_last_limit`."""

    @property
    def draining(self) -> bool:
        """Whether a drain has begun."""

    def arm_last_limit(self) -> None:
        """Set the time at which the process ends in any case.  Called in the signal handler itself."""

    def stop(self, quiet: bool) -> object:
        """Begin to drain.

        :param quiet: close idle connections at once: no client sends further requests.
        """

    def hurry(self) -> object:
        """Take down at once what is in flight."""

    def log_in_flight(self) -> None:
        """Log every exchange in flight, with its thread's stack."""


class SignalOrders(StopOrders, Protocol):
    """Everything that a signal can order.  Reactor thread, except `arm_last_limit`."""

    def deploy(self) -> None:
        """Start a successor that takes over."""

    def reopen_logs(self) -> None:
        """Open the log files again by their paths: logrotate has moved them."""

    def change_workers(self, by: int) -> None:
        """Have more workers by this number, or fewer if it is negative; a refusal is logged."""


class ControlOrders(Protocol):
    """Everything that the control API can order.  Reactor thread.

    An order is answered when it has been obeyed: one that takes time returns a Deferred.
    """

    def leave(self) -> Deferred[None] | None:
        """Leave the rotation of a balancer."""

    def enter(self) -> Deferred[None] | None:
        """Enter the rotation again."""

    def stop(self, quiet: bool, deadline: float | None) -> Deferred[None] | None:
        """Begin to drain, with another deadline if one is given."""

    def hurry(self) -> Deferred[None] | None:
        """Take down at once what is in flight."""

    def extend(self, seconds: float) -> Deferred[None] | None:
        """Move the deadline by `seconds`, which may be negative."""

    def take_down(self, which: str) -> Sequence[int | str] | Deferred[Sequence[str]]:
        """Take down an exchange and those queued behind it.  Returns the ids of those interrupted.

        :param which: the id as a status shows it; nothing is taken down by any other text.
        """

    def reload_certificates(self) -> Deferred[dict[str, Any]]:
        """Load all certificates again.  Fires with `certificates`, those in use, and why others are `refused`."""

    def set_workers(self, count: int) -> dict[str, Any]:
        """Have this number of workers.  Returns the number of `workers` that there are to be, and how many `before`.

        :raises OrderRefused: the number cannot be had.
        """

    def renew_limit(self) -> None:
        """Move the last limit if there is more time than when it was set; called once a tick."""


class Orders(SignalOrders, ControlOrders, Protocol):
    """All orders that an instance obeys."""

    def stop(self, quiet: bool, deadline: float | None = None) -> Deferred[None] | None:
        """Begin to drain; a second order only changes `quiet` and the deadline.

        :param quiet: close idle connections at once: no client sends further requests.
        :param deadline: seconds that exchanges have once the sockets are closed, instead of what the settings say.
        """

    def hurry(self) -> Deferred[None] | None:
        """Take down at once what is in flight."""
