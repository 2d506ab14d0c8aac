"""A worker pool without processes: its workers send what a test tells them to, and record what they receive."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.process.origin import Origin
from graceful.sockets.binding import BoundSocket
from graceful.workers import worker as process
from graceful.workers import worker_pool as module
from graceful.workers.slot import Slot
from graceful.workers.slot_sockets import HeldSocket, SlotSockets
from graceful.workers.worker import SpawnContext, WorkerEvents
from graceful.workers.worker_pool import WorkerPool

TIMEOUT = 60.0
TCP, UNIX = "tcp:127.0.0.1:80", "unix:/run/site"


def origin(name: str) -> Origin:
    """Returns a release."""
    return Origin(("twistd", "graceful-app"), f"/srv/{name}", {}, f"/srv/{name}")


OLD, NEW = origin("old"), origin("new")


class Socket:
    """A listening socket that is only open or closed."""

    def __init__(self) -> None:
        self.open = True

    def fileno(self) -> int:
        return 99 if self.open else -1

    def close(self) -> None:
        self.open = False


def kept(key: int, slot: int, name: str, shared: bool = False) -> HeldSocket:
    """Returns a socket that the supervisor holds."""
    return HeldSocket(key, slot, BoundSocket(name, cast(Any, Socket()), shared=shared))


class Channel:
    """Records the messages that are sent.

    :ivar said: the messages, each a word with its values.
    """

    def __init__(self) -> None:
        self.open = True
        self.said: list[tuple[str, dict[str, Any]]] = []

    def send(self, word: str, descriptors: Sequence[int] = (), **values: Any) -> None:
        self.said.append((word, values))

    def receive_rest(self) -> None:
        self.open = False


class WorkerProcess(process.WorkerProcess):
    """A worker without a process.

    :ivar signals: the signals that it was sent.
    :ivar asked: the questions that it was asked, each with its answer.
    """

    count = 0

    def __init__(
        self,
        number: int,
        release: Origin,
        sockets: Sequence[HeldSocket],
        events: WorkerEvents,
        context: SpawnContext,
    ) -> None:
        context.spawn()
        self.number, self.release, self.sockets, self._events = number, release, list(sockets), events
        self.state, self.word, self.status, self.why, self.closed = "starting", None, None, "", False
        self.picture, self.error = {}, ""
        self.moves, self.taker = False, None
        self._since = self._until = self._deaf = None
        self._clock = context.clock
        WorkerProcess.count += 1
        self.pid = 1000 + WorkerProcess.count
        self.signals: list[int] = []
        self.asked: list[tuple[str, Any, Deferred[Any]]] = []
        self.channel = cast(Any, Channel())

    def ask(
        self, method: str, target: str, values: dict[str, Any] | None = None, timeout: float = 0.0
    ) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((target, values, answer))
        return answer

    def send_signal(self, number: signal.Signals) -> None:
        if self.status is None:
            self.signals.append(number)

    def link(self) -> Any:
        self.channel.send("give")
        return SimpleNamespace(giver=self, close=lambda: None)

    def take_connections(self, link: Any) -> None:
        self.channel.send("take", pid=link.giver.pid)

    # -- as the test wants it -----------------------------------------------------------------------------

    def says(self, *words: str, **values: Any) -> None:
        """Have the worker send a message."""
        for word in words:
            self._on_message({"word": word, **values})

    def end(self, status: int = -9, **word: Any) -> None:
        """Have the worker's process end, with a last word if one is given."""
        if word:
            self.says("gone", **word)
        self.status, self.closed, self.state, self._until = status, True, "gone", self._clock.seconds()
        self.channel.receive_rest()
        self._events.ended(self)

    def finish(self, finished: int = 0, taken_down: int = 0, abandoned: int = 0, status: int = 0) -> None:
        """Have the worker end as one does that has drained."""
        self.end(status, finished=finished, taken_down=taken_down, abandoned=abandoned)

    def told(self, *words: str) -> list[Any]:
        """Returns the messages that the worker got since the last call: those with one of `words`, or all."""
        said, self.channel.said = self.channel.said, []
        told: list[Any] = []
        for word, values in said:
            keys = [one["key"] for one in values["sockets"]] if word == "sockets" else values.get("keys")
            some = {name: value for name, value in values.items() if name in ("pid", "handed", "alone")}
            if not words or word in words:
                told.append((word, keys) if keys is not None else (word, some) if some else word)
        return told

    def orders(self) -> list[Any]:
        """Returns the orders that the worker got since the last call."""
        asked, self.asked = self.asked, []
        return [(target, values) if values else target for target, values, _ in asked]


class Workforce(SynchronousTestCase):
    """A pool of three workers, with a socket each and one that they share."""

    count = 3

    def setUp(self) -> None:
        """Start the pool; no worker accepts yet."""
        self.clock = Clock()
        self.cannot: OSError | None = None
        self.events: list[str] = []
        self.patch(module, "WorkerProcess", WorkerProcess)
        logs = capturedLogs()
        self.logged = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)
        sockets = [kept(number, number, TCP) for number in range(1, self.count + 1)]
        self.sockets = SlotSockets(self.count, [*sockets, kept(9, 0, UNIX)])
        self.pool = WorkerPool(
            self.sockets, OLD, SpawnContext(None, self.clock, cast(Any, self.spawn)), TIMEOUT, 2, self
        )
        for slot in self.pool.slots:
            self.pool._start(slot)
        self.made = self.pool.coming()

    # -- what the pool tells ------------------------------------------------------------------------------

    def all_accept(self) -> None:
        """Record that all workers accept."""
        self.events.append("open")

    def worker_ended(self, worker: Any) -> None:
        """Do nothing when a worker ends."""

    def worker_lost(self, worker: Any) -> None:
        """Record that a worker has died."""
        self.events.append(f"lost {worker.pid}")

    def files_changed(self, files: list[str]) -> None:
        """Do nothing when files have changed."""

    def hopeless(self, why: str) -> None:
        """Record that no worker can serve any more."""
        self.events.append(why)

    def spawn(self) -> None:
        """Start no process, or fail as the test wants it."""
        if self.cannot is not None:
            raise self.cannot

    def open(self) -> list[WorkerProcess]:
        """Have all workers accept.  Returns them, by their slots."""
        workers = self.coming()
        for worker in workers:
            worker.says("ready")
        self.pool.accept()
        for worker in workers:
            worker.says("accepts")
        for worker in workers:
            worker.told()
        return workers

    def coming(self) -> list[WorkerProcess]:
        """Returns the workers that are being started."""
        return cast(list[WorkerProcess], self.pool.coming())

    def next(self) -> WorkerProcess:
        """Returns the only worker that is being started."""
        (worker,) = self.coming()
        return worker

    def begin_to_accept(self) -> WorkerProcess:
        """Have the only worker that is being started accept, beside the one that it replaces.  Returns it."""
        worker = self.next()
        worker.says("ready", "accepts")
        worker.told()
        return worker

    def arrive(self) -> WorkerProcess:
        """Have the only worker that is being started accept, and those that leave close.  Returns the new one."""
        worker = self.begin_to_accept()
        for former in self.pool.leaving:
            former.says("closed")  # type: ignore[attr-defined]
        worker.told()
        return worker

    def slot(self, number: int) -> Slot:
        """Returns a slot, by its number."""
        return self.pool.slots[number - 1]

    def lines(self) -> list[str]:
        """Returns the lines that were logged since the last call."""
        logged: list[LogEvent] = list(self.logged)
        self.logged.clear()
        return [str(formatEvent(event)) for event in logged]

    def no_timers(self) -> None:
        """Check that no timer is set."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
