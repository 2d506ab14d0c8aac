"""What a deploy needs of the machine: processes, commands, questions over HTTP, and time.

Rollouts and the orchestrator use only these interfaces and never wait by themselves, so that tests can try every time
limit and every failure with doubles and a virtual clock.
:mod:`graceful.deploy.local_host` is the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from attrs import frozen

from graceful.deploy import DeployError


class ProcessError(DeployError):
    """A server does not answer at its control socket, or refuses."""


class ServerHandle(Protocol):
    """One server process, found at a control socket.  None of its methods waits for longer than a moment.

    :ivar pid: its number.
    """

    pid: int

    def status(self) -> Mapping[str, Any]:
        """Returns its status.

        :raises ProcessError: it does not answer.
        """

    def listen(self) -> None:
        """Wait for its last word, in the background.

        :raises ProcessError: it cannot be connected to.
        """

    def stop(self, quiet: bool) -> None:
        """Tell it to stop.

        :param quiet: the balancer sends it nothing any more.
        :raises ProcessError: it does not answer.
        """

    def terminate(self) -> None:
        """SIGTERM."""

    def kill(self) -> None:
        """SIGKILL."""

    def gone(self) -> bool:
        """Whether it has ended."""

    def last_word(self) -> Mapping[str, Any] | None:
        """Returns how its drain has ended, as it has told; None if it has not, or not yet."""

    def close(self) -> None:
        """Close the connections to it."""


class Command(Protocol):
    """A shell command that was started."""

    def status(self) -> int | None:
        """Returns its exit status; None while it runs."""

    def said(self) -> list[str]:
        """Returns the last lines of its output."""

    def leave(self) -> None:
        """Let it run on without the deploy."""


@frozen
class Reply:
    """The answer of a URL.

    :ivar status: 0 if there was no answer.
    :ivar text: what is wrong, for people.
    """

    status: int
    text: str


class Question(Protocol):
    """A request over HTTP that is on its way."""

    def reply(self) -> Reply | None:
        """Returns the answer; None while there is none."""


class Host(Protocol):
    """The machine that a deploy runs on."""

    def seconds(self) -> float:
        """Returns the time of a monotonic clock."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def serving(self, control: str) -> ServerHandle | None:
        """Returns the server that answers at a control socket; None if there is none.

        :raises ProcessError: this cannot be found out.
        """

    def leaving(self, control: str) -> list[ServerHandle]:
        """Returns the servers that have given a control socket up, and still live."""

    def run(self, command: str, name: str) -> Command:
        """Start a shell command.

        :param name: of the instance, or of the step; its output goes to a file of this name.
        """

    def ask(self, url: str) -> Question:
        """Ask a URL."""

    def tail(self, path: str) -> list[str]:
        """Returns the last lines of a log."""
