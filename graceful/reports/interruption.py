"""What was interrupted: the facts about one exchange at the moment of its takedown, and what became of its thread."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from graceful.web.exchange import PHASES, Exchange


@define(eq=False)
class Interruption:
    """An exchange that was taken down.  Reactor thread.

    :ivar why: when or by whom, in words that follow "taken down".
    :ivar age: seconds from its first byte until its takedown.
    :ivar phase: how far it was, one of `PHASES`.
    :ivar story: what was done to bring its thread down, in words; empty if it had none.
    :ivar environ: the application's.
    :ivar reported: its report was made.
    :ivar down: whether its thread has come down; None while that is not known, or if it had none.
    """

    exchange: Exchange
    why: str
    age: float
    phase: str
    sent: int
    stack: str = ""
    story: list[str] = field(factory=list)
    down: bool | None = None
    reported: bool = False
    environ: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, exchange: Exchange, why: str, now: float, stack: str) -> Interruption:
        """Write down how far an exchange is.

        :param now: monotonic seconds.
        :param stack: of its thread; empty if it has none.
        """
        return cls(
            exchange,
            why,
            now - exchange.started,
            PHASES[exchange.phase],
            exchange.sent,
            stack,
            environ=exchange.environ,
        )

    def thread_ended(self, down: bool, story: list[str]) -> None:
        """Write down what became of its thread.

        :param down: whether the thread has come down; False if it is abandoned.
        :param story: what was done to it, in words.
        """
        self.down = down
        self.story = story

    @property
    def outcome(self) -> str:
        """What became of it."""
        return "abandoned" if self.down is False else "taken down"
