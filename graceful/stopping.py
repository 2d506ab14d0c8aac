"""What the steps of a drain do to an engine, and how the process ends when it is ours.

The order of the steps is :mod:`graceful.drain`'s; what they mean for sockets, connections and threads is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from graceful.control.status import Ending
from graceful.engine import Engine
from graceful.exit import ABANDONED, FINISHED, LEAVING, REPORTS, TAKEN_DOWN, LastLimit
from graceful.pidfile import PidFile
from graceful.startup import Startup
from graceful.takedown.deadline import Takedown
from graceful.takedown.single import take_down_one

LOOK_AGAIN: Final = 0.02


@frozen
class Process:
    """What a server gets when the process is its own: it takes the signals, and the exit status is its verdict.

    :ivar startup: surrounds everything that may fail until the reactor runs.
    :ivar pid_file: given up when the sockets are closed; None for none.
    :ivar sockets: what systemd has said of the sockets that it hands over.
    :ivar pid: the process it has said it to.
    :ivar limit: the moment at which the process ends in any case.
    :ivar control: where the control socket is unless the settings say; None for nowhere.
    :ivar owner: the user and group that the process will change to; -1 where it will not.
    """

    startup: Startup
    pid_file: PidFile | None
    sockets: dict[str, str]
    pid: int
    limit: LastLimit
    control: str | None = None
    owner: tuple[int, int] = (-1, -1)


class Stopping:
    """An engine on its way out; a `graceful.drain.Drainable`.  Reactor thread.

    :param engine: what is drained.
    :param reactor: stopped at the end, if the process is ours.
    :param process: None if it is not.
    :ivar on_going_down: called when the drain begins.
    :ivar on_gone: called with how it ended, before the process leaves.
    :ivar failed: why the server stops by itself; None if it was told to.
    """

    log = Logger(namespace="graceful")

    def __init__(self, engine: Engine, reactor: Any, process: Process | None) -> None:
        self._engine = engine
        self._site = engine.site
        self._reactor = reactor
        self._process = process
        self._finished_before = 0
        self._takedown: Takedown | None = None
        self._by_hand = self._by_hand_before = 0
        self.on_going_down: Callable[[], object] = lambda: None
        self.on_gone: Callable[[Ending], object] = lambda ending: None
        self.failed: BaseException | None = None

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down since the start."""
        return self._by_hand + (self._takedown.taken if self._takedown is not None else 0)

    def take_down_one(self, number: int) -> list[int]:
        """Take down an exchange that somebody has chosen, and those behind it on its connection; which were."""
        taken = take_down_one(self._site, self._engine.clock, self._engine.working, number)
        self._by_hand += len(taken)
        return taken

    def going_down(self) -> None:
        """The balancer shall look elsewhere."""
        self._engine.health.begin_going_down()
        self._by_hand_before = self._by_hand
        self.on_going_down()

    def last_requests(self, quiet: bool) -> None:
        """From now on every answer is its connection's last."""
        site, clock = self._site, self._engine.clock
        if not site.draining:
            site.draining = True
            site.draining_since = clock.seconds()
            self._finished_before = site.register.finished
            self.log.info("stopping: {count} in flight", count=len(site.register.exchanges))
        site.quiet = site.quiet or quiet
        self._engine.hasten()

    def close_listeners(self) -> Deferred[None]:
        """Close all listening sockets; each says so in the log."""
        if self._process is not None and self._process.pid_file is not None:
            self._process.pid_file.release()  # before "closed" is said: a successor may start at that word
        return self._engine.close_listeners()

    def all_gone(self) -> Deferred[None]:
        """Fire when no connection is left, and no thread works for an exchange any more."""
        # The sockets are closed: whoever waits for news, and comes again, finds the next instance.
        self._engine.lot.drain()
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            if self._site.register.exchanges:
                self._engine.clock.callLater(LOOK_AGAIN, look, None)
            else:
                done.callback(None)

        self._site.register.all_gone().addCallback(look)
        return done

    def left(self) -> bool:
        """Whether anything is left but downloads."""
        spared = self._site.spared()
        return any(exchange not in spared for exchange in self._site.register.in_flight()) or any(
            connection.turn.current not in spared for connection in self._site.connections()
        )

    def spared(self) -> bool:
        """Whether downloads are left."""
        return bool(self._site.spared())

    def take_down(self, everything: bool) -> Deferred[None]:
        """End what is left; downloads only if it is to be everything."""
        if self._takedown is None:
            self._takedown = Takedown(self._site, self._engine.clock, self._engine.working)
        return self._takedown.start(everything)

    def gone(self, seconds: float) -> None:
        """Say how it went, give everything back, and leave."""
        taken = self.taken_down - self._by_hand_before
        abandoned = self._takedown.abandoned if self._takedown is not None else 0
        finished = self._site.register.finished - self._finished_before - taken
        self._engine.close()
        self.log.info(
            "drained in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned",
            seconds=seconds,
            finished=finished,
            taken=taken,
            abandoned=abandoned,
        )
        status = ABANDONED if abandoned else TAKEN_DOWN if taken else FINISHED
        ending = Ending(1 if self.failed is not None else status, seconds, finished, taken, abandoned)
        if self._process is None:
            self.on_gone(ending)
        else:
            self._leave(self._process, ending)

    def _leave(self, process: Process, ending: Ending) -> None:
        process.limit.verdict(ending.exit_status, REPORTS + LEAVING)
        if process.pid_file is not None:
            process.pid_file.remove()
        self.on_gone(ending)
        # A SIGTERM that came before our handlers was obeyed all the same; twistd would die of it once more.
        self._reactor._exitSignal = None
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            pass  # it was the reactor's stopping that made us drain
