"""An instance between its predecessor and its successor: what a takeover means to its sockets, files and drain.

    the new one                                   the old one
    ───────────                                   ───────────
    asks for the sockets, is still root           sends them, serves on
    sheds privileges, imports the application     serves on
    its reactor runs, it accepts, says so         stops accepting, leaves control path and pid file, drains
    takes control path and pid file               finishes what it has, and is gone

Both accept for a moment, from the same queues, so that no connection is refused and none waits.  Neither knows more
of the other than what :mod:`graceful.takeover.successor_api` says on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve
from twisted.logger import Logger

from graceful.drain import State
from graceful.sockets.binding import LISTEN, BoundSocket
from graceful.takeover.predecessor import Predecessor, limit_draining
from graceful.takeover.succession import SocketHandover
from graceful.takeover.successor_api import SuccessorApi

if TYPE_CHECKING:
    from graceful.control.control_server import ControlServer
    from graceful.process.own_process import OwnProcess

log = Logger(namespace="graceful")


class Sockets(Protocol):
    """Whoever has the application's sockets: an engine, or a crew of workers."""

    @property
    def clock(self) -> Any:
        """Monotonic time."""

    def open_sockets(self) -> list[BoundSocket]:
        """Those that are ours to hand over, in their order."""

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Take note of what has become known about sockets: who else holds them, and whose their paths are."""

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets that another process accepts from; what is in their queues is left to it."""

    def foreign(self) -> list[str]:
        """The endpoints that cannot be handed over."""


class Draining(Protocol):
    """The way out, as far as a takeover is concerned."""

    @property
    def state(self) -> State:
        """How far the instance is."""

    def succeeded(self, handed: Sequence[BoundSocket], pid: int) -> object:
        """Begin it: the process `pid` accepts from the sockets in `handed`."""


class Succeeded(Protocol):
    """Whoever has to know that there is a successor.

    :ivar succeeded: the pid file is the successor's business.
    """

    succeeded: bool


class Takeover:
    """One instance's two takeovers; a :class:`graceful.takeover.succession.SocketHolder`.  Reactor thread.

    :param engine: has the application's sockets.
    :param desk: has the others.
    :param drain: begins when they are handed over.
    :param stopping: is told that the pid file is the successor's business.
    :param process: None if it is not ours: then it could not end, and there is no takeover.
    :param timeout: seconds that a successor has until it accepts.
    :param limit: sees to it that the process ends in time.
    :ivar succession: the takeover by a successor.
    """

    def __init__(
        self,
        engine: Sockets,
        desk: ControlServer,
        drain: Draining,
        stopping: Succeeded,
        process: OwnProcess | None,
        timeout: float,
        limit: Callable[[], object],
    ) -> None:
        self._engine = engine
        self._desk = desk
        self._drain = drain
        self._stopping = stopping
        self._process = process
        self._limit = limit
        self._lent: list[tuple[str, BoundSocket]] = []
        self._waits = False
        self.succession = SocketHandover(engine.clock, self, timeout)
        desk.answer_successors(SuccessorApi(self.succession, self._sockets, engine.foreign).answer)

    # -- as the old one -----------------------------------------------------------------------------------

    def _sockets(self) -> list[tuple[str, BoundSocket]]:
        """All sockets that a successor may have, each with its role, as they are when nobody else holds them."""
        return [*((LISTEN, bound) for bound in self._engine.open_sockets()), *self._desk.sockets()]

    def cannot_hand_over(self) -> str | None:
        """Why not."""
        if self._process is None:
            return "it is a service among others, whose process does not end with it"
        if self._waits:
            return "it is itself taking over just now: try again"
        if not self._drain.state.accepts:
            return "it is stopping, and has closed its sockets: start without taking over"
        return None

    def lend(self) -> None:
        """A successor gets the sockets: nothing may be done to them that it would feel."""
        self._lent = self._sockets()
        self._rebind([evolve(bound, shared=True, path=None) for _, bound in self._lent])

    def take_back(self, surely: bool) -> None:
        """It is gone; or it may still hold them."""
        lent, self._lent = [bound for _, bound in self._lent], []
        self._rebind(lent if surely else [evolve(bound, shared=True) for bound in lent])

    def hand_over(self, kept: Sequence[int], pid: int) -> None:
        """The successor accepts: let go of what it has kept, and drain."""
        lent, self._lent = [bound for _, bound in self._lent], []
        handed = [bound for number, bound in enumerate(lent) if number in kept]
        self._rebind([bound for bound in lent if bound not in handed])  # these it has closed: they are ours alone
        self._stopping.succeeded = True
        self._engine.hand_sockets(handed, pid)
        self._desk.hand_over(handed, pid)
        log.info("process {pid} has taken over; this one finishes what it has", pid=pid)
        self._limit()
        self._drain.succeeded(handed, pid)

    def _rebind(self, known: Sequence[BoundSocket]) -> None:
        self._engine.rebind(known)
        self._desk.rebind(known)

    # -- as the new one -----------------------------------------------------------------------------------

    def begin(
        self, predecessor: Predecessor, max_draining: int, call: Any, done: Callable[[str | None], object]
    ) -> None:
        """All sockets accept: tell the predecessor.

        :param predecessor: whose sockets they are.
        :param max_draining: how many predecessors, with this one, may still finish what they have.
        :param call: calls a function in the reactor thread, from any thread.
        :param done: called when it has let go, with None, or with why it has not.
        """
        self._waits = True

        def heard(why_not: str | None) -> None:
            self._waits = False
            if why_not is None:
                self._inherit(predecessor)
            predecessor.close()
            done(why_not)

        path = self._desk.asked_path()
        predecessor.accepts(call, heard, lambda: limit_draining(path, max_draining))

    def _inherit(self, predecessor: Predecessor) -> None:
        """The sockets are ours, and so are the paths that belong to the newest."""
        if self._drain.state != State.GONE:
            self._desk.succeed()
        self._rebind(predecessor.inheritance())
        if self._process is not None and self._process.pid_file is not None:
            self._process.pid_file.take_over()
        log.info("took over from process {pid}", pid=predecessor.pid)
