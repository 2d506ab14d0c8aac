"""The base of a server and of a supervisor: start, signals, control socket, status and takeover.

An instance is one process that serves, or a supervisor whose workers do.  Either has a pid file, a control socket and
a status page, takes the same signals, gets its sockets from a predecessor and hands them to a successor.  What
differs is in the abstract methods.
"""

from __future__ import annotations

import socket
from abc import ABCMeta, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.control.control_server import ControlServer
from graceful.control.control_socket import ControlSocket
from graceful.control.status import StatusSource
from graceful.drain.state import State
from graceful.logs import twistd_log as logs
from graceful.process.exit import EXIT_SECONDS
from graceful.process.forked_children import ForkedChildren
from graceful.process.interpreter import caveats
from graceful.process.orders import SignalOrders
from graceful.process.orphan_reaper import collect_orphans
from graceful.process.own_process import OwnProcess, systemd_sockets
from graceful.process.signals import Signals
from graceful.process.systemd import SystemdNotifier
from graceful.takeover.coordinator import Takeover
from graceful.takeover.predecessor import Predecessor, TakeoverError

log = Logger(namespace="graceful")


class Instance(Service, metaclass=ABCMeta):
    """An instance as a Twisted service.

    :param settings: limits, listeners, time-outs.
    :param process: given if the instance owns its process; a service among others leaves signals and exit to its
        parent.
    :param reactor: Twisted's; None for the usual one.
    :param connected: a connected socket on which orders come, instead of a control socket with a path.
    """

    name = "graceful"

    def __init__(
        self,
        settings: Settings,
        process: OwnProcess | None,
        reactor: Any,
        connected: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self._process = process
        self._reactor = reactor
        self._status: StatusSource
        self._connected = connected
        self._is_bound = False
        self._control: ControlServer | None = None
        self._predecessor: Predecessor | None = None
        self._takeover: Takeover | None = None

    # -- what differs -------------------------------------------------------------------------------------

    @abstractmethod
    def bind(self) -> None:
        """Have every socket; nothing is accepted yet.

        :raises BindError: one line for the operator.
        """

    @abstractmethod
    def names(self) -> list[str]:
        """Returns where the instance will listen."""

    @abstractmethod
    def _build(self) -> None:
        """Make all parts that serve, so that they accept when the reactor runs."""

    @abstractmethod
    def _make_status(self) -> StatusSource:
        """Returns the source of the instance's status, which shows its start, too; called when the reactor is set."""

    @abstractmethod
    def leave_after(self, error: BaseException) -> None:
        """Stop, with exit status 1, since something failed."""

    def _inherited(self) -> None:
        """The predecessor has let go of everything."""

    # -- start --------------------------------------------------------------------------------------------

    def _step(self) -> AbstractContextManager[None]:
        return self._process.startup.step() if self._process is not None else nullcontext()

    def _control_path(self) -> str | None:
        path = self.settings.control
        return self._process.control if path is None and self._process is not None else path

    def _find_predecessor(self) -> None:
        """Get the sockets of the instance at the control socket, if this process is to take over."""
        process, path = self._process, self._control_path()
        if process is None or not process.takeover or not path:
            return
        self._predecessor = Predecessor.find(process.asked_at or path)
        if self._predecessor is not None:
            process.startup.undo.callback(self._predecessor.close)
            log.info("process {pid} serves on until this one accepts", pid=self._predecessor.pid)

    def _bind_control(self) -> None:
        """Listen for orders and for the status page: before all other sockets, and until all others are closed."""
        settings, process = self.settings, self._process
        if self._connected is not None:
            self._control = ControlServer(settings, self._status, None, SystemdNotifier({}))
            if process is not None:
                process.startup.undo.callback(self._control.close)
            self._control.serve(self._connected)
            return
        path = self._control_path()
        if process is None and not path and not settings.status_listen:
            return
        control = None
        if path:
            control = ControlSocket(
                path,
                settings.control_mode,
                settings.control_group,
                process.owner if process is not None else (-1, -1),
                demanded=settings.control is not None,
            )
        notify = SystemdNotifier(process.notify if process is not None else {})
        self._control = server = ControlServer(settings, self._status, control, notify)
        if process is not None:
            process.startup.undo.callback(server.close)
        server.bind(*systemd_sockets(process), self._predecessor)

    def _bind_all(self) -> None:
        """Bind every socket that is not taken over from a predecessor."""
        self._use_usual_reactor()
        self._status = self._make_status()
        self._find_predecessor()
        self._bind_control()
        self.bind()
        self._is_bound = True
        if self._predecessor is not None:
            self._predecessor.close_unclaimed()

    def _use_usual_reactor(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = reactor

    def privilegedStartService(self) -> None:
        """Bind, and write the pid file, while the process may still be root."""
        with self._step():
            logs.append_only()  # a predecessor writes to the log file, too
            self._bind_all()
            if self._process is not None and self._process.pid_file is not None:
                self._process.startup.undo.callback(self._process.pid_file.remove)
                if self._predecessor is not None:
                    self._process.pid_file.prepare(self._predecessor.pid)
                else:
                    # A successor may be started by the user that this process changes to, and has to write there.
                    self._process.pid_file.write(*self._process.owner)
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Build everything, begin to accept."""
        if self._connected is None:  # else it is a worker, and its supervisor has said this
            for caveat in caveats():
                log.warn("{caveat}", caveat=caveat)
        with self._step():
            if not self._is_bound:
                self._bind_all()  # `twist` does not call privilegedStartService
            if self._process is not None:
                # Before the application is imported: functions that it registers with atexit then run before ours.
                self._process.limit.install()
                self._process.limit.start()
                self._process.startup.undo.callback(self._process.limit.verdict, 1, EXIT_SECONDS)
                ForkedChildren(self._descriptors).watch()
            self._build()
        super().startService()  # type: ignore[no-untyped-call]

    def _take_signals(self, orders: SignalOrders) -> None:
        """Install the signal handlers, when the reactor runs and has installed its own."""
        if self._process is None:
            return
        collect_orphans(self._reactor)
        signals = Signals(orders, self._reactor.callFromThread)
        early = self._process.startup.succeeded(signals.stoppers())
        signals.install()
        if early is not None:
            signals.stoppers()[early](early, None)
        elif self._process.startup.hung_up:
            orders.deploy()

    def _descriptors(self) -> list[int]:
        """Returns the descriptors that a child of the application's must not hold open."""
        return self._control.descriptors() if self._control is not None else []

    # -- from one instance to the next --------------------------------------------------------------------

    def _accepts(self) -> None:
        """All sockets accept: log them, or tell the predecessor that it may let go."""
        if self._control is None:
            return
        if self._predecessor is None:
            self._control.say_open()
        elif self._takeover is not None:
            self._takeover.begin(
                self._predecessor, self.settings.max_draining, self._reactor.callFromThread, self._took_over
            )

    def _took_over(self, why_not: str | None) -> None:
        """The predecessor has let go; if it has not, this process stops, since only one of the two may go on."""
        assert self._control is not None
        if why_not is None:
            self._control.say_open(main=False)
            self._inherited()
            return
        log.critical("no takeover: {reason}: stopping", reason=why_not)
        self.leave_after(TakeoverError(why_not))

    def _entered(self, state: State) -> None:
        """The drain has entered another state, or all sockets accept."""
        self._status.enter(state)
        if self._control is not None:
            self._control.entered(state)
