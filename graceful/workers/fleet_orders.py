"""Orders to an instance with workers, which are passed on to each worker.

Like a single process, a supervisor has a last limit that is not its reactor's.  It is later than its workers' own, by
which they are gone; what is left of them even then (a process that was stopped, say) is killed just before.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList

from graceful.control.health import Health
from graceful.drain.state import State
from graceful.logs import twistd_log
from graceful.process.exit import EXIT_SECONDS, LastLimit
from graceful.workers.aggregate import certificates
from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.fleet_status import FleetStatus
from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.worker import WorkerState
from graceful.workers.worker_client import OBEYED_IN
from graceful.workers.worker_count import WorkerCount
from graceful.workers.worker_pool import WorkerPool

#: Seconds that a supervisor gives its workers beyond their own last limit, behind which stands their kernel timer.
BEYOND: Final = 7.0


class FleetOrders:
    """Obeys the orders to all workers; a :class:`graceful.process.orders.Orders`.

    Reactor thread, except `arm_last_limit`.

    :param pool: the workers.
    :param fleet_drain: their way out.
    :param status: what they have said last.
    :param health: of the supervisor's own doors.
    :param last: of the supervisor's process.
    :param rolling_restart: replaces the workers by those of the next release.
    :param worker_count: changes the number of workers.
    :param stop_ordered: is called at each order to stop.
    :param logs_reopened: is called when the logs of an instance that does not drain have been opened again.
    """

    def __init__(
        self,
        pool: WorkerPool,
        fleet_drain: FleetDrain,
        status: FleetStatus,
        health: Health,
        last: LastLimit,
        rolling_restart: RollingRestart,
        worker_count: WorkerCount,
        stop_ordered: Callable[[], object],
        logs_reopened: Callable[[], object],
    ) -> None:
        self._pool = pool
        self._fleet_drain = fleet_drain
        self._status = status
        self._health = health
        self._last = last
        self._rolling_restart = rolling_restart
        self._worker_count = worker_count
        self._stop_ordered = stop_ordered
        self._logs_reopened = logs_reopened

    @property
    def draining(self) -> bool:
        """Whether a drain has begun."""
        return self._fleet_drain.began is not None

    # -- the last limit -----------------------------------------------------------------------------------

    def _at_most(self) -> float:
        """In how many seconds the workers may still be there, by what they have said."""
        return self._status.at_most

    def latest_exit(self) -> float:
        """In how many seconds the process is gone, whatever happens; before a drain, from its beginning."""
        return self._at_most() + BEYOND if self._last.remaining_seconds is None else self._last.remaining_seconds

    def arm_last_limit(self) -> None:
        """Set the last limit, if a drain is about to begin.  In a signal handler, too."""
        if self._fleet_drain.began is None:
            self._last.arm(self._at_most() + BEYOND)

    def _ensure_limit(self) -> None:
        """Set the last limit unless a signal has set it: an order that comes late is no reason to put it off."""
        if self._last.remaining_seconds is None:
            self.arm_last_limit()
        self._last.log_missing()

    def renew_limit(self) -> None:
        """Move the last limit, if there is more time; and kill who is still there just before it."""
        left = self._last.remaining_seconds
        if left is None or self._fleet_drain.state in (State.SERVING, State.GONE):
            return
        at_most = self._at_most()
        if at_most and at_most + BEYOND > left + EXIT_SECONDS:  # else what they had left is over, and so is this
            self._last.arm(at_most + BEYOND)
        elif left < EXIT_SECONDS:
            self._fleet_drain.kill()

    # -- orders -------------------------------------------------------------------------------------------

    def _all(self, target: str, **values: Any) -> Deferred[None]:
        """Give an order to everybody who can be asked; fires when all have answered, or cannot."""
        workers = [worker for worker in self._pool.workers() if worker.state != WorkerState.STARTING]
        asked = [worker.ask("POST", target, values, OBEYED_IN) for worker in workers]
        return DeferredList(asked, consumeErrors=True).addCallback(lambda ignored: None)

    def leave(self) -> Deferred[None]:
        """Leave the rotation of a balancer; everything is served as always."""
        self._pool.leave_rotation()
        self._health.leave()
        return self._all("/leave")

    def enter(self) -> Deferred[None]:
        """Enter it again."""
        self._pool.enter_rotation()
        self._health.enter()
        return self._all("/enter")

    def stop(self, quiet: bool, deadline: float | None = None) -> None:
        """Begin to drain."""
        self._stop_ordered()
        self._ensure_limit()
        self._fleet_drain.begin(quiet, deadline)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        self._ensure_limit()
        self._fleet_drain.hurry()

    def extend(self, seconds: float) -> Deferred[None]:
        """Move the deadline by `seconds`, which may be negative."""
        return self._all("/extend", seconds=seconds)

    def take_down(self, which: str) -> Sequence[str] | Deferred[Sequence[str]]:
        """Take down an exchange and those queued behind it.  Returns the ids of those interrupted."""
        return self._status.take_down(which)

    # -- everything else ----------------------------------------------------------------------------------

    def deploy(self) -> None:
        """Replace all workers by those of the next release, one at a time."""
        self._rolling_restart.begin()

    def set_workers(self, count: int) -> dict[str, Any]:
        """Have this number of workers.

        :raises OrderRefused: the number cannot be had.
        """
        before = self._worker_count.set(count)
        return {"workers": count, "before": before}

    def change_workers(self, by: int) -> None:
        """Have more workers by this number, or fewer if it is negative; a refusal is logged."""
        self._worker_count.change(by)

    def reload_certificates(self) -> Deferred[dict[str, Any]]:
        """Have each worker load its certificates again; fires with what they say together."""
        workers = [worker for worker in self._pool.workers() if worker.state != WorkerState.STARTING]
        asked = [worker.ask("POST", "/reload-certificates", {}, OBEYED_IN) for worker in workers]
        return DeferredList(asked, consumeErrors=True).addCallback(_together)

    def reopen_logs(self) -> None:
        """Open the log files again by their paths, here and in each worker."""
        twistd_log.reopen()
        self._signal(signal.SIGUSR1)
        if not self.draining:
            self._logs_reopened()

    def log_in_flight(self) -> None:
        """Have each worker log what it has in flight."""
        self._signal(signal.SIGUSR2)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._pool.workers():
            # A signal that has no handler yet would kill.
            if worker.state not in (WorkerState.STARTING, WorkerState.READY):
                worker.send_signal(number)


def _together(answers: list[tuple[bool, Any]]) -> dict[str, Any]:
    """Returns what workers have said of their certificates, each line once."""
    said = [told for good, told in answers if good]
    refused = [why for told in said for why in told["refused"]]
    refused += [failure.getErrorMessage() for good, failure in answers if not good]
    return {
        "certificates": certificates({"certificates": told["certificates"]} for told in said),
        "refused": list(dict.fromkeys(refused)),
    }
