"""An exchange that was taken down: the facts at that moment, and what became of its thread."""

from __future__ import annotations

from typing import Any

from attrs import define, field

from graceful.web.exchange import PHASES, Exchange


@define(eq=False)
class Interruption:
    """An exchange that was taken down.  Reactor thread.

    :ivar why: in words that follow "taken down".
    :ivar age: seconds from its first byte until its takedown.
    :ivar phase: how far it was, one of `PHASES`.
    :ivar sent: bytes of its answer.
    :ivar stack: of its thread; empty if it had none.
    :ivar story: what was done to bring its thread down, in words; empty if it had none.
    :ivar status: that its client got; 0 for none.
    :ivar environ: of the WSGI application.
    :ivar reported: whether its report was made.
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
    status: int = 0
    environ: dict[str, Any] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, exchange: Exchange, why: str, now: float, stack: str) -> Interruption:
        """Return an exchange's facts at this moment.

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
        """Set what became of the thread.

        :param down: whether the thread has come down; False if it is abandoned.
        :param story: what was done to it, in words.
        """
        self.down = down
        self.story = story

    @property
    def outcome(self) -> str:
        """What became of the exchange."""
        return "abandoned" if self.down is False else "taken down"
