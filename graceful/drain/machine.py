"""The way out of a server: from "stop" to "gone", as a state machine with one ordered chain of steps.

Stopping a server is easy to get wrong in the order of things: a thread pool that ends before the answers, a
listener that closes after the wait has begun, a second signal that restarts what is under way, a wait without a
limit.  So the order is written down once, here, and each event is an input to a machine that knows what the event
means in each state:

    serving ─begin─▶ lame-duck ─lame_duck_over─▶ closing ─closed─▶ finishing ─emptied─▶ gone
                                                                       │  ▲
                                                                overdue│  │spared
                                                                       ▼  │
                                                                    takedown ──ended──▶ gone

There are two deadlines (:mod:`graceful.drain.schedule`): what is spared at the first has until the second.

A caller that stops a server needs three things: to begin, at most once; to know when the next deadline comes; and to
be told when the drain is over, however often and however late it asks.

Nothing here knows what is drained: sockets, connections and threads are behind :class:`Drainable`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from graceful.drain.schedule import DrainSchedule
from graceful.drain.state import State
from graceful.logs.attempt import attempt, attempt_deferred

log = Logger(namespace="graceful")


class Drainable(Protocol):
    """What is drained, in the order of the calls.  Reactor thread."""

    def going_down(self) -> None:
        """Tell the balancer to look elsewhere; everything is still accepted and served as always."""

    def last_requests(self, quiet: bool) -> None:
        """Make every answer from now on its connection's last.

        :param quiet: no client sends requests on idle connections any more: they may be closed at once.
        """

    def close_listeners(self) -> Deferred[None]:
        """Close the listening sockets; fire when all are closed and the log says so."""

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing is in flight and no connection is left."""

    def has_leftovers(self) -> bool:
        """Whether anything is left that is not spared until the second deadline."""

    def has_spared(self) -> bool:
        """Whether anything is left that is spared until the second deadline."""

    def take_down(self, everything: bool) -> Deferred[None]:
        """End what is left, as honestly as can be; fire when nothing more can be done.

        :param everything: also what is otherwise spared.
        """

    def finish(self, seconds: float) -> Deferred[None]:
        """The drain is over: end what depends on it, and fire when that is done.

        :param seconds: how long the drain took.
        """


class Inputs(Protocol):
    """The events of a drain."""

    def begin(self, quiet: bool) -> None:
        """A caller wants the server to stop."""

    def hurry(self) -> None:
        """A caller wants the server to stop waiting."""

    def lame_duck_over(self) -> None:
        """The balancer has had its time to notice."""

    def closed(self) -> None:
        """The listening sockets are closed."""

    def emptied(self) -> None:
        """Nothing is left to wait for."""

    def overdue(self) -> None:
        """The deadline has come."""

    def ended(self) -> None:
        """The takedown has ended, and nothing is left."""

    def spared(self) -> None:
        """The takedown has ended, and has left what has time until the second deadline."""


