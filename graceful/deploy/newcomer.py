"""The process that is to serve next: started, and asked whether it serves, is healthy, and works.

Health proves that a process is there, not that the application works: that is what the checks are for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from graceful.deploy.host import Command, Host, ProcessError, ServerHandle
from graceful.deploy.plan import PlannedInstance
from graceful.deploy.steps import BadVersion, StepLog, Steps
from graceful.drain.state import State

#: How often a check is made before it counts as failed, and the seconds between: an application may warm up.
TRIES: Final = 3
BETWEEN_TRIES: Final = 0.5


class Newcomer:
    """Starts the next process of an instance, and finds out whether it is good.

    :param instance: the instance.
    :param host: the machine.
    :param start_within: seconds that the process has until it serves and is healthy.
    :param log: tells the steps.
    :param pause: waits a tick, in which the rollout looks after everything else.
    :ivar pid: the process that serves now; None before one does.
    """

    def __init__(
        self,
        instance: PlannedInstance,
        host: Host,
        start_within: float,
        log: StepLog,
        pause: Callable[[], Steps[None]],
    ) -> None:
        self.pid: int | None = None
        self._instance = instance
        self._host = host
        self._start_within = start_within
        self._log = log
        self._pause = pause
        self._process: ServerHandle | None = None

    def start(self, line: str, known: set[int], word: str = "start") -> Steps[None]:
        """Start the new process, and wait until it serves and is healthy.

        :param line: the command.
        :param known: the processes that have served before.
        :param word: what the command is called.
        """
        self._log.enter(word, line)
        known = known | ({self.pid} if self.pid else set())
        end = self._host.seconds() + self._start_within
        command = self._host.run(line, self._instance.name)
        try:
            while True:
                status = command.status()
                if status:
                    raise BadVersion(f"{word} has ended with status {status}: {line}", self._tail(command))
                new = self._newcomer(known)
                if new is not None:
                    break
                if self._host.seconds() >= end:
                    raise BadVersion(self._why_none_serves(word, status), self._tail(command))
                yield from self._pause()
            self._process, self.pid = new, new.pid
            self._log.enter("serving", f"process {new.pid} serves", pid=new.pid)
            yield from self._healthy(new, command, end)
        finally:
            command.leave()

    def _newcomer(self, known: set[int]) -> ServerHandle | None:
        """Returns a process that serves and was not there before; None if there is none yet."""
        try:
            process = self._host.serving(self._instance.control)
        except ProcessError:
            return None
        if process is None:
            return None
        try:
            if process.pid not in known and process.status()["state"] == State.SERVING:
                return process
        except ProcessError:
            pass  # it is still starting
        process.close()
        return None

    def _why_none_serves(self, word: str, status: int | None) -> str:
        where = f"no new process serves at {self._instance.control} after {self._start_within:g} s"
        if status is None:
            return f"{word} still runs, and {where}"
        return (
            f"{word} returned 0, but {where}; under systemd, `start` of a unit that still stops does nothing: "
            "use one that is gone by then, or `systemctl reload` with a takeover"
        )

    def _healthy(self, new: ServerHandle, command: Command, end: float) -> Steps[None]:
        url = self._instance.health
        if url is None:
            return
        while True:
            reply = yield from self._answer(url)
            if reply.status == 200:
                break
            if new.gone():
                raise BadVersion(f"process {new.pid} has ended again", self._tail(command))
            if self._host.seconds() >= end:
                raise BadVersion(f"{url} says {reply.text}", self._tail(command))
            yield from self._pause()
        self._log.enter("healthy", f"{url} is good")

    def check(self, word: str) -> Steps[None]:
        """Ask the application itself, several times, since it may have to warm up."""
        for url in self._instance.checks:
            for tries_left in reversed(range(TRIES)):
                reply = yield from self._answer(url)
                if reply.status == self._instance.expect:
                    break
                if not tries_left:
                    raise BadVersion(f"{url} says {reply.text}, expected {self._instance.expect}", self._tail(None))
                yield from self._wait(BETWEEN_TRIES)
        if self._instance.checks:
            self._log.enter(word, f"{len(self._instance.checks)} checks are good")

    def _answer(self, url: str) -> Steps[Any]:
        question = self._host.ask(url)
        while (reply := question.reply()) is None:
            yield from self._pause()
        return reply

    def _tail(self, command: Command | None) -> list[str]:
        if self._instance.log is not None:
            return self._host.tail(self._instance.log)
        return command.said() if command is not None else []

    def _wait(self, seconds: float) -> Steps[None]:
        end = self._host.seconds() + seconds
        while self._host.seconds() < end:
            yield from self._pause()

    # -- its end ------------------------------------------------------------------------------------------

    def let_go(self) -> ServerHandle | None:
        """Returns the process, which is the caller's from now on, to be ended; None if there is none any more."""
        process = self._process
        if process is None or process.gone():
            return None
        self._process = None
        return process

    def close(self) -> None:
        """Look no more after the process, which serves."""
        if self._process is not None:
            self._process.close()
