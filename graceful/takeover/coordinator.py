"""What a takeover means to an instance's sockets, files and drain, for both the old process and the new one.

    the new one                                   the old one
    ───────────                                   ───────────
    asks for the sockets, is still root           sends them, serves on
    sheds privileges, imports the application     serves on
    its reactor runs, it accepts, says so         stops accepting, leaves control path and pid file, drains
    takes control path and pid file               finishes its requests, and exits

For a moment both accept from the same queues, so that no connection is refused and none waits.  Neither knows more
about the other than what :mod:`graceful.takeover.successor_api` says on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve
from twisted.logger import Logger

from graceful.drain.state import State
from graceful.logs.attempt import attempt
from graceful.sockets.binding import LISTEN, BoundSocket
from graceful.takeover.connection_links import Link
from graceful.takeover.connection_takers import ConnectionTakers
from graceful.takeover.predecessor import Predecessor, Taking, limit_draining
from graceful.takeover.socket_handover import SocketHandover
from graceful.takeover.successor_api import SuccessorApi

if TYPE_CHECKING:
    from graceful.control.control_server import ControlServer
    from graceful.process.own_process import OwnProcess

log = Logger(namespace="graceful")


class Sockets(Protocol):
    """The application's sockets: those of an engine, or of a supervisor's workers."""

    @property
    def clock(self) -> Any:
        """Monotonic time."""

    def open_sockets(self) -> list[BoundSocket]:
        """Returns the listening sockets that can be handed over, in their order."""

    def rebind(self, known: Sequence[BoundSocket]) -> None:
        """Replace what is known about these sockets: whether other processes hold them, and who owns their paths."""

    def hand_sockets(self, handed: Sequence[BoundSocket], pid: int) -> None:
        """Let go of sockets that process `pid` accepts from; the connections in their queues are left to it."""

    def foreign(self) -> list[str]:
        """Returns the endpoints that cannot be handed over."""


class Draining(Protocol):
    """The part of a drain that a takeover needs."""

    @property
    def state(self) -> State:
        """The state of the instance."""

    def succeeded(self, handed: Sequence[BoundSocket], pid: int) -> object:
        """Begin it: the process `pid` accepts from the sockets in `handed`."""


class PidFileKeeper(Protocol):
    """The part of an instance that releases its pid file when it closes its sockets."""

    def give_up_pid_file(self) -> None:
        """Leave the pid file alone from now on: it belongs to the successor."""


class Takeover:
    """Both takeovers of an instance: from its predecessor, and by its successor.  Reactor thread.

    It is the :class:`graceful.takeover.socket_handover.SocketHolder` of the second.

    :param listening: has the application's sockets.
    :param control: has the sockets for control and status.
    :param drain: begins when the sockets are handed over.
    :param shutdown: is told that the pid file belongs to the successor.
    :param process: None if the server does not own its process: the process could not end, so there is no takeover.
    :param timeout: seconds that a successor has until it accepts.
    :param arm_last_limit: sets the time at which the process ends in any case.
    :param watch: watches a successor, given the control path and its pid, while this process drains.
    :param ended: called when a takeover by a successor has ended, successfully or not.
    :param moves: gives this process's own connections to a successor; None if it has none that can move.
    :param links: makes links on which connections move to that many processes of a successor.
    :param taking: takes in a predecessor's connections; None if they stay there.
    :ivar handover: the takeover by a successor.
    """

    def __init__(
        self,
        listening: Sockets,
        control: ControlServer,
        drain: Draining,
        shutdown: PidFileKeeper,
        process: OwnProcess | None,
        timeout: float,
        arm_last_limit: Callable[[], object],
        watch: Callable[[str, int], object],
        ended: Callable[[], object] = lambda: None,
        moves: ConnectionTakers | None = None,
        links: Callable[[int], Sequence[Link]] = lambda count: (),
        taking: Taking | None = None,
    ) -> None:
        self._listening = listening
        self._control = control
        self._drain = drain
        self._shutdown = shutdown
        self._process = process
        self._arm_last_limit = arm_last_limit
        self._watch = watch
        self._offered: list[tuple[str, BoundSocket]] = []
        self._takes_over = False
        self._moves = moves
        self._taking = taking
        self.handover = SocketHandover(listening.clock, self, timeout, ended)
        control.answer_successors(
            SuccessorApi(self.handover, self._sockets, listening.foreign, moves, links, control.counted).answer
        )

    @property
    def successor(self) -> int:
        """The pid of the process that takes over or has taken over; 0 for none."""
        return self.handover.successor

    # -- as the old one -----------------------------------------------------------------------------------

    def _sockets(self) -> list[tuple[str, BoundSocket]]:
        """Returns the sockets that a successor may have, each with its role, as they are when none is offered."""
        return [*((LISTEN, bound) for bound in self._listening.open_sockets()), *self._control.sockets()]

    def cannot_hand_over(self) -> str | None:
        """Returns why a successor cannot have the sockets; None if it can."""
        if self._process is None:
            return "it is a service among others, whose process does not end with it"
        if self._takes_over:
            return "it is itself taking over just now: try again"
        if not self._drain.state.accepts:
            return "it is stopping, and has closed its sockets: start without taking over"
        return None

    def share_sockets(self) -> None:
        """A successor gets the sockets: nothing may be done to them that affects another holder."""
        self._offered = self._sockets()
        self._rebind([evolve(bound, shared=True, path=None) for _, bound in self._offered])

    def reclaim_sockets(self, alone: bool) -> None:
        """The successor has failed; the sockets stay shared if it may still hold them."""
        offered, self._offered = [bound for _, bound in self._offered], []
        self._rebind(offered if alone else [evolve(bound, shared=True) for bound in offered])

    def hand_over(self, kept: Sequence[int], pid: int) -> None:
        """The successor accepts: let go of the sockets that it has kept, and drain."""
        offered, self._offered = [bound for _, bound in self._offered], []
        handed = [bound for number, bound in enumerate(offered) if number in kept]
        self._rebind([bound for bound in offered if bound not in handed])  # the successor has closed these
        if self._moves is not None:
            self._moves.begin(handed)
        self._shutdown.give_up_pid_file()
        self._listening.hand_sockets(handed, pid)
        self._control.hand_over(handed, pid)
        log.info("process {pid} has taken over; this one finishes what it has", pid=pid)
        self._arm_last_limit()
        self._drain.succeeded(handed, pid)
        self._watch(self._control.asked_path(), pid)

    def _rebind(self, known: Sequence[BoundSocket]) -> None:
        self._listening.rebind(known)
        self._control.rebind(known)

    # -- as the successor ---------------------------------------------------------------------------------

    def begin(
        self, predecessor: Predecessor, max_draining: int, call: Any, done: Callable[[str | None], object]
    ) -> None:
        """All sockets accept: tell the predecessor.

        :param predecessor: the process that has offered its sockets.
        :param max_draining: how many predecessors, with this one, may be draining.
        :param call: calls a function in the reactor thread, from any thread.
        :param done: called with None when the predecessor has let go, or with the reason why it has not.
        """
        self._takes_over = True

        def answered(why_not: str | None) -> None:
            self._takes_over = False
            if why_not is None:
                self._inherit(predecessor)
            done(why_not)

        path = self._control.asked_path()
        predecessor.accepts(call, answered, lambda: limit_draining(path, max_draining), self._taking)

    def _inherit(self, predecessor: Predecessor) -> None:
        """Own the sockets, the control path and the pid file from now on."""
        # The predecessor has let go of all of it: one step that fails must not leave the others undone.
        attempt(self._control.inherit_counted, predecessor.counted)
        if self._drain.state != State.GONE:
            attempt(self._control.succeed)
        attempt(self._rebind, predecessor.inheritance())
        if self._process is not None and self._process.pid_file is not None:
            attempt(self._process.pid_file.take_over)
        log.info("took over from process {pid}", pid=predecessor.pid)
