"""Keeping every place staffed: one worker in each, that accepts from the sockets of its place.

Whatever takes a worker away (a crash, a signal from somebody, a new release, the number of its requests), the same
happens: another one is started, and when it accepts, the former one drains.

    start ─▶ coming ─ready─▶ told to accept ─accepts─▶ the place's worker ─another one accepts─▶ leaving ─▶ gone
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.process.origin import Origin
from graceful.workers.boot import ENDS_IN, dismiss, gather
from graceful.workers.slot import Slot
from graceful.workers.slot_sockets import SlotSockets
from graceful.workers.worker import SpawnContext, WorkerProcess, WorkerState

log = Logger(namespace="graceful")


@frozen
class Keepers:
    """Finds them.  Reactor thread.

    :ivar places: where they are wanted.
    :ivar sockets: of all places.
    """

    places: Sequence[Slot]
    sockets: SlotSockets

    def gone(self, worker: WorkerProcess) -> None:
        """What it has kept for others is without a keeper."""
        for place in self.places:
            if place.keeper is worker:
                place.keeper = None

    def cover(self) -> None:
        """Wherever nobody accepts, have somebody else do so: whoever does the least of that."""
        siblings = [
            one.worker for one in self.places if one.worker is not None and one.worker.state == WorkerState.SERVING
        ]
        for place in self.places:
            if place.worker is None and place.keeper is None and siblings:
                place.keeper = keeper = min(siblings, key=lambda sibling: len(sibling.sockets))
                keeper.accept_also(self.sockets.own(place.number))

    def relieve(self, place: Slot) -> None:
        """Its own worker accepts: what waits is for that one."""
        keeper, place.keeper = place.keeper, None
        if keeper is not None:
            keeper.release_sockets(self.sockets.own(place.number))


#: Why there is no replacement, though nothing went wrong.
STOPPING: Final = "it is stopping"
ANOTHER: Final = "another replacement is wanted"

#: Seconds within which a signal that a worker has got may reach us, too.
SAME_SIGNAL: Final = 2.0


class CannotStart(Exception):
    """A worker cannot start, and so the instance cannot.  Its text is one line for the operator."""


class DrainEvents(Protocol):
    """Who is told what happens once everybody leaves."""

    def closing(self, worker: WorkerProcess) -> None:
        """One wants to close its sockets, and waits for the word."""

    def closed(self, worker: WorkerProcess) -> None:
        """One accepts nobody any more."""

    def ended(self, worker: WorkerProcess) -> None:
        """One is gone."""


class WorkerPool:
    """All workers of an instance; a :class:`graceful.workers.worker.WorkerEvents`.  Reactor thread.

    :param sockets: what they accept from.
    :param release: what they are to run.
    :param surroundings: what they are started with.
    :param timeout: seconds that one has, from its start until it accepts.
    :param most_leaving: how many may drain in one place at a time; one more, and the oldest takes down what it has.
    :ivar away: they are to be out of the rotation of a balancer.
    :ivar places: in their order.
    :ivar asking: those that have asked whether they may close their sockets, and wait for an answer.
    :ivar leaving: the workers that drain, oldest first.
    :ivar on_open: called once all accept for the first time.
    :ivar on_ended: called with each worker that has ended, while it is still among the workers.
    :ivar on_lost: called with one that has died while it served, or drained, without a last word.
    :ivar on_hopeless: called with why nobody can serve any more.
    :ivar exodus: gets what happens, once everybody leaves.
    """

    def __init__(
        self, sockets: SlotSockets, release: Origin, surroundings: SpawnContext, timeout: float, most_leaving: int
    ) -> None:
        self._sockets = sockets
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._timeout = timeout
        self._most_leaving = most_leaving
        self._accepting = False
        self._opened = False
        self._why = ""  # the last one has ended
        self.away = False
        self.places = [Slot(number, release) for number in range(1, sockets.count + 1)]
        self.leaving: list[WorkerProcess] = []
        self.asking: list[WorkerProcess] = []
        self._keepers = Keepers(self.places, sockets)
        self.on_open: Callable[[], object] = lambda: None
        self.on_ended: Callable[[WorkerProcess], object] = lambda worker: None
        self.on_lost: Callable[[WorkerProcess], object] = lambda worker: None
        self.on_hopeless: Callable[[str], object] = lambda why: None
        self.exodus: DrainEvents | None = None

    # -- who there is -------------------------------------------------------------------------------------

    def workers(self) -> list[WorkerProcess]:
        """All, by their places, and in a place the youngest first."""
        return sorted([*self.coming(), *self.serving(), *reversed(self.leaving)], key=lambda worker: worker.number)

    def serving(self) -> list[WorkerProcess]:
        """Those that accept, by their places."""
        return [place.worker for place in self.places if place.worker is not None]

    def coming(self) -> list[WorkerProcess]:
        """Those that are being started."""
        return [place.coming for place in self.places if place.coming is not None]

    def _place(self, worker: WorkerProcess) -> Slot:
        return self.places[worker.number - 1]

    # -- before the reactor runs --------------------------------------------------------------------------

    def start(self) -> None:
        """Start one for each place, and wait until all would accept; none does yet.  Blocks.

        :raises CannotStart: one of them cannot.
        """
        for place in self.places:
            try:
                self._start(place)
            except OSError as error:
                raise CannotStart(_not_started(place, error)) from None
        if not gather(self.coming):
            raise CannotStart(self._why)

    def abandon(self) -> None:
        """End those that have not begun to accept.  Blocks, briefly: start-up has failed."""
        dismiss(self.coming())

    # -- coming -------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """Have all accept; the reactor runs."""
        self._accepting = True
        if self.exodus is not None:
            return
        for place in self.places:
            if place.coming is not None:
                self._time(place, place.coming)
                if place.coming.state == WorkerState.READY:
                    self.ready(place.coming)

    def _start(self, place: Slot) -> None:
        worker = WorkerProcess(place.number, place.release, self._sockets.of(place.number), self, self._surroundings)
        place.coming = worker
        if self._accepting:
            self._time(place, worker)

    def _time(self, place: Slot, worker: WorkerProcess) -> None:
        place.late = self._clock.callLater(self._timeout, self._too_late, place, worker)

    def _try_to_start(self, place: Slot) -> None:
        place.again = None
        try:
            self._start(place)
        except OSError as error:
            why = _not_started(place, error)
            place.answer(why)
            self._staff(place, why, 0.0)

    def _too_late(self, place: Slot, worker: WorkerProcess) -> None:
        place.late = None
        worker.kill(f"it has not accepted within {self._timeout:g} s")

    def ready(self, worker: WorkerProcess) -> None:
        """It would accept: let it."""
        if not self._accepting or self.exodus is not None:
            return
        if self.away:
            left = worker.ask("POST", "/leave").addErrback(lambda failure: None)
            left.addCallback(lambda said: worker.accept() if self.exodus is None else None)
        else:
            worker.accept()

    def accepts(self, worker: WorkerProcess) -> None:
        """It accepts: let go of whoever has done so in its stead."""
        place = self._place(worker)
        place.not_late()
        former, place.worker, place.coming = place.worker, worker, None
        if self.exodus is not None:  # which has told it to end, a moment too late
            self.leaving += [former] if former is not None else []
            return
        log.info("worker {number}, process {pid}, accepts", number=place.number, pid=worker.pid)
        self._keepers.relieve(place)
        if former is not None:
            self._leave(former, worker.pid)
        self._keepers.cover()
        if not self._opened and len(self.serving()) == len(self.places):
            self._opened = True
            self.on_open()
        self._replaced(place, worker, None)

    # -- going --------------------------------------------------------------------------------------------

    def _leave(self, worker: WorkerProcess, pid: int) -> None:
        worker.succeeded(pid, worker.sockets)
        self.leaving.append(worker)
        self._keepers.gone(worker)
        here = [one for one in self.leaving if one.number == worker.number]
        for oldest in here[: max(0, len(here) - self._most_leaving)]:
            oldest.ask("POST", "/hurry").addErrback(lambda failure: None)

    def closing(self, worker: WorkerProcess) -> None:
        """It wants to close its sockets: if we have not told it to, we may be about to.

        systemd sends SIGTERM to all processes of a unit, in any order.  Until we know, it goes on accepting.
        """
        if self.exodus is not None:
            self.exodus.closing(worker)
        else:
            self.asking.append(worker)
            self._clock.callLater(SAME_SIGNAL, self._replace_stopped, worker)

    def _replace_stopped(self, worker: WorkerProcess) -> None:
        """It was somebody else who has told it: let it go, since we hold its sockets, and replace it."""
        if self.exodus is not None:
            return
        self.asking.remove(worker)
        if worker.state == WorkerState.GONE:
            return
        worker.close(os.getpid())
        place = self._place(worker)
        if place.worker is worker:
            place.worker = None
            worker.state = WorkerState.LEAVING
            self.leaving.append(worker)
            self._keepers.gone(worker)
            self._keepers.cover()
            why = "was told to stop by somebody else" if worker.line.open else "can be heard no more"
            self._staff(place, f"{worker}, {why}", worker.served_for)

    def closed(self, worker: WorkerProcess) -> None:
        """It accepts nobody any more."""
        if self.exodus is not None:
            self.exodus.closed(worker)

    def ended(self, worker: WorkerProcess) -> None:
        """Its process is gone: staff its place, if it was needed there."""
        self.on_ended(worker)
        if worker.has_served and worker.word is None:
            self.on_lost(worker)
        place = self._place(worker)
        if worker in self.leaving:
            self.leaving.remove(worker)
        elif worker is place.coming:
            place.coming = None
            place.not_late()
        elif worker is place.worker:
            place.worker = None
        if self.exodus is not None:
            self.exodus.ended(worker)
            return
        self._why = worker.why or f"{worker}, has ended with {worker.how()}"
        if not self._accepting:
            return
        self._keepers.gone(worker)
        self._keepers.cover()
        self._replaced(place, worker, worker.how())
        what = "has ended" if worker.has_served else "cannot start"
        self._staff(place, f"{worker}, {what}: {worker.how()}", worker.served_for)

    def _staff(self, place: Slot, what: str, served_for: float) -> None:
        """See to it that another one is started, if nobody works there, nor comes."""
        if not place.empty or self.exodus is not None:
            return
        pause = place.pauses.after(served_for)
        log.error(
            "{what}; {others} of {all} workers accept, another one starts {when}",
            what=what,
            others=len(self.serving()),
            all=len(self.places),
            when=f"in {pause:g} s" if pause else "now",
        )
        place.again = self._clock.callLater(pause, self._try_to_start, place)
        if not self.serving() and not self.coming() and all(one.pauses.hopeless for one in self.places):
            self.on_hopeless(f"no worker can be started: {what}")

    # -- replacing ----------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a worker is being started, or waits to be."""
        return any(place.coming is not None or place.again is not None for place in self.places)

    def replace(self, place: Slot, release: Origin | None = None) -> Deferred[str | None]:
        """Start another worker, which takes over from the one that there is.

        :param release: what it is to run; by default, what runs there.
        :returns: fires with None when it accepts, or with why it does not; then the former one goes on.
        """
        if self.exodus is not None:
            return succeed(STOPPING)
        place.answer(ANOTHER)
        awaited: Deferred[str | None] = Deferred()
        place.awaited = awaited
        place.release = release or place.release
        place.not_again()
        if place.coming is None:
            self._try_to_start(place)
        return awaited

    def _replaced(self, place: Slot, worker: WorkerProcess, why_not: str | None) -> None:
        """One accepts, or cannot: if somebody waits for a replacement, tell him, or start the one that he wants."""
        if place.awaited is None or place.coming is not None:
            return
        if worker.release is place.release:
            place.answer(why_not)
        else:
            self._try_to_start(place)  # this was another one, which was on its way already

    # -- the end ------------------------------------------------------------------------------------------

    def leave_with(self, exodus: DrainEvents) -> None:
        """From now on nobody is replaced; who does not accept yet, ends."""
        self.exodus = exodus
        for place in self.places:
            place.not_again()
            place.not_late()
            if place.coming is not None:
                place.coming.send_signal(signal.SIGTERM)
                place.late = self._clock.callLater(ENDS_IN, self._too_late, place, place.coming)
            place.answer(STOPPING)


def _not_started(place: Slot, error: OSError) -> str:
    release = place.release
    return f"{release.command[0]} cannot be started in {release.directory}: {error.strerror or error}"
