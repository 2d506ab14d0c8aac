"""The drain of all workers: side by side, with one deadline, and the worst of their exit statuses.

Each worker drains by itself, as any instance does.  But it cannot close a socket by itself, since the supervisor
holds the socket as well.  So a worker asks before it closes.  The supervisor first closes its own copies, unless a
sibling still accepts from them, and then answers.  Now the worker is the only holder, and closes with care.  The
supervisor logs once that an address is `closed`, when no process accepts there any more: a successor may start at
that line.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.logs.attempt import attempt
from graceful.process.exit import ABANDONED, FINISHED, TAKEN_DOWN
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import Link, make_links
from graceful.workers.slot_sockets import HeldSocket, SlotSockets
from graceful.workers.worker import WorkerProcess, WorkerState
from graceful.workers.worker_pool import WorkerPool

log = Logger(namespace="graceful")


class FleetDrain:
    """Drains all workers together.  Reactor thread.

    It is the :class:`~graceful.workers.worker_pool.DrainEvents` of the pool; for a takeover it is both the holder of
    the sockets and the drain.

    :param clock: monotonic.
    :param pool: who leaves.
    :param sockets: what they accept from.
    :ivar state: `serving`, `lame-duck`, `closing`, `finishing` or `gone`.
    :ivar began: when it has begun, seconds of the clock; None before.
    :ivar on_state: called with each state that is entered.
    :ivar on_gone: called with how it has ended.
    """

    def __init__(
        self,
        clock: IReactorTime,
        pool: WorkerPool,
        sockets: SlotSockets,
        on_state: Callable[[State], object],
        on_gone: Callable[[DrainResult], object],
    ) -> None:
        self.clock = clock
        self._pool = pool
        self._sockets = sockets
        self._on_state = on_state
        self._on_gone = on_gone
        self._said: set[str] = set()  # addresses that were said to be closed
        self._finished = self._taken_down = self._abandoned = self._moved = 0
        self._worst = FINISHED
        self._reports: list[str] = []
        self.state = State.SERVING
        self.began: float | None = None

    # -- beginning ----------------------------------------------------------------------------------------

    def begin(self, quiet: bool, deadline: float | None = None) -> None:
        """Tell all workers to stop; called again, only `quiet` and `deadline` are passed on.

        :param quiet: no client sends requests on idle connections any more.
        :param deadline: seconds that exchanges have once the sockets are closed, instead of what the settings say.
        """
        first = self._leave(State.LAME_DUCK)
        for worker in self._pool.waiting_to_close:
            self.closing(worker)
        self._pool.waiting_to_close.clear()
        values: dict[str, Any] = {"quiet": quiet}
        if deadline is not None:
            values["deadline"] = deadline
        self._order("/stop", values, signal.SIGTERM)
        if first:
            self._look()

    def hurry(self) -> None:
        """Tell all workers to take down what is in flight, now."""
        if self.began is None:
            self.begin(True)
        self._order("/hurry", {}, signal.SIGQUIT)

    def succeeded(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Tell all workers to drain: another instance accepts.

        :param handed: from these; what else there is is closed.
        :param pid: its process.
        """
        self._leave(State.CLOSING)
        if self.state == State.LAME_DUCK:
            self._enter(State.CLOSING)
        taken = [bound.socket for bound in handed]
        theirs = [one for one in self._sockets.kept if one.bound.socket in taken]
        names = list(dict.fromkeys(one.bound.name for one in theirs))
        for name in names:
            log.info("socket {name} handed to {pid}", name=name, pid=pid)
        for one in self._sockets.kept:
            one.let_go(unlink=one not in theirs)
        for worker in [*self._pool.serving(), *self._pool.coming()]:
            has = [one for one in worker.sockets if one in theirs]
            served = [one for one in worker.sockets if one not in theirs and one.bound.name in names]
            worker.succeeded(pid, has, self._alone(worker, theirs), served)
        for worker in self._pool.waiting_to_close:  # those, too, that have been replaced meanwhile
            worker.close(0, self._alone(worker, theirs))
        self._pool.waiting_to_close.clear()
        self._look()

    def kill(self) -> None:
        """Kill the workers that are still there.  What they had in hand is lost, and unknown: the status is 71."""
        for worker in self._pool.workers():
            self._worst = ABANDONED
            log.error(
                "worker {number}, process {pid}, is still there at the last limit, and is killed",
                number=worker.number,
                pid=worker.pid,
            )
            worker.send_signal(signal.SIGKILL)

    def _leave(self, state: State) -> bool:
        """Begin the drain; returns False if it has begun already."""
        if self.began is not None:
            return False
        self.began = self.clock.seconds()
        self._pool.leave_with(self)
        self._enter(state)
        return True

    def _order(self, target: str, values: dict[str, Any], otherwise: signal.Signals) -> None:
        """Send an order to all workers that serve or drain.

        :param otherwise: the signal for a worker that does not answer; it acts as soon as its event loop turns.
        """
        for worker in self._pool.workers():
            if worker.state != WorkerState.STARTING:
                maybeDeferred(worker.ask, "POST", target, values).addErrback(self._not_obeyed, worker, otherwise)

    def _not_obeyed(self, failure: Any, worker: WorkerProcess, otherwise: signal.Signals) -> None:
        if worker.state == WorkerState.GONE:
            return
        log.warn(
            "worker {number}, process {pid}: {reason}; it gets a {signal}",
            number=worker.number,
            pid=worker.pid,
            reason=failure.getErrorMessage(),
            signal=otherwise.name,
        )
        if worker.has_served:  # the others have got their signal already
            worker.send_signal(otherwise)

    def _enter(self, state: State) -> None:
        if state != self.state:
            self.state = state
            attempt(self._on_state, state)

    # -- the sockets, for a takeover ----------------------------------------------------------------------

    def open_sockets(self) -> list[BoundSocket]:
        """Returns the sockets that a successor may have."""
        return self._sockets.open_sockets()

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets."""
        self._sockets.rebind(known)
        for worker in self._pool.workers():
            worker.say_ours()

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Do nothing yet: the workers let go of the sockets in :meth:`succeeded`, which is called next."""

    def foreign(self) -> list[str]:
        """Returns no endpoint: a supervisor binds nothing that it cannot hand over."""
        return []

    def links(self, count: int) -> list[Link]:
        """Make links on which the workers' connections move to another instance.

        :param count: of its processes, each of which gets as many links as the others, one after the other.
        :raises OSError: there are no descriptors left.
        """
        givers = [worker for worker in self._pool.serving() if worker.moves]
        givers += [worker for worker in self._pool.leaving if worker.taker is not None]  # its taker leaves, too
        return make_links(
            givers[number % len(givers)].link for number in range(max(count, len(givers)) if givers else 0)
        )

    # -- what happens -------------------------------------------------------------------------------------

    def closing(self, worker: WorkerProcess) -> None:
        """A worker is about to close its sockets: tell it which of them no other process holds."""
        if self.state == State.LAME_DUCK:
            self._enter(State.CLOSING)
        if worker.state == WorkerState.SERVING:
            worker.state = WorkerState.LEAVING
        accepting = self._accepting()
        for one in worker.sockets:
            if not any(one in other.sockets for other in accepting):
                one.let_go(unlink=True)
        worker.close(0, self._alone(worker))
        self._look()

    def _accepting(self) -> list[WorkerProcess]:
        """Returns the workers that keep accepting for a while."""
        return [worker for worker in self._pool.serving() if worker.state == WorkerState.SERVING]

    def _holding(self) -> list[WorkerProcess]:
        """Returns the workers that may still accept: they have not said that their sockets are closed."""
        return [
            worker for worker in self._pool.workers() if not worker.closed and worker.state != WorkerState.STARTING
        ]

    def _alone(self, worker: WorkerProcess, handed: Sequence[HeldSocket] = ()) -> list[HeldSocket]:
        """Returns the sockets that only this worker still holds."""
        others = {one for other in self._holding() if other is not worker for one in other.sockets}
        return [
            one for one in worker.sockets if one.ours and not one.open and one not in others and one not in handed
        ]

    def closed(self, worker: WorkerProcess) -> None:
        """A worker has closed its sockets."""
        self._look()

    def ended(self, worker: WorkerProcess) -> None:
        """A worker has ended: add what its last message counts, or what was lost if there was none."""
        word, status = worker.word, worker.status
        if word is not None:
            self._finished += int(word.get("finished", 0))
            self._taken_down += int(word.get("taken_down", 0))
            self._abandoned += int(word.get("abandoned", 0))
            self._reports += [str(report) for report in word.get("reports", ())]
            self._moved += _moved(word)
        self._taken_down += worker.lost
        if worker.has_served and status is not None and (status > 0 or (word is None and status < 0)):
            at_its_limit = status in (ABANDONED, -signal.SIGALRM)  # by its watchdog, or by the kernel's timer
            self._worst = max(self._worst, ABANDONED if at_its_limit else TAKEN_DOWN)
        self._look()

    def _look(self) -> None:
        """Enter the state that all workers together have reached."""
        self._leave_nothing_behind()
        held = {one.bound.name for worker in self._holding() for one in worker.sockets}
        if self.state != State.LAME_DUCK:
            for name in self._sockets.names():
                if name not in held and all(not one.open for one in self._of(name)):
                    self._say_closed(name)
        if self.state == State.CLOSING and len(self._said) == len(self._sockets.names()):
            self._enter(State.FINISHING)
        if not self._pool.workers() and self.state != State.GONE:
            self._go()

    def _leave_nothing_behind(self) -> None:
        """Give the sockets of a worker that died to one that accepts, or close them if none does."""
        accepting = self._accepting()
        left = [one for one in self._sockets.kept if one.open]
        left = [one for one in left if not any(one in worker.sockets for worker in accepting)]
        if left and accepting:
            min(accepting, key=lambda worker: len(worker.sockets)).accept_also(left)
        elif left:
            self._enter(State.CLOSING)
            for one in left:
                one.let_go(unlink=True)

    def _of(self, name: str) -> list[HeldSocket]:
        return [one for one in self._sockets.kept if one.bound.name == name]

    def _say_closed(self, name: str) -> None:
        if name not in self._said:
            self._said.add(name)
            log.info("socket {name} closed (pid {pid})", name=name, pid=os.getpid())

    def _go(self) -> None:
        self._enter(State.GONE)
        assert self.began is not None
        seconds = self.clock.seconds() - self.began
        log.info(
            "drained in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned{moved}",
            seconds=seconds,
            finished=self._finished,
            taken=self._taken_down,
            abandoned=self._abandoned,
            moved=f", {self._moved} connections moved" if self._moved else "",
        )
        taken = TAKEN_DOWN if self._taken_down else FINISHED
        worst = max(self._worst, taken, ABANDONED if self._abandoned else FINISHED)
        self._on_gone(
            DrainResult(worst, seconds, self._finished, self._taken_down, self._abandoned, tuple(self._reports))
        )


def _moved(word: dict[str, Any]) -> int:
    """Returns how many connections have moved from a worker, by its last word."""
    picture = word.get("picture")
    return int(picture.get("moved", {}).get("out", 0)) if isinstance(picture, dict) else 0
