"""One server's way out: how a stop is asked for, put off, hurried, and looked at.

Who stops a server wants three things of it: to begin, at most once; to know when the next deadline comes, also
before it is certain; and to be told when it is over, however often and however late he asks.  The order of the
steps, and what each of them waits for, is the chain's (:mod:`graceful.drain`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from attrs import define, field, frozen
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
    """What a drain works on, in the order of its calls.  Reactor thread."""

    def going_down(self) -> None:
        """The balancer shall look elsewhere; everything is still accepted and served as always."""

    def last_requests(self, quiet: bool) -> None:
        """From now on every answer is its connection's last.

        :param quiet: nobody sends requests on idle connections any more: they may be closed at once.
        """

    def close_listeners(self) -> Deferred[None]:
        """Close the listening sockets; fire when all are closed and have been said to be."""

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing is in flight and no connection is left."""

    def left(self) -> bool:
        """Whether anything is left, but for what is spared until the second deadline."""

    def spared(self) -> bool:
        """Whether anything is left that is spared until the second deadline."""

    def take_down(self, everything: bool) -> Deferred[None]:
        """End what is left, as honestly as can be; fire when nothing more can be done.

        :param everything: also what is otherwise spared.
        """

    def gone(self, seconds: float) -> Deferred[None]:
        """The drain is over; fire when what follows it is, too.

        :param seconds: how long it took.
        """


class Inputs(Protocol):
    """What can happen to a drain."""

    def begin(self, quiet: bool) -> None:
        """Somebody wants the server to stop."""

    def hurry(self) -> None:
        """Somebody wants it to stop waiting."""

    def waddled(self) -> None:
        """The balancer has had its time to notice."""

    def closed(self) -> None:
        """The listening sockets are closed."""

    def emptied(self) -> None:
        """Nothing is left to wait for."""

    def overdue(self) -> None:
        """The deadline has come."""

    def ended(self) -> None:
        """The takedown is through."""

    def spared(self) -> None:
        """The takedown is through, and has left what has more time."""


