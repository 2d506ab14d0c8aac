"""Siblings that accept for a slot without a worker, so that the kernel's connections to its sockets do not wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from graceful.workers.slot import Slot
from graceful.workers.slot_sockets import SlotSockets
from graceful.workers.worker import WorkerProcess, WorkerState


class StaffedSlots(Protocol):
    """The slots and their workers; :class:`graceful.workers.worker_pool.WorkerPool`."""

    @property
    def slots(self) -> Sequence[Slot]:
        """The slots, in the order of their numbers."""

    def serving(self) -> list[WorkerProcess]:
        """Returns the workers that accept, by their slots."""


class SlotKeepers:
    """Gives each slot without a worker a sibling as its keeper.  Reactor thread.

    :param sockets: the sockets of each slot.
    :param staffed: the slots and their workers.
    """

    def __init__(self, sockets: SlotSockets, staffed: StaffedSlots) -> None:
        self._sockets = sockets
        self._staffed = staffed

    def forget(self, worker: WorkerProcess) -> None:
        """Note that the slots which a worker accepted for are without a keeper."""
        for slot in self._staffed.slots:
            if slot.keeper is worker:
                slot.keeper = None

    def cover_empty_slots(self) -> None:
        """Have a sibling accept for each slot without a worker: the one with the fewest sockets."""
        siblings = [worker for worker in self._staffed.serving() if worker.state == WorkerState.SERVING]
        for slot in self._staffed.slots:
            if slot.worker is None and slot.keeper is None and siblings:
                slot.keeper = keeper = min(siblings, key=lambda sibling: len(sibling.sockets))
                keeper.accept_also(self._sockets.own(slot.number))

    def relieve(self, slot: Slot) -> None:
        """Have siblings release a slot's sockets, since the slot's own worker accepts from them."""
        own, slot.keeper = self._sockets.own(slot.number), None
        for sibling in self._staffed.serving():
            if sibling is not slot.worker and any(one in sibling.sockets for one in own):
                sibling.release_sockets(own)

    def set_right(self, worker: WorkerProcess) -> None:
        """Give a worker the sockets that it should have by now: slots may have come and gone since it was started."""
        right = self._sockets.of(worker.number)
        worker.accept_also(right)
        kept = [
            one for slot in self._staffed.slots if slot.keeper is worker for one in self._sockets.own(slot.number)
        ]
        surplus = [one for one in worker.sockets if one not in right and one not in kept]
        if surplus:
            worker.release_sockets(surplus)
