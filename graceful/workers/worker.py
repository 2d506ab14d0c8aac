"""One worker, as its supervisor sees it: a process that is started, gets sockets, serves, drains and ends.

::

    starting ─ready─▶ ready ─accepts─▶ serving ─succeeded, asks to close─▶ leaving ─▶ gone
        └──────────────┴──────────────────┴───────────── it dies ──────────────────────▲

That it has ended is known from the kernel, by a descriptor of the process; of what it has said before, only its last
word counts then.  A worker that is alive but whose channel is closed is replaced.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from enum import Enum
from typing import Any, Final, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from graceful.control.client import ANSWERS_IN
from graceful.humanize import ending
from graceful.process.child import Child
from graceful.process.origin import Origin
from graceful.sockets.binding import BoundSocket
from graceful.takeover.connection_links import Link, make_link
from graceful.workers.channel import AT_ONCE, PROTOCOL, Channel
from graceful.workers.fork_server import ForkedProcess
from graceful.workers.parent import VARIABLE
from graceful.workers.slot_sockets import HeldSocket
from graceful.workers.worker_client import WorkerClient


class WorkerState(str, Enum):
    """How far a worker is, as its supervisor sees it.

    Its own :class:`graceful.drain.state.State` is in its status.  To its supervisor a worker is `leaving` from
    the moment it should accept nothing more, whatever its own drain still waits for.
    """

    STARTING = "starting"
    READY = "ready"
    SERVING = "serving"
    LEAVING = "leaving"
    GONE = "gone"

    __str__ = str.__str__


#: Seconds that a process may take to die after its descriptors were closed.
DIES_IN: Final = 1.0


class WorkerEvents(Protocol):
    """What a worker reports to its pool.  Reactor thread; before it runs, the main thread."""

    def ready(self, worker: WorkerProcess) -> None:
        """The worker has imported the application and is ready to accept."""

    def accepts(self, worker: WorkerProcess) -> None:
        """The worker accepts."""

    def closing(self, worker: WorkerProcess) -> None:
        """The worker asks whether it may close its sockets, and waits for the answer."""

    def changed(self, worker: WorkerProcess, files: list[str]) -> None:
        """Files of the application that the worker runs have changed."""

    def closed(self, worker: WorkerProcess) -> None:
        """The worker has closed its sockets."""

    def ended(self, worker: WorkerProcess) -> None:
        """The process of the worker has ended."""


def not_forked(release: Origin, number: int, line: int, control: int) -> None:
    """Returns None: there is no process that has imported the release, to be forked."""


@frozen
class SpawnContext:
    """What a worker is started with.

    :ivar reactor: Twisted's.
    :ivar clock: monotonic.
    :ivar spawn: as :class:`subprocess.Popen`.
    :ivar fork: makes the process from one that has imported the release, if there is such a one: see
        :meth:`graceful.workers.preloading.Preloading.fork`.
    """

    reactor: Any
    clock: Any
    spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen
    fork: Callable[[Origin, int, int, int], ForkedProcess | None] = not_forked


class WorkerProcess:
    """One worker process.  Reactor thread.

    :param number: of the slot that it works in.
    :param release: what it is to run.
    :param sockets: what it is to accept from.
    :param events: is told.
    :raises OSError: it cannot be started.
    :ivar pid: its process.
    :ivar state: `starting`, `ready`, `serving`, `leaving` or `gone`.
    :ivar sockets: what it has got.
    :ivar word: how it has ended, in its own words; None if it had no time for them.
    :ivar status: the exit status, negative for a signal; None while it lives.
    :ivar why: why it has not started, or what it was ended for; empty if nothing is known.
    :ivar error: why it has not started, with the stack of the import; empty if that is not known.
    :ivar picture: what it was like when it was last asked; there when it has ended.
    :ivar closed: it has closed its sockets.
    :ivar moves: its connections can move: its release knows how.
    :ivar taker: takes its connections, now that it leaves; None if they stay.
    """

    def __init__(
        self,
        number: int,
        release: Origin,
        sockets: Sequence[HeldSocket],
        events: WorkerEvents,
        context: SpawnContext,
    ) -> None:
        self.number = number
        self.release = release
        self.sockets = list(sockets)
        self.state = WorkerState.STARTING
        self.word: dict[str, Any] | None = None
        self.status: int | None = None
        self.why = self.error = ""
        self.picture: dict[str, Any] = {}
        self.closed = self.moves = False
        self.taker: WorkerProcess | None = None
        self._events = events
        self._since: float | None = None
        self._until: float | None = None
        self._deaf: IDelayedCall | None = None
        self._clock = context.clock
        with ExitStack() as undo:
            ours, theirs = socket.socketpair()
            self.channel = Channel(ours)
            undo.callback(self.channel.close)
            with theirs:
                control, its_control = socket.socketpair()
                undo.callback(control.close)
                with its_control:
                    line, order = theirs.fileno(), its_control.fileno()
                    process = context.fork(release, number, line, order) or self._spawn(context.spawn, line, order)
            undo.callback(_end, process)
            self.pid = process.pid
            self.client = WorkerClient(context.reactor, context.clock, control)
            undo.callback(self.client.close)
            self._say_sockets(self.sockets, pid=os.getpid())
            self.channel.watch(context.reactor, self._on_message, self._on_close)
            self.child = Child(context.reactor, process, self._ended)
            undo.pop_all()

    def _spawn(
        self, spawn: Callable[..., subprocess.Popen[bytes]], line: int, control: int
    ) -> subprocess.Popen[bytes]:
        release = self.release
        said = {"number": self.number, "line": line, "control": control, "directory": release.application}
        return spawn(
            release.program(),
            cwd=release.directory,
            env={**release.environment, VARIABLE: json.dumps(said)},
            stdin=subprocess.DEVNULL,
            pass_fds=(line, control),
            start_new_session=True,  # so that Ctrl-C is the supervisor's alone
        )

    def __str__(self) -> str:
        return f"worker {self.number}, process {self.pid}"

    @property
    def has_served(self) -> bool:
        """Whether it has ever accepted."""
        return self._since is not None

    @property
    def served_for(self) -> float:
        """Seconds since it accepts, until it has ended; 0 if it has not yet."""
        if self._since is None:
            return 0.0
        return float((self._clock.seconds() if self._until is None else self._until) - self._since)

    @property
    def lost(self) -> int:
        """How many exchanges it had in flight when it was last asked, if it had no time for a last word."""
        return 0 if self.word is not None else int(self.picture.get("in_flight_count", 0))

    # -- what it is told ----------------------------------------------------------------------------------

    def _say_sockets(self, sockets: Sequence[HeldSocket], **values: Any) -> None:
        for first in range(0, max(1, len(sockets)), AT_ONCE):
            some = sockets[first : first + AT_ONCE]
            self.channel.send(
                "sockets",
                [one.bound.socket.fileno() for one in some],
                protocol=PROTOCOL,
                sockets=[
                    {"key": one.key, "name": one.bound.name, "endpoint": _endpoint(one.bound), "ours": one.ours}
                    for one in some
                ],
                more=first + AT_ONCE < len(sockets),
                **values,
            )

    def accept(self) -> None:
        """Tell the worker to accept."""
        self.channel.send("accept")

    def accept_also(self, sockets: Sequence[HeldSocket]) -> None:
        """Tell the worker to accept from these sockets, too."""
        more = [one for one in sockets if one not in self.sockets]
        if more:
            self.sockets += more
            self._say_sockets(more)

    def release_sockets(self, sockets: Sequence[HeldSocket]) -> None:
        """Tell the worker to let go of these sockets: another worker accepts from them."""
        self.sockets = [one for one in self.sockets if one not in sockets]
        self.channel.send("release", keys=_keys(sockets))

    def say_ours(self) -> None:
        """Tell the worker which of its sockets no process outside of this instance holds."""
        self.channel.send("ours", keys=_keys([one for one in self.sockets if one.ours]))

    def say_broken(self, text: str | None) -> None:
        """Tell the worker why the code that should replace it cannot be imported; None if it can."""
        self.channel.send("broken", text=text)

    def give_connections(self, sock: socket.socket) -> None:
        """Tell the worker which process takes its connections: the one at the other end of a socket, closed here."""
        with sock:
            self.channel.send("give", [sock.fileno()])

    def take_connections(self, link: Link) -> None:
        """Tell the worker to take in the connections of another process; the link is closed here."""
        try:
            self.channel.send("take", link.descriptors(), pid=link.pid)
        finally:
            link.close()

    def link(self) -> Link:
        """Returns a link on which this worker's connections move.

        :raises OSError: there are no descriptors left.
        """
        return make_link(self.child.fileno(), self.pid, self.give_connections)

    def succeeded(
        self,
        pid: int,
        handed: Sequence[HeldSocket],
        alone: Sequence[HeldSocket] = (),
        served: Sequence[HeldSocket] = (),
    ) -> None:
        """Tell the worker to drain: another process accepts.

        :param pid: the id of that process.
        :param handed: the sockets from which it accepts.
        :param alone: those of the other sockets that no other process holds.
        :param served: those of the other sockets whose address that process serves on another socket.
        """
        if self.state == WorkerState.SERVING:
            self.state = WorkerState.LEAVING
        self.channel.send("succeeded", pid=pid, handed=_keys(handed), alone=_keys(alone), served=_keys(served))

    def close(self, pid: int, alone: Sequence[HeldSocket] = ()) -> None:
        """Tell the worker that it may close its sockets.

        :param pid: the process that accepts instead; 0 for none.
        :param alone: the sockets that no other process holds.
        """
        self.channel.send("close", pid=pid, alone=_keys(alone))

    def ask(
        self, method: str, target: str, values: dict[str, Any] | None = None, timeout: float = ANSWERS_IN
    ) -> Deferred[Any]:
        """Ask at its control; fails with a :class:`~graceful.control.client.ClientError`."""
        return self.client.ask(method, target, values, timeout)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; its number cannot be another's before it was waited for."""
        if self.status is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.child.fileno(), number)

    def kill(self, why: str) -> None:
        """End it before it accepts, and believe nothing more of it.

        :param why: for people.
        """
        self.why, self.state = why, WorkerState.LEAVING
        self.send_signal(signal.SIGKILL)

    # -- what it says -------------------------------------------------------------------------------------

    def _on_message(self, message: dict[str, Any]) -> None:
        word = message.pop("word")
        if word == "gone":
            self.word = message
        elif word == "failed":
            self.why, self.error = str(message.get("why")), str(message.get("error") or "")
        elif self.state == WorkerState.GONE:
            pass  # it was about to, and has died
        elif word == "ready" and self.state == WorkerState.STARTING:
            self.state = WorkerState.READY
            self.moves = message.get("moves") is True
            self._events.ready(self)
        elif word == "accepts" and self.state == WorkerState.READY:
            self.state, self._since = WorkerState.SERVING, self._clock.seconds()
            self._events.accepts(self)
        elif word == "changed" and self.state == WorkerState.SERVING:
            self._events.changed(self, [str(file) for file in message.get("files", ())])
        elif word == "closing":
            self._events.closing(self)
        elif word == "closed":
            self.closed = True
            self._events.closed(self)

    def _on_close(self) -> None:
        """The channel is closed, mostly because the worker dies, which is known in a moment."""
        self._deaf = self._clock.callLater(DIES_IN, self._is_deaf)

    def _is_deaf(self) -> None:
        """The worker lives without a channel: kill it, or, if it serves, treat it as one that stops."""
        self._deaf = None
        if self.state in (WorkerState.STARTING, WorkerState.READY):
            self.kill("it can be heard no more")
        else:
            self._events.closing(self)

    def _ended(self, child: Child, status: int) -> None:
        self.state, self.status, self.closed, self._until = WorkerState.GONE, status, True, self._clock.seconds()
        self.channel.receive_rest()
        self.client.close()
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None
        self._events.ended(self)

    def how(self) -> str:
        """Returns how the worker has ended, for people."""
        if self.why:
            return self.why
        assert self.status is not None
        return ending(self.status)


def _endpoint(bound: BoundSocket) -> str | None:
    """Returns the `--listen` string of a socket, which says what is spoken there."""
    return bound.address.text if bound.address is not None else None


def _keys(sockets: Sequence[HeldSocket]) -> list[int]:
    return [one.key for one in sockets]


def _end(process: subprocess.Popen[bytes] | ForkedProcess) -> None:
    process.kill()
    process.wait()
