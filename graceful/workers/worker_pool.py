"""The workers of an instance: one in each slot, which accepts from the sockets of that slot.

A worker may have to be replaced for many reasons: a crash, a signal from another process, a new release, the number
of its requests.  The pool always does the same: it starts another worker, and when that accepts, the former one
drains, and its connections move to that one.

    start ─▶ coming ─ready─▶ told to accept ─accepts─▶ the slot's worker ─another one accepts─▶ leaving ─▶ gone
"""

from __future__ import annotations

import os
import signal
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.process.origin import Origin
from graceful.workers.boot import ENDS_IN, terminate, wait_until_ready
from graceful.workers.slot import Backoff, Slot
from graceful.workers.slot_keepers import SlotKeepers
from graceful.workers.slot_sockets import SlotSockets
from graceful.workers.worker import SpawnContext, WorkerProcess, WorkerState
from graceful.workers.worker_takers import WorkerTakers

log = Logger(namespace="graceful")


#: The reasons that :meth:`WorkerPool.replace` gives for no replacement, although nothing has failed.
STOPPING: Final = "it is stopping"
ANOTHER: Final = "another replacement is wanted"
REMOVED: Final = "there are fewer workers now"

#: Seconds within which the signal that a worker got may reach the supervisor: systemd sends it to all of a unit.
SAME_SIGNAL: Final = 2.0

#: Seconds for which the end of a deploy waits for a replaced worker to close its sockets.  It takes milliseconds.
CLOSES_IN: Final = 2.0


class CannotStart(Exception):
    """A worker cannot start, and so the instance cannot.  Its text is one line for the operator."""


class DrainEvents(Protocol):
    """Is told what the workers do once all of them drain."""

    def closing(self, worker: WorkerProcess) -> None:
        """A worker asks whether it may close its sockets, and waits for the answer."""

    def closed(self, worker: WorkerProcess) -> None:
        """A worker has closed its sockets."""

    def ended(self, worker: WorkerProcess) -> None:
        """The process of a worker has ended."""


class PoolListener(Protocol):
    """Is told what becomes of the workers; the supervisor.  Reactor thread."""

    def all_accept(self) -> None:
        """All workers accept for the first time."""

    def worker_ended(self, worker: WorkerProcess) -> None:
        """A worker has ended; it is still among the workers."""

    def worker_lost(self, worker: WorkerProcess) -> None:
        """A worker that has served has died without a last word."""

    def files_changed(self, files: list[str]) -> None:
        """Files of the application have changed."""

    def hopeless(self, why: str) -> None:
        """No worker can serve any more."""