class Drain:
    """One server's way out.  Reactor thread.

    Callers use the public methods; the transitions of the machine, below the class, use the steps.

    :param clock: a monotonic `IReactorTime`.
    :param work: what is drained.
    :param deadline: seconds to wait after the sockets are closed.
    :param download_deadline: seconds to wait for what is spared at the deadline; at least the deadline counts.
    :param lame_duck: seconds to go on accepting at first, so that a balancer can notice.
    :param entered: called with each state that the drain enters, in the middle of that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        work: Drainable,
        deadline: float,
        download_deadline: float = 0.0,
        lame_duck: float = 0.0,
        entered: Callable[[State], object] = lambda state: None,
    ) -> None:
        self._clock = clock
        self._work = work
        self._schedule = DrainSchedule(clock, deadline, download_deadline, lame_duck)
        self._entered = entered
        self._state = State.SERVING
        self._over = False
        self._timer: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []
        self._machine: Inputs = Machine(self)

    # -- what can be asked --------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Any state but `starting`."""
        return self._state

    @property
    def next_deadline(self) -> float | None:
        """When the next deadline comes, seconds of the clock; None before the sockets are closed."""
        return self._schedule.next_deadline

    def takedown_at(self) -> float | None:
        """Returns when what holds a thread is taken down, seconds of the clock; None while serving.  Any thread."""
        return self._schedule.takedown_at()

    def seconds_ahead(self, spared: bool) -> tuple[float, float]:
        """Returns what is ahead if the drain takes as long as it may: seconds as a lame duck, and until the deadline.

        :param spared: count until the second deadline.
        """
        return self._schedule.seconds_ahead(self._state, spared)

    def set_deadline(self, seconds: float) -> None:
        """Set the first deadline.

        :param seconds: from the closing of the sockets.
        """
        self._schedule.set_deadline(seconds)
        self._deadline_moved()

    def extend(self, seconds: float) -> None:
        """Move the first deadline by `seconds`, which may be negative; no effect once the takedown has begun."""
        self._schedule.extend(seconds)
        self._deadline_moved()

    def _deadline_moved(self) -> None:
        if self._state == State.FINISHING:
            self._set_timer()

    def begin(self, quiet: bool = False) -> Deferred[None]:
        """Begin to stop; a second call changes nothing.  Fires when the drain is over.

        :param quiet: no client sends requests on idle connections any more: close them at once.
        """
        done: Deferred[None] = Deferred()
        if self._over:
            done.callback(None)
            return done
        self._waiting.append(done)
        self._machine.begin(quiet)
        return done

    def succeeded(self) -> Deferred[None]:
        """Begin to stop, with the sockets in a successor's hands: no balancer needs time to look elsewhere."""
        self._schedule.skip_lame_duck()
        done = self.begin()
        if self._state == State.LAME_DUCK:
            self._machine.lame_duck_over()
        return done

    def hurry(self) -> None:
        """Take down at once what is still there."""
        self._machine.hurry()

    # -- the deadlines ------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """Have the timer fire at the next deadline."""
        self._stop_timer()
        self._timer = self._clock.callLater(self._schedule.until_next_deadline(), self._deadline_came)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _deadline_came(self) -> None:
        """Take down what is overdue; if only downloads are left, wait for their own deadline."""
        self._schedule.deadline_came()
        if self._schedule.nothing_is_spared() or self._work.has_leftovers():
            self._machine.overdue()
        else:
            self._set_timer()

    # -- the steps ----------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._state = state
        attempt(self._entered, state)

    def _start(self, quiet: bool) -> None:
        if quiet:
            self._schedule.be_quiet()
        self._schedule.begin()
        attempt(self._work.going_down)

    def _wait_as_lame_duck(self) -> None:
        self._timer = self._clock.callLater(self._schedule.lame_duck, self._machine.lame_duck_over)

    def _close(self) -> None:
        """Close the sockets before the wait: while requests still come in, a wait has no end."""
        self._enter(State.CLOSING)
        attempt(self._work.last_requests, self._schedule.quiet)
        attempt_deferred(self._work.close_listeners).addCallback(lambda ignored: self._machine.closed())

    def _wait(self) -> None:
        """The sockets are closed: wait for what is left, until the deadline."""
        self._enter(State.FINISHING)
        self._schedule.sockets_closed()
        self._set_timer()
        gone = maybeDeferred(self._work.all_gone)
        gone.addCallbacks(lambda ignored: self._machine.emptied(), self._cannot_wait)

    def _cannot_wait(self, failure: Failure) -> None:
        log.failure("what is in flight cannot be watched: it has until the deadline", failure)

    def _take_down(self) -> None:
        """The deadline has come for what is still there."""
        self._enter(State.TAKEDOWN)
        self._stop_timer()
        attempt_deferred(self._work.take_down, self._schedule.nothing_is_spared()).addCallback(self._took_down)

    def _took_down(self, ignored: object) -> None:
        """Wait on for what was spared; if its deadline has come meanwhile, take that down as well."""
        if not self._work.has_spared():
            self._machine.ended()
        elif self._schedule.nothing_is_spared():
            self._take_down()
        else:
            self._machine.spared()

    def _finish(self) -> None:
        """Nothing is left, whether it has finished or was taken down."""
        self._enter(State.GONE)
        self._stop_timer()
        attempt_deferred(self._work.finish, self._schedule.seconds_since_begin).addCallback(self._tell_waiting)

    def _tell_waiting(self, ignored: object) -> None:
        self._over = True
        for waiter in self._waiting:
            waiter.callback(None)
        self._waiting.clear()


