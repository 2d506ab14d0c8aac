"""One server's way out: how a stop is asked for, put off, hurried, and looked at.

Who stops a server wants three things of it: to begin, at most once; to know when the next deadline comes, also
before it is certain; and to be told when it is over, however often and however late he asks.  The order of the
steps, and what each of them waits for, is the chain's (:mod:`graceful.chain`).
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from graceful.chain import Core, Drainable, Inputs, Machine


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
        entered: Callable[[str], object] = lambda state: None,
    ) -> None:
        self._core = Core(clock, work, deadline, download_deadline, lame_duck, entered=entered)
        self._machine: Inputs = Machine(self._core)
        self._core.machine = self._machine

    @property
    def state(self) -> str:
        """`serving`, `lame-duck`, `closing`, `finishing`, `takedown` or `gone`."""
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
            return 0.0, 0.0 if core.state in ("takedown", "gone") else max(0.0, core.closed + deadline - now)
        if core.began is None:
            return core.lame_duck, deadline
        return max(0.0, core.began + core.lame_duck - now) if core.state == "lame-duck" else 0.0, deadline

    def give(self, deadline: float) -> None:
        """Set the first deadline anew, seconds after the sockets are closed."""
        self.extend(deadline - self._core.deadline)

    def extend(self, seconds: float) -> None:
        """Give what is in flight so many seconds more, or fewer.  Changes nothing once it is being taken down."""
        core = self._core
        core.deadline = max(0.0, core.deadline + seconds)
        if core.state == "finishing":
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
        if core.state == "lame-duck":
            self._machine.waddled()
        return done

    def hurry(self) -> None:
        """Take down at once what is still there.  Reactor thread."""
        self._machine.hurry()
