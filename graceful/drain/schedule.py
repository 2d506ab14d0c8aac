"""When each part of a drain is over: the lame duck, and two deadlines that callers may move.

What holds a thread is taken down at the first deadline.  A download holds none, and a site that deploys twenty times
a day would never complete a long one: it is spared until the second.

Callers ask when the next deadline comes also before it is certain.  Then the answer is what follows if everything
takes as long as it may.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from graceful.drain.state import State


class DrainSchedule:
    """Knows what is due when in one drain; has no timer.  Reactor thread, except where something else is said.

    :param clock: monotonic.
    :param deadline: seconds to wait after the sockets are closed.
    :param download_deadline: seconds to wait for what is spared at the deadline; at least the deadline counts.
    :param lame_duck: seconds to go on accepting at first.
    :ivar lame_duck: 0.0 if a successor accepts.
    :ivar quiet: no client sends requests on idle connections any more.
    :ivar hurried: nothing is waited for any more.
    """

    def __init__(self, clock: IReactorTime, deadline: float, download_deadline: float, lame_duck: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._download_deadline = download_deadline
        self.lame_duck = lame_duck
        self.quiet = self.hurried = False
        #: When the drain began, and when the sockets were closed, seconds of the clock; None before.
        self._began: float | None = None
        self._closed: float | None = None
        #: The first deadline has come; it may have been put off since.
        self._deadline_has_come = False

    # -- what has happened --------------------------------------------------------------------------------

    def begin(self) -> None:
        """The drain begins now."""
        self._began = self._clock.seconds()

    def skip_lame_duck(self) -> None:
        """A successor accepts: no balancer needs time to look elsewhere."""
        self.lame_duck = 0.0

    def be_quiet(self) -> None:
        """No client sends requests on idle connections any more."""
        self.quiet = True

    def hurry(self) -> None:
        """Wait for nothing any more."""
        self.hurried = True

    def sockets_closed(self) -> None:
        """The sockets are closed: both deadlines count from the first time that this is said."""
        if self._closed is None:
            self._closed = self._clock.seconds()

    def deadline_came(self) -> None:
        """The time of the next deadline has passed: from now on the second one is the next, if this was the first."""
        self._deadline_has_come = self._clock.seconds() >= self._deadline_at(False)

    # -- the deadlines are moved --------------------------------------------------------------------------

    def set_deadline(self, seconds: float) -> None:
        """Set the first deadline, in seconds from the closing of the sockets."""
        self.extend(seconds - self._deadline)

    def extend(self, seconds: float) -> None:
        """Move the first deadline by `seconds`, which may be negative."""
        self._deadline = max(0.0, self._deadline + seconds)

    # -- what is due when ---------------------------------------------------------------------------------

    @property
    def seconds_since_begin(self) -> float:
        """How long the drain has taken so far."""
        assert self._began is not None
        return self._clock.seconds() - self._began

    @property
    def next_deadline(self) -> float | None:
        """When the next deadline comes, seconds of the clock; None before the sockets are closed."""
        return None if self._closed is None else self._deadline_at(self._past_first_deadline())

    def until_next_deadline(self) -> float:
        """Returns the seconds until something is to be taken down; the sockets are closed."""
        at = self._deadline_at(self._past_first_deadline())
        return 0.0 if self.hurried else max(0.0, at - self._clock.seconds())

    def nothing_is_spared(self) -> bool:
        """Whether the second deadline has come, or a caller is in a hurry; the sockets are closed."""
        return self.hurried or self._clock.seconds() >= self._deadline_at(True)

    def takedown_at(self) -> float | None:
        """Returns when what holds a thread is taken down, seconds of the clock; None while serving.  Any thread."""
        if self._began is None:
            return None
        if self.hurried:
            return self._began
        closed = self._closed
        if closed is None:
            closed = self._began + (0.0 if self.quiet else self.lame_duck)
        return self._deadline + closed

    def seconds_ahead(self, state: State, spared: bool) -> tuple[float, float]:
        """Returns what is ahead if the drain takes as long as it may: seconds as a lame duck, and until the deadline.

        :param state: of the drain.
        :param spared: count until the second deadline.
        """
        now = self._clock.seconds()
        deadline = self._longest(spared)
        if self._closed is not None:
            return 0.0, 0.0 if state.past_deadline else max(0.0, self._closed + deadline - now)
        if self._began is None:
            return self.lame_duck, deadline
        if state != State.LAME_DUCK:
            return 0.0, deadline
        return max(0.0, self._began + self.lame_duck - now), deadline

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
