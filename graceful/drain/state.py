"""What others see of a drain: the state that an instance is in, and at the end how the drain has gone."""

from __future__ import annotations

from enum import Enum

from attrs import frozen


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
