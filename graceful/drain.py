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

There are two deadlines.  What holds a thread is taken down at the first.  A download holds none, and a site that
deploys twenty times a day would never complete a long one: it is spared until the second.

A caller that stops a server needs three things: to begin, at most once; to know when the next deadline comes, also
before it is certain; and to be told when the drain is over, however often and however late it asks.

Nothing here knows what is drained: sockets, connections and threads are behind :class:`Drainable`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

from attrs import frozen
from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class State(str, Enum):
    """How far an instance is, in the order in which it goes from state to state.

    The values are those of the status.  A state is a string, so that it can be compared with what another process
    has said, formatted, and dumped as JSON.
    """

    STARTING = "starting"
    SERVING = "serving"
    LAME_DUCK = "lame-duck"
    CLOSING = "closing"
    FINISHING = "finishing"
    TAKEDOWN = "takedown"
    GONE = "gone"

    __str__ = str.__str__

    @classmethod
    def parse(cls, text: object) -> State | None:
        """Returns the state that another process has reported; None for a word that is no state."""
        try:
            return cls(text)
        except ValueError:
            return None

    @property
    def accepts(self) -> bool:
        """Whether the listening sockets are open and stay open for now."""
        return self in (State.SERVING, State.LAME_DUCK)

    @property
    def draining(self) -> bool:
        """Whether the drain has begun, or is over."""
        return self not in (State.STARTING, State.SERVING)

    @property
    def leaving(self) -> bool:
        """Whether the instance gives its control path and its pid file to a newcomer."""
        return self is State.CLOSING or self.closed

    @property
    def closed(self) -> bool:
        """Whether the listening sockets are closed, or another process accepts from them."""
        return self is State.FINISHING or self.past_deadline

    @property
    def past_deadline(self) -> bool:
        """Whether the deadline cannot be moved any more."""
        return self in (State.TAKEDOWN, State.GONE)


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
        self._deadline = deadline
        self._download_deadline = download_deadline
        self._lame_duck = lame_duck
        self._entered = entered
        self._state = State.SERVING
        #: When the drain began, and when the sockets were closed, seconds of the clock; None before.
        self._began: float | None = None
        self._closed: float | None = None
        #: Nothing is waited for any more.
        self._hurried = False
        #: No client sends requests on idle connections any more.
        self._quiet = False
        #: The first deadline has come; it may have been put off since.
        self._deadline_has_come = False
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
        return None if self._closed is None else self._deadline_at(self._past_first_deadline())

    def takedown_at(self) -> float | None:
        """Returns when what holds a thread is taken down, seconds of the clock; None while serving.  Any thread."""
        if self._began is None:
            return None
        if self._hurried:
            return self._began
        closed = self._closed
        if closed is None:
            closed = self._began + (0.0 if self._quiet else self._lame_duck)
        return self._deadline + closed

    def seconds_ahead(self, spared: bool) -> tuple[float, float]:
        """Returns what is ahead if the drain takes as long as it may: seconds as a lame duck, and until the deadline.

        :param spared: count until the second deadline.
        """
        now = self._clock.seconds()
        deadline = self._longest(spared)
        if self._closed is not None:
            return 0.0, 0.0 if self._state.past_deadline else max(0.0, self._closed + deadline - now)
        if self._began is None:
            return self._lame_duck, deadline
        if self._state != State.LAME_DUCK:
            return 0.0, deadline
        return max(0.0, self._began + self._lame_duck - now), deadline

    def set_deadline(self, seconds: float) -> None:
        """Set the first deadline.

        :param seconds: from the closing of the sockets.
        """
        self.extend(seconds - self._deadline)

    def extend(self, seconds: float) -> None:
        """Move the first deadline by `seconds`, which may be negative; no effect once the takedown has begun."""
        self._deadline = max(0.0, self._deadline + seconds)
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

    def succeeded(self, handed: object = None, pid: int = 0) -> Deferred[None]:
        """Begin to stop, with the sockets in a successor's hands: no balancer needs time to look elsewhere.

        :param handed, pid: for a drain that lets go of the sockets itself; ours have been let go of already.
        """
        self._lame_duck = 0.0
        done = self.begin()
        if self._state == State.LAME_DUCK:
            self._machine.lame_duck_over()
        return done

    def hurry(self) -> None:
        """Take down at once what is still there."""
        self._machine.hurry()

    # -- the deadlines ------------------------------------------------------------------------------------

    def _longest(self, spared: bool) -> float:
        """Returns the seconds from the closing of the sockets to a deadline: the second one for what is spared."""
        return max(self._deadline, self._download_deadline) if spared else self._deadline

    def _deadline_at(self, second: bool) -> float:
        """Returns when the first or the second deadline comes, seconds of the clock."""
        assert self._closed is not None
        return self._closed + self._longest(second)

    def _past_first_deadline(self) -> bool:
        """Whether the next deadline is the second: the first has come, and was not put off since."""
        return self._deadline_has_come and self._clock.seconds() >= self._deadline_at(False)

    def _nothing_is_spared(self) -> bool:
        """Whether the second deadline has come, or a caller is in a hurry."""
        return self._hurried or self._clock.seconds() >= self._deadline_at(True)

    def _set_timer(self) -> None:
        """Have the timer fire at the next deadline."""
        self._stop_timer()
        at = self._deadline_at(self._past_first_deadline())
        delay = 0.0 if self._hurried else max(0.0, at - self._clock.seconds())
        self._timer = self._clock.callLater(delay, self._deadline_came)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _deadline_came(self) -> None:
        """Take down what is overdue; if only downloads are left, wait for their own deadline."""
        self._deadline_has_come = self._clock.seconds() >= self._deadline_at(False)
        if self._nothing_is_spared() or self._work.has_leftovers():
            self._machine.overdue()
        else:
            self._set_timer()

    # -- the steps ----------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._state = state
        self._entered(state)

    def _start(self) -> None:
        self._began = self._clock.seconds()
        self._work.going_down()

    def _wait_as_lame_duck(self) -> None:
        self._timer = self._clock.callLater(self._lame_duck, self._machine.lame_duck_over)

    def _close(self) -> None:
        """Close the sockets before the wait: while requests still come in, a wait has no end."""
        self._enter(State.CLOSING)
        self._work.last_requests(self._quiet)
        self._work.close_listeners().addCallback(lambda ignored: self._machine.closed())

    def _wait(self) -> None:
        """The sockets are closed: wait for what is left, until the deadline."""
        self._enter(State.FINISHING)
        if self._closed is None:
            self._closed = self._clock.seconds()
        self._set_timer()
        self._work.all_gone().addCallback(lambda ignored: self._machine.emptied())

    def _take_down(self) -> None:
        """The deadline has come for what is still there."""
        self._enter(State.TAKEDOWN)
        self._stop_timer()
        self._work.take_down(self._nothing_is_spared()).addCallback(self._took_down)

    def _took_down(self, ignored: object) -> None:
        """Wait on for what was spared; if its deadline has come meanwhile, take that down as well."""
        if not self._work.has_spared():
            self._machine.ended()
        elif self._nothing_is_spared():
            self._take_down()
        else:
            self._machine.spared()

    def _finish(self) -> None:
        """Nothing is left, whether it has finished or was taken down."""
        self._enter(State.GONE)
        self._stop_timer()
        assert self._began is not None
        self._work.finish(self._clock.seconds() - self._began).addCallback(self._tell_waiting)

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
    drain._quiet = quiet
    drain._start()
    if drain._lame_duck > 0 and not quiet:
        drain._wait_as_lame_duck()
    else:
        inputs.lame_duck_over()


