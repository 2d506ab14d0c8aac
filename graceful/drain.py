"""The way out: from "stop" to "gone", as a state machine with one ordered chain of steps.

Stopping a server is easy to get wrong in the order of things: a thread pool that ends before the answers, a
listener that closes after the wait has begun, a second signal that restarts what is under way, a wait without a
limit.  So the order is written down once, here, and whatever happens is an input to a machine that knows in
which state it means what:

    serving ──begin──▶ closing ──closed──▶ finishing ──emptied──────────────────▶ gone
                                              └─overdue─▶ takedown ──ended──▶ gone

Nothing here knows what is drained: sockets, connections and threads are behind :class:`Drainable`.
"""

from __future__ import annotations

from typing import Any, Protocol

from attrs import define, field
from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger(namespace="graceful")


class Drainable(Protocol):
    """What a drain works on, in the order of its calls.  Reactor thread."""

    def last_requests(self, quiet: bool) -> None:
        """From now on every answer is its connection's last.

        :param quiet: nobody sends requests on idle connections any more: they may be closed at once.
        """

    def close_listeners(self) -> Deferred[None]:
        """Close the listening sockets; fire when all are closed and have been said to be."""

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing is in flight and no connection is left."""

    def take_down(self) -> Deferred[None]:
        """End what is left, as honestly as can be; fire when nothing more can be done."""

    def gone(self, seconds: float) -> None:
        """The drain is over.

        :param seconds: how long it took.
        """


class Inputs(Protocol):
    """What can happen to a drain."""

    def begin(self, quiet: bool) -> None:
        """Somebody wants the server to stop."""

    def hurry(self) -> None:
        """Somebody wants it to stop waiting."""

    def closed(self) -> None:
        """The listening sockets are closed."""

    def emptied(self) -> None:
        """Nothing is left to wait for."""

    def overdue(self) -> None:
        """The deadline has come."""

    def ended(self) -> None:
        """The takedown is through."""


@define(eq=False)
class Core:
    """What the machine works with.

    :ivar clock: times the deadline; monotonic.
    :ivar deadline: how long to wait for exchanges after the sockets are closed, seconds.
    :ivar began: when the drain began, seconds of the clock; None before.
    :ivar until: when the deadline comes, seconds of the clock; None before the sockets are closed.
    :ivar state: the state's name, for people and the status.
    """

    clock: IReactorTime
    work: Drainable
    deadline: float
    began: float | None = None
    until: float | None = None
    state: str = "serving"
    hurried: bool = False
    timer: IDelayedCall | None = None
    machine: Any = None
    waiting: list[Deferred[None]] = field(factory=list)

    def wait(self) -> None:
        """Sockets are closed: wait for what is left, until the deadline."""
        self.state = "finishing"
        delay = 0.0 if self.hurried else self.deadline
        self.until = self.clock.seconds() + delay
        self.timer = self.clock.callLater(delay, self.machine.overdue)
        self.work.all_gone().addCallback(lambda ignored: self.machine.emptied())

    def finish(self) -> None:
        """Everything has ended, one way or the other."""
        self.state = "gone"
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        assert self.began is not None
        self.work.gone(self.clock.seconds() - self.began)
        for waiter in self.waiting:
            waiter.callback(None)
        self.waiting.clear()


builder = TypeMachineBuilder(Inputs, Core)
serving = builder.state("serving")
closing = builder.state("closing")
finishing = builder.state("finishing")
takedown = builder.state("takedown")
gone = builder.state("gone")


@serving.upon(Inputs.begin).to(closing)
def begin(inputs: Inputs, core: Core, quiet: bool) -> None:
    """Close the door first: a wait while requests still come in has no end."""
    core.state = "closing"
    core.began = core.clock.seconds()
    core.work.last_requests(quiet)
    core.work.close_listeners().addCallback(lambda ignored: inputs.closed())


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
    core.hurried = True
    begin(inputs, core, True)


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
@finishing.upon(Inputs.hurry).to(takedown)
def too_late(inputs: Inputs, core: Core) -> None:
    """What is still there is taken down."""
    core.state = "takedown"
    if core.timer is not None and core.timer.active():
        core.timer.cancel()
    core.work.take_down().addCallback(lambda ignored: inputs.ended())


@takedown.upon(Inputs.ended).to(gone)
def taken_down(inputs: Inputs, core: Core) -> None:
    """The other end."""
    core.finish()


# What comes too late changes nothing.
for late in (takedown, gone):
    late.upon(Inputs.emptied).loop().returns(None)
    late.upon(Inputs.overdue).loop().returns(None)
    late.upon(Inputs.hurry).loop().returns(None)
gone.upon(Inputs.begin).loop().returns(None)

Machine = builder.build()


class Drain:
    """One server's way out.

    :param clock: a monotonic `IReactorTime`.
    :param work: what is drained.
    :param deadline: seconds to wait after the sockets are closed.
    """

    def __init__(self, clock: IReactorTime, work: Drainable, deadline: float) -> None:
        self._core = Core(clock, work, deadline)
        self._machine: Inputs = Machine(self._core)
        self._core.machine = self._machine

    @property
    def state(self) -> str:
        """`serving`, `closing`, `finishing`, `takedown` or `gone`."""
        return self._core.state

    def begin(self, quiet: bool = False) -> Deferred[None]:
        """Begin to stop; a second call changes nothing.  Fires when the drain is over.  Reactor thread.

        :param quiet: nobody sends requests on idle connections any more: close them at once.
        """
        done: Deferred[None] = Deferred()
        if self._core.state == "gone":
            done.callback(None)
            return done
        self._core.waiting.append(done)
        self._machine.begin(quiet)
        return done

    def hurry(self) -> None:
        """Take down at once what is still there.  Reactor thread."""
        self._machine.hurry()