class WorkerPool:
    """All workers of an instance; a :class:`graceful.workers.worker.WorkerEvents`.  Reactor thread.

    :param sockets: the sockets from which the workers accept.
    :param release: the release that the workers run.
    :param context: the reactor, the clock and the function that starts a process.
    :param timeout: seconds that a worker has from its start until it accepts.
    :param most_leaving: workers that may drain in one slot at a time; with more, the oldest takes down its exchanges.
    :param listener: is told what becomes of the workers.
    :ivar waiting_to_close: the workers that have asked whether they may close their sockets.
    :ivar leaving: the workers that drain, oldest first.
    :ivar fleet_drain: is told what the workers do once all of them drain; None before.
    """

    def __init__(
        self,
        sockets: SlotSockets,
        release: Origin,
        context: SpawnContext,
        timeout: float,
        most_leaving: int,
        listener: PoolListener,
    ) -> None:
        self._sockets = sockets
        self._context = context
        self._clock = context.clock
        self._timeout = timeout
        self._most_leaving = most_leaving
        self._accepting = False
        self._opened = False
        self._why = ""  # why the last worker has ended
        self._away = False
        self._slots = [Slot(number, release) for number in range(1, sockets.count + 1)]
        self.leaving: list[WorkerProcess] = []
        self.waiting_to_close: list[WorkerProcess] = []
        self._keepers = SlotKeepers(sockets, self)
        self._takers = WorkerTakers(self)
        self._listener = listener
        self.fleet_drain: DrainEvents | None = None
        self._former_closed: Deferred[None] | None = None

    # -- the workers -------------------------------------------------------------------------------------

    @property
    def slots(self) -> list[Slot]:
        """The slots, in the order of their numbers, without those that have been removed."""
        return [slot for slot in self._slots if not slot.removed]

    def workers(self) -> list[WorkerProcess]:
        """Returns all workers by their slots, and in a slot the youngest first."""
        return sorted([*self.coming(), *self.serving(), *reversed(self.leaving)], key=lambda worker: worker.number)

    def serving(self) -> list[WorkerProcess]:
        """Returns the workers that accept, by their slots."""
        return [slot.worker for slot in self.slots if slot.worker is not None]

    def coming(self) -> list[WorkerProcess]:
        """Returns the workers that are being started."""
        return [slot.coming for slot in self._slots if slot.coming is not None]

    def slot_of(self, worker: WorkerProcess) -> Slot:
        """Returns the slot that a worker works in."""
        return self._slots[worker.number - 1]

    # -- before the reactor runs --------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker for each slot, and wait until all are ready to accept.  Blocks.

        :raises CannotStart: a worker could not be started, or has ended before it was ready.
        """
        for slot in self.slots:
            try:
                self._start(slot)
            except OSError as error:
                raise CannotStart(_not_started(slot, error)) from None
        if not wait_until_ready(self.coming):
            raise CannotStart(self._why)

    def abandon(self) -> None:
        """End the workers that do not accept yet, since the start-up has failed.  Blocks, briefly."""
        terminate(self.coming())

    # -- coming -------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Tell all workers to accept, now that the reactor runs."""
        self._accepting = True
        if self.fleet_drain is not None:
            return
        for slot in self.slots:
            if slot.coming is not None:
                self._time(slot, slot.coming)
                if slot.coming.state == WorkerState.READY:
                    self.ready(slot.coming)

    def _start(self, slot: Slot) -> None:
        worker = WorkerProcess(slot.number, slot.release, self._sockets.of(slot.number), self, self._context)
        slot.coming = worker
        if self._accepting:
            self._time(slot, worker)

    def _time(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.late = self._clock.callLater(self._timeout, self._too_late, slot, worker)

    def _try_to_start(self, slot: Slot) -> None:
        slot.again = None
        try:
            self._start(slot)
        except OSError as error:
            why = _not_started(slot, error)
            slot.answer(why)
            self._restart(slot, why, 0.0)

    def _too_late(self, slot: Slot, worker: WorkerProcess) -> None:
        slot.late = None
        worker.kill(f"it has not accepted within {self._timeout:g} s")

    def ready(self, worker: WorkerProcess) -> None:
        """The worker has imported the application; tell it to accept."""
        if not self._accepting or self.fleet_drain is not None:
            return
        if self._away:
            left = worker.ask("POST", "/leave").addErrback(lambda failure: None)
            left.addCallback(lambda said: worker.accept() if self.fleet_drain is None else None)
        else:
            worker.accept()

    def accepts(self, worker: WorkerProcess) -> None:
        """The new worker accepts; drain the one it replaces."""
        slot = self.slot_of(worker)
        slot.not_late()
        former, slot.worker, slot.coming = slot.worker, worker, None
        if self.fleet_drain is not None:  # the drain has told the new worker to end a moment too late
            self.leaving += [former] if former is not None else []
            return
        log.info("worker {number}, process {pid}, accepts", number=slot.number, pid=worker.pid)
        if slot.removed:  # it was told to accept a moment before
            slot.worker = None
            self._leave(worker, os.getpid())
            return
        self._keepers.relieve(slot)
        self._keepers.set_right(worker)
        if former is not None:
            self._leave(former, worker.pid)
        self._takers.move_on()
        self._keepers.cover_empty_slots()
        if not self._opened and len(self.serving()) == len(self.slots):
            self._opened = True
            self._listener.all_accept()
        self._replaced(slot, worker, None)

    def leave_rotation(self) -> None:
        """Have those that come stay out of the rotation of a balancer, as those that are there are told to."""
        self._away = True

    def enter_rotation(self) -> None:
        """Have those that come enter it."""
        self._away = False

    # -- going --------------------------------------------------------------------------------------------

    def _leave(self, worker: WorkerProcess, pid: int) -> None:
        self._takers.move_connections(worker)
        worker.succeeded(pid, worker.sockets)
        self.leaving.append(worker)
        self._keepers.forget(worker)
        here = [one for one in self.leaving if one.number == worker.number]
        for oldest in here[: max(0, len(here) - self._most_leaving)]:
            oldest.ask("POST", "/hurry").addErrback(lambda failure: None)

    def closing(self, worker: WorkerProcess) -> None:
        """The worker asks to close its sockets: it was told to stop, by the supervisor or by another process.

        systemd sends SIGTERM to all processes of a unit, in any order.  The worker keeps accepting until it is clear
        whether the supervisor has to stop as well.
        """
        if self.fleet_drain is not None:
            self.fleet_drain.closing(worker)
        else:
            self.waiting_to_close.append(worker)
            self._clock.callLater(SAME_SIGNAL, self._replace_stopped, worker)

    def _replace_stopped(self, worker: WorkerProcess) -> None:
        """Replace a worker that another process has told to stop.

        The worker may close its sockets, since the supervisor holds them as well.
        """
        if self.fleet_drain is not None:
            return
        self.waiting_to_close.remove(worker)
        if worker.state == WorkerState.GONE:
            return
        worker.close(os.getpid())
        slot = self.slot_of(worker)
        if slot.worker is worker:
            slot.worker = None
            worker.state = WorkerState.LEAVING
            self.leaving.append(worker)
            self._keepers.forget(worker)
            self._takers.move_on()
            self._keepers.cover_empty_slots()
            why = "was told to stop by somebody else" if worker.channel.open else "can be heard no more"
            self._restart(slot, f"{worker}, {why}", worker.served_for)

    def changed(self, worker: WorkerProcess, files: list[str]) -> None:
        """Files of the application have changed."""
        self._listener.files_changed(files)

    def closed(self, worker: WorkerProcess) -> None:
        """The worker has closed its sockets."""
        self._tell_closed()
        if self.fleet_drain is not None:
            self.fleet_drain.closed(worker)

    def former_closed(self) -> Deferred[None]:
        """Fires when no worker that was replaced accepts any more, and in :data:`CLOSES_IN` seconds at the latest."""
        awaited: Deferred[None] = Deferred()
        awaited.addTimeout(CLOSES_IN, self._clock, lambda failure, seconds: None)
        self._former_closed = awaited
        self._tell_closed()
        return awaited

    def _tell_closed(self) -> None:
        awaited = self._former_closed
        if awaited is not None and all(worker.closed for worker in self.leaving):
            self._former_closed = None
            awaited.callback(None)

    def ended(self, worker: WorkerProcess) -> None:
        """The process of the worker has ended: fill its slot again, unless it was draining."""
        self._listener.worker_ended(worker)
        if worker.has_served and worker.word is None:
            self._listener.worker_lost(worker)
        slot = self.slot_of(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
            self._tell_closed()
        elif worker is slot.coming:
            slot.coming = None
            slot.not_late()
        elif worker is slot.worker:
            slot.worker = None
        if self.fleet_drain is not None:
            self.fleet_drain.ended(worker)
            return
        self._why = worker.why or f"{worker}, has ended with {worker.how()}"
        if not self._accepting:
            return
        self._keepers.forget(worker)
        self._takers.move_on()
        self._keepers.cover_empty_slots()
        self._replaced(slot, worker, worker.how())
        what = "has ended" if worker.has_served else "cannot start"
        self._restart(slot, f"{worker}, {what}: {worker.how()}", worker.served_for)

    def _restart(self, slot: Slot, what: str, served_for: float) -> None:
        """Start another worker after a pause, if the slot has none and none is coming."""
        if not slot.empty or slot.removed or self.fleet_drain is not None:
            return
        pause = slot.backoff.after(served_for)
        log.error(
            "{what}; {others} of {all} workers accept, another one starts {when}",
            what=what,
            others=len(self.serving()),
            all=len(self.slots),
            when=f"in {pause:g} s" if pause else "now",
        )
        slot.again = self._clock.callLater(pause, self._try_to_start, slot)
        if not self.serving() and not self.coming() and all(one.backoff.hopeless for one in self.slots):
            self._listener.hopeless(f"no worker can be started: {what}")

    # -- more slots, and fewer ----------------------------------------------------------------------------

    def check_room(self, count: int) -> None:
        """Look whether there can be sockets for this number of workers.

        :raises BindError: there cannot; one line for the operator.
        """
        self._sockets.check_room(count)

    def add_slot(self, release: Origin) -> None:
        """Start one more worker; a sibling accepts for it until it does.

        :param release: what it is to run.
        :raises BindError: there is no socket for it; one line for the operator.
        """
        self._sockets.widen()
        number = self._sockets.count
        if len(self._slots) < number:
            self._slots.append(Slot(number, release))
        slot = self._slots[number - 1]
        slot.removed, slot.release, slot.backoff = False, release, Backoff()
        self._keepers.cover_empty_slots()
        if slot.coming is None:
            self._try_to_start(slot)

    def remove_slot(self) -> None:
        """Have the last worker drain; its siblings accept from its sockets, and its connections move to them."""
        slot = self.slots[-1]
        own = self._sockets.own(slot.number)
        slot.removed = True
        self._sockets.narrow()
        for sibling in self.serving():
            sibling.accept_also(own)
        slot.keeper = None
        slot.answer(REMOVED)
        self._end_coming(slot)
        former, slot.worker = slot.worker, None
        if former is not None:
            log.info(
                "worker {number}, process {pid}, is one too many, and drains", number=slot.number, pid=former.pid
            )
            self._leave(former, os.getpid())
            self._takers.move_on()
            self._keepers.cover_empty_slots()

    def _end_coming(self, slot: Slot) -> None:
        """End what is pending in a slot: a worker that does not accept yet, or the wait for the next attempt."""
        slot.not_again()
        slot.not_late()
        if slot.coming is not None:
            slot.coming.send_signal(signal.SIGTERM)
            slot.late = self._clock.callLater(ENDS_IN, self._too_late, slot, slot.coming)

    # -- replacing ----------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a worker is being started, or waits to be."""
        return any(slot.coming is not None or slot.again is not None for slot in self.slots)

    def replace(self, slot: Slot, release: Origin | None = None) -> Deferred[str | None]:
        """Start another worker in a slot, which takes over from the present one.

        :param release: the release that the new worker runs; by default the slot's present one.
        :returns: fires with None when the new worker accepts, or with the reason why it does not; then the former
            worker stays.
        """
        if self.fleet_drain is not None:
            return succeed(STOPPING)
        slot.answer(ANOTHER)
        awaited: Deferred[str | None] = Deferred()
        slot.awaited = awaited
        slot.release = release or slot.release
        slot.not_again()
        if slot.coming is None:
            self._try_to_start(slot)
        return awaited

    def _replaced(self, slot: Slot, worker: WorkerProcess, why_not: str | None) -> None:
        """Answer the caller of :meth:`replace`, or start the worker that it wants."""
        if slot.awaited is None or slot.coming is not None:
            return
        if worker.release is slot.release:
            slot.answer(why_not)
        else:
            self._try_to_start(slot)  # that worker was started before the caller wanted another release

    # -- the end ------------------------------------------------------------------------------------------

    def leave_with(self, fleet_drain: DrainEvents) -> None:
        """Stop replacing workers, and end those that do not accept yet, since all workers drain."""
        self.fleet_drain = fleet_drain
        for slot in self._slots:
            self._end_coming(slot)
            slot.answer(STOPPING)


def _not_started(slot: Slot, error: OSError) -> str:
    release = slot.release
    return f"{release.command[0]} cannot be started in {release.directory}: {error.strerror or error}"
