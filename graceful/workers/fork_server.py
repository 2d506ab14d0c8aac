"""A fork server, as the supervisor sees it: a process that has imported a release, and makes its workers by forks.

The workers of a release are children of its fork server (:mod:`graceful.workers.preload`), which therefore lives as
long as they do: it alone learns their exit status.

The supervisor waits for its answers, since they take as long as a fork, some milliseconds.  One that does not answer
is killed, which ends none of the workers that serve.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Final

from twisted.logger import Logger

from graceful.control import client
from graceful.humanize import ending
from graceful.process.child import Child
from graceful.process.origin import Origin
from graceful.workers.channel import Channel, ChannelLost
from graceful.workers.preload import VARIABLE
from graceful.workers.reading import read_what_comes

log = Logger(namespace="graceful")

#: Seconds that a fork server may take for an answer; a fork of a large process takes tens of milliseconds.  The
#: supervisor waits for it, and does not answer meanwhile: its own clients give up later.
ANSWERS_IN: Final = 0.6 * client.ANSWERS_IN


class ForkedProcess:
    """A worker's process that a fork server has made; used as a :class:`subprocess.Popen` is.

    :ivar pid: its process; no other has this number before :meth:`wait` returns, if the fork server lives.
    """

    def __init__(self, pid: int, fork_server: ForkServer) -> None:
        self.pid = pid
        self._fork_server = fork_server

    def kill(self) -> None:
        """Kill it (SIGKILL)."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Returns the exit status, negative for a signal, of this process, which has ended."""
        return self._fork_server.wait(self.pid)


class ForkServer:
    """One fork server.  Reactor thread; before it runs, the main thread.

    :param release: what it is to import.
    :param reactor: Twisted's.
    :param changed: called when it is ready, or lost.
    :param spawn: as :class:`subprocess.Popen`.
    :raises OSError: it cannot be started.
    :ivar imported: it has imported the release, and was able to fork.
    :ivar lost: it can fork no more, or never could.
    :ivar why: why it is lost, for people.
    :ivar failed: the application cannot be imported, so that no worker could.
    :ivar error: the same, with the stack of the import; empty if that is not known.
    :ivar forked: the processes that it has made, and that have not been waited for.
    """

    def __init__(
        self,
        release: Origin,
        reactor: Any,
        changed: Callable[[ForkServer], object],
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self.release = release
        self.imported = self.lost = self.failed = False
        self.why = self.error = ""
        self.forked: set[int] = set()
        self._changed = changed
        self._retired = False
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            self._channel = Channel(ours)
            undo.callback(self._channel.close)
            with theirs:
                said = {"line": theirs.fileno(), "supervisor": os.getpid(), "directory": release.application}
                process = spawn(
                    release.program(),
                    cwd=release.directory,
                    env={**release.environment, VARIABLE: json.dumps(said)},
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            undo.callback(process.wait)
            undo.callback(process.kill)
            self.pid = process.pid
            self._child = Child(reactor, process, self._ended)
            self._channel.watch(reactor, self._on_message)
            undo.pop_all()

    def __str__(self) -> str:
        return f"fork server, process {self.pid}"

    # -- the import ---------------------------------------------------------------------------------------

    def wait_until_imported(self) -> None:
        """Wait until it is ready, or lost.  Blocks: before the reactor runs."""
        while not (self.imported or self.lost):
            read_what_comes((self._channel, self._child))

    def _on_message(self, message: dict[str, Any]) -> None:
        word = message["word"]
        if self.imported or self.lost:
            return
        if word == "ready":
            self.imported = True
            for caveat in message.get("caveats", ()):
                log.warn("preload: {caveat}", caveat=caveat)
            self._changed(self)
        elif word == "unfit":
            self._lose(str(message.get("why")))
        elif word == "failed":
            self.fail(str(message.get("why")), str(message.get("error") or ""))

    def fail(self, why: str, error: str = "") -> None:
        """Note that no worker could import the release.

        :param error: the same, with the stack of the import.
        """
        self.failed, self.error = True, error
        self._lose(why)

    def _ended(self, child: Child, status: int) -> None:
        self._channel.receive_rest()
        self._lose(f"it has ended with {ending(status)}")

    def _lose(self, why: str) -> None:
        """Use it no more."""
        self._channel.close()
        if not self.lost:
            self.lost, self.why = True, why
            if not self._retired:
                self._changed(self)

    # -- workers ------------------------------------------------------------------------------------------

    def fork(self, number: int, line: int, control: int) -> ForkedProcess:
        """Make a worker's process.

        :param number: of its slot.
        :param line: its end of the channel to the supervisor.
        :param control: the socket on which it takes orders.
        :raises OSError: it cannot; if it has not answered, it is lost.
        """
        self._channel.send("fork", (line, control), number=number, directory=self.release.application)
        pid = int(self._answer("forked")["pid"])
        self.forked.add(pid)
        return ForkedProcess(pid, self)

    def wait(self, pid: int) -> int:
        """Collect a process that has ended.

        :returns: the exit status, negative for a signal; that of SIGKILL if the fork server is lost, and with it the
            status.
        """
        status = None
        with suppress(OSError):
            self._channel.send("wait", pid=pid)
            status = self._answer("ended")["status"]
        self.forked.discard(pid)
        self._leave_if_done()
        return -signal.SIGKILL if status is None else int(status)

    def _answer(self, word: str) -> dict[str, Any]:
        try:
            answer = self._channel.receive(ANSWERS_IN) if self._channel.open else None
        except ChannelLost as error:
            self.kill()
            self._lose(str(error))
            raise OSError(str(error)) from None
        if answer is None or answer["word"] != word:
            raise OSError(str(answer["why"]) if answer is not None else f"the {self} is lost")
        return answer

    # -- the end ------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """How far it is, for people."""
        return "lost" if self.lost else "retired" if self._retired else "ready" if self.imported else "importing"

    @property
    def there(self) -> bool:
        """Whether its process has not ended yet."""
        return self._child.fileno() >= 0

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self.there:
            self._child.kill()

    def retire(self) -> None:
        """Have it end, once the last of its workers has: it makes no more."""
        self._retired = True
        self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._retired and not self.forked:
            self._channel.close()  # at which it exits
            if not self.imported:
                self.kill()  # it does not look before it has imported
