"""The states that an instance is in: what the status says, and what commands wait for.

Commands import this module, so it imports next to nothing.
"""

from __future__ import annotations

from enum import Enum


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
