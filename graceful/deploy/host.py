"""What a deploy needs of the machine: processes, commands, questions over HTTP, and time.

These are the seams.  A rollout and all that decides is written against them and never waits by itself, so that every
time limit and every failure is tested with doubles and a clock that somebody turns.
:mod:`graceful.deploy.local_host` is the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import frozen

from graceful.deploy import DeployError


class ProcessError(DeployError):
    """A server does not answer at its control socket, or will not."""


class ServerHandle(Protocol):
    """One server process, found at a control socket.  None of its methods waits for longer than a moment.

    :ivar pid: its number.
    """

    pid: int

    def status(self) -> Mapping[str, Any]:
        """What it says of itself.

        :raises ProcessError: it does not.
        """

    def listen(self) -> None:
        """Have it say how its drain ends, once it does.

        :raises ProcessError: it has not heard.
        """

    def stop(self, quiet: bool) -> None:
        """Have it stop.

        :param quiet: the balancer sends it nothing any more.
        :raises ProcessError: it has not heard.
        """

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""

    def gone(self) -> bool:
        """Whether it has ended."""

    def last_word(self) -> Mapping[str, Any] | None:
        """How its drain has ended, as it says itself; None if it has not said so, or not yet."""

    def close(self) -> None:
        """Nobody asks any more."""


class Command(Protocol):
    """A shell command that was started."""

    def status(self) -> int | None:
        """Its exit status; None while it runs."""

    def said(self) -> list[str]:
        """The last lines of what it has said."""

    def leave(self) -> None:
        """It may run on without us."""


@frozen
class Reply:
    """What a URL was answered with.

    :ivar status: 0 if there was no answer.
    :ivar text: what is wrong, for people.
    """

    status: int
    text: str


class Question(Protocol):
    """A request over HTTP that is on its way."""

    def reply(self) -> Reply | None:
        """The answer; None while there is none."""


class Host(Protocol):
    """The machine that a deploy runs on."""

    def seconds(self) -> float:
        """A monotonic clock."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def serving(self, control: str) -> ServerHandle | None:
        """Who answers at a control socket; None if nobody does.

        :raises ProcessError: it cannot be found out.
        """

    def leaving(self, control: str) -> list[ServerHandle]:
        """The servers that have given a control socket up, and still live."""

    def run(self, command: str, name: str) -> Command:
        """Start a shell command.

        :param name: of the instance, or of the step; its output goes to a file of this name.
        """

    def ask(self, url: str) -> Question:
        """Ask a URL."""

    def tail(self, path: str) -> list[str]:
        """The last lines of a log."""
