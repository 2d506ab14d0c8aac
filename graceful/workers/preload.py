"""`--preload`: one process imports the application and becomes each worker by a fork, so that they share its memory.

A worker that imports the application has all of it in memory of its own: a framework and its models are 50 to 300 MB,
times the number of workers.  A forked process shares what its parent has, page by page, until one of them writes to a
page.  So a *fork server* imports the application once for each release, has no thread and no reactor, and serves
nothing: it waits for the supervisor's orders.

    supervisor                                          fork server
    ──────────                                          ───────────
                                               ◀──      ready {caveats}, unfit {why} or failed {why, error}
    fork {number, directory} (2 descriptors)   ──▶      forks
                                               ◀──      forked {pid} or refused {why}
    wait {pid}                                 ──▶      collects that child, which has ended
                                               ◀──      ended {pid, status}

All of this happens in the middle of an ordinary start, while options are parsed: before twistd makes a reactor, and
before the server starts a thread.  In the child the start goes on as that of a worker that has imported the
application itself.  The fork server never collects a child without being asked, so the number of a worker stays its
own until the supervisor knows that it has ended.

Not every application can be forked: :mod:`graceful.process.fork_hazards` looks, and the supervisor then has each
worker import the application.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, NoReturn

from graceful.process.fork_hazards import fork_caveats, fork_hazards, open_descriptors
from graceful.process.parent_death import end_with_parent, outlive_parent
from graceful.workers.channel import Channel, ChannelLost
from graceful.workers.parent import Parent, inherited, say_failed

#: Tells a process that it is a fork server: its descriptor, the supervisor's process, the directory of its release.
VARIABLE: Final = "GRACEFUL_FORK_SERVER"

#: What each worker imports later, short of a reactor: it is to be shared, too.
EVERY_WORKERS: Final = (
    "graceful.asgi",
    "graceful.control.metrics",
    "graceful.server.app_server",
    "graceful.workers.supervised_sockets",
    "graceful.wsgi",
)

#: The same of what may not be installed; behind the application, which may have to set something before.
AND_IF_THERE: Final = ("prometheus_client", "twisted.internet.ssl", "uvloop")


class PreloadError(Exception):
    """There is no fork server to be.  Its text is one line for the operator."""


class Preload:
    """The fork server's own view of itself.  Main thread, which is its only one.

    :param said: what the environment says.
    :param fork: as :func:`os.fork`.
    :param leave: as :func:`os._exit`: what the application has registered with `atexit` is for workers.
    :ivar directory: of the release that it is to import; None if the command line names none.
    """

    def __init__(
        self,
        said: str,
        fork: Callable[[], int] = os.fork,
        leave: Callable[[int], NoReturn] = os._exit,
    ) -> None:
        try:
            told = json.loads(said)
            self._supervisor = int(told["supervisor"])
            self.directory: str | None = told["directory"]
            self._channel = Channel(inherited(int(told["line"])))
        except (KeyError, TypeError, ValueError, OSError):
            raise PreloadError(f"{VARIABLE} is for a supervisor to set, and says nothing that can be used") from None
        self._fork_process = fork
        self._leave = leave

    def failed(self, why: str, error: str = "") -> None:
        """Say why the application cannot be imported; into the log, if the supervisor cannot be reached.

        :param error: the same, with the stack.
        """
        say_failed(self._channel, "fork server", why, error)

    def serve(self, load: Callable[[], Any]) -> tuple[Parent, Any]:
        """Import the application, and fork for as long as the supervisor wants workers.

        :param load: imports the application.
        :returns: in each worker, and only there: its supervisor, and the application.
        """
        if not end_with_parent(self._supervisor):  # an import may hang
            self._leave(1)
        for module in EVERY_WORKERS:
            import_module(module)
        before = open_descriptors()
        application = load()
        for module in AND_IF_THERE:
            with suppress(ImportError):
                import_module(module)
        hazards = fork_hazards(before)
        if hazards:
            self._channel.send("unfit", why=f"its import leaves behind {', '.join(hazards)}")
            self._leave(0)
        caveats = fork_caveats()  # before objects are frozen, where it cannot look
        # What is there now is never written to by a collection, in any of the processes.
        gc.collect()
        gc.freeze()
        # A signal to all processes of a service is for the workers, for which this process has to answer to the end.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        outlive_parent()
        self._channel.send("ready", caveats=caveats)
        while True:
            try:
                message = self._channel.receive(None)
            except ChannelLost:
                self._leave(0)
            if message["word"] == "wait":
                pid = int(message["pid"])
                self._channel.send("ended", pid=pid, status=_collect(pid))
            elif message["word"] == "fork" and (parent := self._fork(message)) is not None:
                return parent, application

    def _fork(self, message: dict[str, Any]) -> Parent | None:
        """Fork.  Returns, in the worker, its supervisor; else None."""
        descriptors = [one for one in (self._channel.take_descriptor() for _ in range(2)) if one is not None]
        try:
            if len(descriptors) < 2:
                raise OSError("too many open files")
            me = os.getpid()
            pid = self._fork_process()
            if pid == 0:
                return self._become_worker(message, descriptors, me)
            self._channel.send("forked", pid=pid)
        except OSError as error:
            self._channel.send("refused", why=error.strerror or str(error))
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _become_worker(self, message: dict[str, Any], descriptors: list[int], fork_server: int) -> Parent:
        self._channel.close()
        with suppress(OSError):
            os.setsid()  # so that Ctrl-C is the supervisor's alone
        line, control = descriptors
        said = {"number": message["number"], "line": line, "control": control, "directory": message["directory"]}
        # If the supervisor ends, the fork server does, and this process with it, as long as it does not serve.
        parent = Parent(json.dumps(said), lambda supervisor: end_with_parent(fork_server))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return parent


def _collect(pid: int) -> int | None:
    """Collect a child that has ended.  Returns its exit status, negative for a signal; None if it is no child."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