@define(eq=False)
class Core:
    """What the machine works with.

    :ivar clock: times the deadlines; monotonic.
    :ivar lame_duck: how long to go on accepting while the balancer is told to look elsewhere, seconds.
    :ivar deadline: how long to wait for exchanges after the sockets are closed, seconds.
    :ivar download_deadline: likewise, for what is spared at the deadline.
    :ivar began: when the drain began, seconds of the clock; None before.
    :ivar closed: when the sockets were closed, seconds of the clock; None before.
    :ivar state: the state's name, for people and the status.
    :ivar hurried: nobody shall be waited for.
    :ivar quiet: nobody sends requests on idle connections any more.
    :ivar passed: the first deadline has come.
    :ivar over: there is nothing left to wait for.
    :ivar entered: called with the name of each state that is entered.
    """

    clock: IReactorTime
    work: Drainable
    deadline: float
    download_deadline: float
    lame_duck: float = 0.0
    began: float | None = None
    closed: float | None = None
    state: State = State.SERVING
    hurried: bool = False
    quiet: bool = False
    over: bool = False
    passed: bool = False
    timer: IDelayedCall | None = None
    machine: Any = None
    waiting: list[Deferred[None]] = field(factory=list)
    entered: Callable[[State], object] = lambda state: None

    def enter(self, state: State) -> None:
        """Be in another state, and say so."""
        self.state = state
        self.entered(state)

    def close(self) -> None:
        """Close the door first: a wait while requests still come in has no end."""
        self.enter(State.CLOSING)
        self.work.last_requests(self.quiet)
        self.work.close_listeners().addCallback(lambda ignored: self.machine.closed())

    def wait(self) -> None:
        """Sockets are closed: wait for what is left, until the deadline."""
        self.enter(State.FINISHING)
        if self.closed is None:
            self.closed = self.clock.seconds()
        self.set_timer()
        self.work.all_gone().addCallback(lambda ignored: self.machine.emptied())

    def until(self, spared: bool) -> float:
        """When a deadline comes, seconds of the clock.

        :param spared: the second one.
        """
        assert self.closed is not None
        return self.closed + (max(self.deadline, self.download_deadline) if spared else self.deadline)

    def set_timer(self) -> None:
        """Have a look when the next deadline comes."""
        self.stop_timer()
        until = self.until(self.second())
        delay = 0.0 if self.hurried else max(0.0, until - self.clock.seconds())
        self.timer = self.clock.callLater(delay, self.deadline_came)

    def stop_timer(self) -> None:
        """No deadline matters any more, or another one does."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def deadline_came(self) -> None:
        """It concerns nobody if there is nothing left but what has more time."""
        self.passed = self.clock.seconds() >= self.until(False)
        if self.everything() or self.work.left():
            self.machine.overdue()
        else:
            self.set_timer()

    def second(self) -> bool:
        """Whether the deadline that comes next is the second: the first has come, and was not put off since."""
        return self.passed and self.clock.seconds() >= self.until(False)

    def everything(self) -> bool:
        """Whether nothing is spared any more."""
        return self.hurried or self.clock.seconds() >= self.until(True)

    def take_down(self) -> None:
        """What is still there has had its time."""
        self.enter(State.TAKEDOWN)
        self.stop_timer()
        self.work.take_down(self.everything()).addCallback(self.took_down)

    def took_down(self, ignored: object) -> None:
        """Something may have been spared."""
        if self.work.spared() and not self.everything():
            self.machine.spared()
        elif self.work.spared():
            self.take_down()
        else:
            self.machine.ended()

    def finish(self) -> None:
        """Everything has ended, one way or the other."""
        self.enter(State.GONE)
        self.stop_timer()
        assert self.began is not None
        self.work.gone(self.clock.seconds() - self.began).addCallback(self.left_behind)

    def left_behind(self, ignored: object) -> None:
        """Nothing is left to do."""
        self.over = True
        for waiter in self.waiting:
            waiter.callback(None)
        self.waiting.clear()


builder = TypeMachineBuilder(Inputs, Core)
serving = builder.state("serving")
lame_duck = builder.state("lame_duck")
closing = builder.state("closing")
finishing = builder.state("finishing")
takedown = builder.state("takedown")
gone = builder.state("gone")


@serving.upon(Inputs.begin).to(lame_duck)
def begin(inputs: Inputs, core: Core, quiet: bool) -> None:
    """Tell the balancer, and give it the time to notice; if it is known to be quiet, it needs none."""
    core.enter(State.LAME_DUCK)
    core.began = core.clock.seconds()
    core.quiet = quiet
    core.work.going_down()
    if core.lame_duck > 0 and not quiet:
        core.timer = core.clock.callLater(core.lame_duck, inputs.waddled)
    else:
        inputs.waddled()


@lame_duck.upon(Inputs.begin).loop()
def begin_again_as_lame_duck(inputs: Inputs, core: Core, quiet: bool) -> None:
    """A second request to stop changes nothing, unless it knows that the balancer has noticed."""
    if quiet:
        core.quiet = True
        inputs.waddled()


@lame_duck.upon(Inputs.waddled).to(closing)
def noticed(inputs: Inputs, core: Core) -> None:
    """Nobody should come any more; who does is still served."""
    core.stop_timer()
    core.close()


@lame_duck.upon(Inputs.hurry).to(closing)
def hurry_as_lame_duck(inputs: Inputs, core: Core) -> None:
    """Do not wait for anybody, but close the sockets in order all the same."""
    core.hurried = core.quiet = True
    noticed(inputs, core)


@closing.upon(Inputs.begin).loop()
@finishing.upon(Inputs.begin).loop()
@takedown.upon(Inputs.begin).loop()
def begin_again(inputs: Inputs, core: Core, quiet: bool) -> None:
    """A second request to stop changes nothing, but it may know that the balancer is quiet."""
    if quiet:
        core.work.last_requests(quiet)


@serving.upon(Inputs.hurry).to(closing)
def hurry_from_serving(inputs: Inputs, core: Core) -> None:
    """Do not wait for anybody, but close the sockets in order all the same."""
    core.hurried = core.quiet = True
    core.began = core.clock.seconds()
    core.work.going_down()
    core.close()


@closing.upon(Inputs.hurry).loop()
def hurry_while_closing(inputs: Inputs, core: Core) -> None:
    """The sockets are nearly closed; the takedown follows at once."""
    core.hurried = True


@closing.upon(Inputs.closed).to(finishing)
def sockets_closed(inputs: Inputs, core: Core) -> None:
    """The deadline counts from here."""
    core.wait()


@finishing.upon(Inputs.emptied).to(gone)
def all_finished(inputs: Inputs, core: Core) -> None:
    """The good end."""
    core.finish()


@finishing.upon(Inputs.overdue).to(takedown)
def too_late(inputs: Inputs, core: Core) -> None:
    """What is still there is taken down."""
    core.take_down()


@finishing.upon(Inputs.hurry).to(takedown)
@takedown.upon(Inputs.hurry).loop()
def hurry(inputs: Inputs, core: Core) -> None:
    """So is what would be spared; if a takedown is under way, by another one after it."""
    core.hurried = True
    if core.state != State.TAKEDOWN:
        core.take_down()


@takedown.upon(Inputs.spared).to(finishing)
def something_was_spared(inputs: Inputs, core: Core) -> None:
    """Wait for it, with the deadline that it has."""
    core.wait()


@takedown.upon(Inputs.ended).to(gone)
def taken_down(inputs: Inputs, core: Core) -> None:
    """The other end."""
    core.finish()


# What comes too late changes nothing.
for late in (takedown, gone):
    late.upon(Inputs.emptied).loop().returns(None)
    late.upon(Inputs.overdue).loop().returns(None)
gone.upon(Inputs.hurry).loop().returns(None)
gone.upon(Inputs.begin).loop().returns(None)

Machine = builder.build()


class Drain:
    """One server's way out.

    :param clock: a monotonic `IReactorTime`.
    :param work: what is drained.
    :param deadline: seconds to wait after the sockets are closed.
    :param download_deadline: likewise for what is spared at the deadline; not less than that.
    :param lame_duck: seconds to go on accepting at first, so that a balancer can notice.
    :param entered: called with the name of each state that the drain enters, in the middle of that.
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
        self._core = Core(clock, work, deadline, download_deadline, lame_duck, entered=entered)
        self._machine: Inputs = Machine(self._core)
        self._core.machine = self._machine

    @property
    def state(self) -> State:
        """Any state but `starting`."""
        return self._core.state

    @property
    def deadline(self) -> float | None:
        """When the next deadline comes, seconds of the clock; None before the sockets are closed."""
        core = self._core
        if core.closed is None:
            return None
        return core.until(core.second())

    def takes_down(self) -> float | None:
        """When what holds a thread will be taken down, seconds of the clock; None while serving.  Any thread."""
        core = self._core
        if core.began is None:
            return None
        if core.hurried:
            return core.began
        closed = core.closed
        return core.deadline + (core.began + (0.0 if core.quiet else core.lame_duck) if closed is None else closed)

    def ahead(self, spared: bool) -> tuple[float, float]:
        """What is ahead if the drain takes as long as it may: seconds as a lame duck, and seconds of deadline.

        :param spared: by the second deadline.
        """
        core, now = self._core, self._core.clock.seconds()
        deadline = max(core.deadline, core.download_deadline) if spared else core.deadline
        if core.closed is not None:
            return 0.0, 0.0 if core.state.past_deadline else max(0.0, core.closed + deadline - now)
        if core.began is None:
            return core.lame_duck, deadline
        return max(0.0, core.began + core.lame_duck - now) if core.state == State.LAME_DUCK else 0.0, deadline

    def give(self, deadline: float) -> None:
        """Set the first deadline anew, seconds after the sockets are closed."""
        self.extend(deadline - self._core.deadline)

    def extend(self, seconds: float) -> None:
        """Give what is in flight so many seconds more, or fewer.  Changes nothing once it is being taken down."""
        core = self._core
        core.deadline = max(0.0, core.deadline + seconds)
        if core.state == State.FINISHING:
            core.set_timer()

    def begin(self, quiet: bool = False) -> Deferred[None]:
        """Begin to stop; a second call changes nothing.  Fires when the drain is over.  Reactor thread.

        :param quiet: nobody sends requests on idle connections any more: close them at once.
        """
        done: Deferred[None] = Deferred()
        if self._core.over:
            done.callback(None)
            return done
        self._core.waiting.append(done)
        self._machine.begin(quiet)
        return done

    def succeeded(self) -> Deferred[None]:
        """Begin to stop, with the sockets in a successor's hands: nobody needs time to look elsewhere."""
        core = self._core
        core.lame_duck = 0.0
        done = self.begin()
        if core.state == State.LAME_DUCK:
            self._machine.waddled()
        return done

    def hurry(self) -> None:
        """Take down at once what is still there.  Reactor thread."""
        self._machine.hurry()


@frozen
class DrainResult:
    """How a drain has gone.

    :ivar exit_status: the process's, or what it would be.
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