@lame_duck.upon(Inputs.begin).loop()
def begin_again_as_lame_duck(inputs: Inputs, drain: Drain, quiet: bool) -> None:
    """A second request to stop changes nothing, unless it knows that the balancer has noticed."""
    if quiet:
        drain._quiet = True
        inputs.lame_duck_over()


@lame_duck.upon(Inputs.lame_duck_over).to(closing)
def noticed(inputs: Inputs, drain: Drain) -> None:
    """No client should come any more; one that comes before the sockets are closed is still served."""
    drain._stop_timer()
    drain._close()


@lame_duck.upon(Inputs.hurry).to(closing)
def hurry_as_lame_duck(inputs: Inputs, drain: Drain) -> None:
    """Wait for nothing, but close the sockets in order all the same."""
    drain._hurried = drain._quiet = True
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
    drain._hurried = drain._quiet = True
    drain._start()
    drain._close()


@closing.upon(Inputs.hurry).loop()
def hurry_while_closing(inputs: Inputs, drain: Drain) -> None:
    """The sockets are nearly closed; the takedown follows at once."""
    drain._hurried = True


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
    drain._hurried = True
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


@frozen
class DrainResult:
    """How a drain has gone.

    :ivar exit_status: the exit status of the process, or what it would be.
    :ivar seconds: how long the drain took.
    :ivar finished: exchanges that ended by themselves in it.
    :ivar taken_down: exchanges that were interrupted.
    :ivar abandoned: threads that did not end.
    :ivar reports: the ids of the reports on what was interrupted.
    """

    exit_status: int
    seconds: float
    finished: int
    taken_down: int
    abandoned: int
    reports: tuple[str, ...] = ()