# -- the machine: which step follows which event, in which state ------------------------------------------

builder = TypeMachineBuilder(Inputs, Drain)
serving = builder.state("serving")
lame_duck = builder.state("lame_duck")
closing = builder.state("closing")
finishing = builder.state("finishing")
takedown = builder.state("takedown")
gone = builder.state("gone")


@serving.upon(Inputs.begin).to(lame_duck)
def begin(inputs: Inputs, drain: Drain, quiet: bool) -> None:
    """Tell the balancer, and give it time to notice; one that is known to be quiet needs none."""
    drain._enter(State.LAME_DUCK)
    drain._start(quiet)
    if drain._schedule.lame_duck > 0 and not quiet:
        drain._wait_as_lame_duck()
    else:
        inputs.lame_duck_over()


@lame_duck.upon(Inputs.begin).loop()
def begin_again_as_lame_duck(inputs: Inputs, drain: Drain, quiet: bool) -> None:
    """A second request to stop changes nothing, unless it knows that the balancer has noticed."""
    if quiet:
        drain._schedule.be_quiet()
        inputs.lame_duck_over()


@lame_duck.upon(Inputs.lame_duck_over).to(closing)
def noticed(inputs: Inputs, drain: Drain) -> None:
    """No client should come any more; one that comes before the sockets are closed is still served."""
    drain._stop_timer()
    drain._close()


@lame_duck.upon(Inputs.hurry).to(closing)
def hurry_as_lame_duck(inputs: Inputs, drain: Drain) -> None:
    """Wait for nothing, but close the sockets in order all the same."""
    drain._schedule.hurry()
    drain._schedule.be_quiet()
    noticed(inputs, drain)


@closing.upon(Inputs.begin).loop()
@finishing.upon(Inputs.begin).loop()
@takedown.upon(Inputs.begin).loop()
def begin_again(inputs: Inputs, drain: Drain, quiet: bool) -> None:
    """A second request to stop changes nothing, but it may know that the balancer is quiet."""
    if quiet:
        drain._work.last_requests(quiet)


@serving.upon(Inputs.hurry).to(closing)
def hurry_from_serving(inputs: Inputs, drain: Drain) -> None:
    """Wait for nothing, but close the sockets in order all the same."""
    drain._schedule.hurry()
    drain._start(quiet=True)
    drain._close()


@closing.upon(Inputs.hurry).loop()
def hurry_while_closing(inputs: Inputs, drain: Drain) -> None:
    """The sockets are nearly closed; the takedown follows at once."""
    drain._schedule.hurry()


@closing.upon(Inputs.closed).to(finishing)
def sockets_closed(inputs: Inputs, drain: Drain) -> None:
    """The deadline counts from here."""
    drain._wait()


@finishing.upon(Inputs.emptied).to(gone)
def all_finished(inputs: Inputs, drain: Drain) -> None:
    """Everything has finished in time."""
    drain._finish()


@finishing.upon(Inputs.overdue).to(takedown)
def too_late(inputs: Inputs, drain: Drain) -> None:
    """What is still there is taken down."""
    drain._take_down()


@finishing.upon(Inputs.hurry).to(takedown)
@takedown.upon(Inputs.hurry).loop()
def hurry(inputs: Inputs, drain: Drain) -> None:
    """Take down everything, also what would be spared; if a takedown is under way, another one follows it."""
    drain._schedule.hurry()
    if drain.state != State.TAKEDOWN:
        drain._take_down()


@takedown.upon(Inputs.spared).to(finishing)
def something_was_spared(inputs: Inputs, drain: Drain) -> None:
    """Wait for it, with the deadline that it has."""
    drain._wait()


@takedown.upon(Inputs.ended).to(gone)
def taken_down(inputs: Inputs, drain: Drain) -> None:
    """Nothing is left after the takedown."""
    drain._finish()


# An event that comes too late changes nothing.
for late in (takedown, gone):
    late.upon(Inputs.emptied).loop().returns(None)
    late.upon(Inputs.overdue).loop().returns(None)
gone.upon(Inputs.hurry).loop().returns(None)
gone.upon(Inputs.begin).loop().returns(None)

Machine = builder.build()
