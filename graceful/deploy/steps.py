"""What all steps of a rollout have in common: how they wait, how they are told, and how they fail.

A step is a generator: it yields the seconds until it wants to go on, and never blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar

from graceful.deploy import DeployError

T = TypeVar("T")
Steps = Generator[float, None, T]
Tell = Callable[..., object]

#: Seconds between two looks: a deploy has many waits, and none should be felt.
TICK: Final = 0.05


class Failed(DeployError):
    """The rollout cannot go on.

    :ivar lines: the end of a log that may say more.
    """

    def __init__(self, text: str, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.lines = list(lines)


class BadVersion(Failed):
    """The new version does not start, or does not work: a rollback may help."""


class StepLog:
    """Tells the steps of one instance's rollout.

    :param name: of the instance.
    :param tell: called with the name, the step, a text for people, and values for programs.
    :ivar step: the name of the step that the rollout is in.
    :ivar text: the last thing that was told.
    """

    def __init__(self, name: str, tell: Tell) -> None:
        self.step = "waiting"
        self.text = ""
        self._name = name
        self._tell = tell

    def enter(self, step: str, text: str = "", **values: Any) -> None:
        """The rollout is in a step from now on; tell it if there is a text."""
        self.step = step
        if text:
            self.tell(step, text, **values)

    def tell(self, step: str, text: str, **values: Any) -> None:
        """Tell something, without being in another step."""
        self.text = text
        self._tell(self._name, step, text, **values)

    def note_once(self, text: str) -> None:
        """Note something, unless it is what was told last."""
        if self.text != text:
            self.tell("note", text)
