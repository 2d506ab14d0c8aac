"""An instance whose workers serve: this process binds, holds the sockets, and answers for all of them.

It never imports the application and never accepts a connection of a client, so that there is little in it that can
fail, and nothing that has to be replaced at a deploy.
"""

from __future__ import annotations

import os
import signal
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.config.settings import HEALTH_PATH, Settings
from graceful.control.health import Health
from graceful.control.log_rotation import LogRotation
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.logs.attempt import attempt
from graceful.process.clock import monotonic_clock
from graceful.process.exit import EXIT_SECONDS, latest_exit
from graceful.process.own_process import OwnProcess, systemd_sockets
from graceful.reports.reporter import Reporter
from graceful.server.app_server import MARGIN
from graceful.server.instance import Instance
from graceful.server.own_sockets import load_certificates
from graceful.sockets.address import parse
from graceful.sockets.binding import LISTEN, BindError
from graceful.takeover.coordinator import Takeover
from graceful.takeover.successor_watch import SuccessorWatch
from graceful.tls.certificates import CertificateStore
from graceful.workers.crash_reports import CrashReports
from graceful.workers.fleet_arrivals import FleetArrivals
from graceful.workers.fleet_drain import FleetDrain
from graceful.workers.fleet_orders import BEYOND, FleetOrders
from graceful.workers.fleet_status import FleetStatus
from graceful.workers.preloading import Preloading
from graceful.workers.recycling import Recycling
from graceful.workers.reloading import Reloading
from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.slot_sockets import SlotSockets
from graceful.workers.status_poller import EVERY, StatusPoller
from graceful.workers.worker import SpawnContext, WorkerProcess
from graceful.workers.worker_count import WorkerCount
from graceful.workers.worker_pool import STOPPING, CannotStart, WorkerPool

log = Logger(namespace="graceful")


class Supervisor(Instance):
    """The service of a supervisor.

    :param settings: of the instance.
    :param process: the supervisor's own.
    """

    def __init__(self, settings: Settings, process: OwnProcess) -> None:
        assert process.origin is not None
        self._fleet_status: FleetStatus
        super().__init__(settings, process, None)
        self._own = process
        self._origin = process.origin
        self._release = process.origin.fixed()
        self._slot_sockets = SlotSockets(settings.workers)
        self._clock: Any
        self._pool: WorkerPool
        self._poller: StatusPoller
        self._fleet_drain: FleetDrain
        self._preloading: Preloading
        self._orders: FleetOrders | None = None
        self._rolling_restart: RollingRestart
        self._reloading: Reloading
        self._recycling: Recycling
        self._crash_reports: CrashReports
        self._failed: BaseException | None = None
        self._over: Deferred[None] = Deferred()
        self._keeps_pid_file = True

    # -- start --------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Bind or take over every socket, for every worker.

        :raises BindError: one line for the operator.
        """
        addresses = [parse(text) for text in self.settings.listen]
        for address in addresses:
            if address.kind == "plugin":
                raise BindError(
                    f"cannot listen on {address.text}: only tcp, tcp6, tls, tls6, unix, fd and systemd can"
                    " be shared by workers; put a proxy in front of it, or leave --workers out"
                )
        load_certificates(self.settings.listen, CertificateStore())  # each worker loads its own; this is a look
        wanted = self._slot_sockets.wanted(addresses)
        predecessor = self._predecessor
        adopted = predecessor.claim(LISTEN, wanted) if predecessor is not None else [None] * len(wanted)
        undo = self._own.startup.undo.callback
        self._slot_sockets.bind(addresses, adopted, *systemd_sockets(self._own), undo)
        if self._own.owner[0] not in (-1, os.geteuid()):
            self._slot_sockets.reserve(undo)

    def names(self) -> list[str]:
        """Returns where the workers will listen."""
        return self._slot_sockets.names()

    def _make_status(self) -> FleetStatus:
        settings = self.settings
        clock = self._clock = monotonic_clock(self._reactor)
        clock.start()
        preloading = Preloading(self._reactor, clock, settings.takeover_timeout, self._own.preload)
        self._preloading = preloading
        self._pool = WorkerPool(
            self._slot_sockets,
            self._release,
            SpawnContext(self._reactor, clock, fork=preloading.fork),
            settings.takeover_timeout,
            settings.max_draining,
            self,
        )
        self._poller = StatusPoller(self._pool, clock)
        self._fleet_status = FleetStatus(settings, poller=self._poller, fork_servers=preloading.describe)
        return self._fleet_status

    def _build(self) -> None:
        """Start all workers, and wait until they are ready to accept."""
        process, settings, pool, clock = self._own, self.settings, self._pool, self._clock
        process.startup.undo.callback(self._preloading.close)
        why = self._preloading.start(self._release)
        if why is not None:
            raise CannotStart(why)
        process.startup.undo.callback(pool.abandon)
        pool.start()
        self._fleet_drain = FleetDrain(clock, pool, self._slot_sockets, self._entered, self._gone)
        health = Health(settings.health_path or HEALTH_PATH, settings.going_down_status, settings.app_version)
        self._rolling_restart = RollingRestart(
            pool, self._origin, self._release, self._may_not_deploy, self._deploy_ended, self._preloading.preload
        )
        self._reloading = Reloading(pool, self._rolling_restart)
        assert self._control is not None
        self._orders = FleetOrders(
            pool,
            self._fleet_drain,
            self._fleet_status,
            health,
            process.limit,
            self._rolling_restart,
            WorkerCount(pool, self._rolling_restart, self._may_not_change),
            self._control.stop_ordered,
            LogRotation(self._control.asked_path).pass_on,
        )
        self._recycling = Recycling(pool, settings.max_requests, settings.max_rss, self._finished)
        self._crash_reports = CrashReports(Reporter(settings.reports), clock)
        self._takeover = Takeover(
            self._fleet_drain,
            self._control,
            self._fleet_drain,
            self,
            process,
            settings.takeover_timeout,
            self._orders.arm_last_limit,
            partial(SuccessorWatch, self._reactor),
            links=self._fleet_drain.links,
            taking=FleetArrivals(pool, self._reactor.callFromThread),
        )
        self._fleet_status.read_from(health, self._orders, self._takeover)
        self._control.open(self._reactor, self._orders)
        self._reactor.callWhenRunning(self._take_signals, self._orders)
        self._reactor.callWhenRunning(pool.accept)
        self._poller.start()
        clock.callLater(EVERY, self._look)

    # -- what the pool tells; a :class:`graceful.workers.worker_pool.PoolListener` -------------------------

    def all_accept(self) -> None:
        """All workers accept for the first time."""
        for name in self._slot_sockets.names():
            log.info("socket {name} open (pid {pid})", name=name, pid=os.getpid())
        if self._fleet_drain.state == State.SERVING:
            self._entered(State.SERVING)
        self._accepts()

    # -- while it runs ------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look once in a while at what the workers have said."""
        self._clock.callLater(EVERY, self._look)
        self._recycling.look()
        self._end_stuck()
        if self._orders is not None:
            self._orders.renew_limit()

    def _end_stuck(self) -> None:
        """Kill workers that drain and have said nothing for as long as a drain takes: their event loop is stuck."""
        settings = self.settings
        longest = latest_exit(settings.lame_duck, max(settings.deadline, settings.download_deadline)) + BEYOND
        for worker in self._pool.leaving:
            if self._poller.silent_for(worker) > longest:
                log.error("worker {number}, process {pid}, is stuck: killed", number=worker.number, pid=worker.pid)
                worker.send_signal(signal.SIGKILL)

    def _finished(self, worker: WorkerProcess) -> int:
        """Returns how many requests a worker has finished, as far as is known."""
        return int((self._poller.last(worker) or {}).get("finished", 0))

    def worker_ended(self, worker: WorkerProcess) -> None:
        """Take the last counters of a worker that has ended, if it had the time to tell them."""
        if worker.word is not None and isinstance(worker.word.get("picture"), dict):
            self._poller.update(worker, worker.word["picture"])
        worker.picture = self._poller.last(worker) or {}
        if self._orders is not None:
            self._reloading.worker_ended(worker)

    def _deploy_ended(self, why: str | None) -> None:
        if self._preloading.error:
            self._reloading.import_failed(self._preloading.error)
        self._preloading.keep_only(self._rolling_restart.release)
        self._reloading.deploy_ended(why)

    def files_changed(self, files: list[str]) -> None:
        """Deploy what has changed."""
        self._reloading.changed(files)

    def worker_lost(self, worker: WorkerProcess) -> None:
        """Report what a worker had in flight that has died without a last word."""
        self._crash_reports.of(worker)

    def hopeless(self, why: str) -> None:
        """Stop: no worker can be started."""
        log.critical("{why}: stopping", why=why)
        self.leave_after(BindError(why))

    def _may_not_change(self) -> str | None:
        """Why the number of workers has to stay as it is just now; None if it may change."""
        return "a deploy is under way" if self._rolling_restart.under_way else self._may_not_deploy()

    def _may_not_deploy(self) -> str | None:
        if self._fleet_drain.began is not None:
            return "it is stopping"
        return self._takeover.handover.obstacle() if self._takeover is not None else None

    # -- the way out --------------------------------------------------------------------------------------

    def give_up_pid_file(self) -> None:
        """Leave the pid file alone from now on: it belongs to the successor."""
        self._keeps_pid_file = False

    def leave_after(self, error: BaseException) -> None:
        """Stop, with exit status 1, since something failed."""
        self._failed = error
        assert self._orders is not None
        self._orders.stop(True)

    def _entered(self, state: State) -> None:
        health = self._fleet_status.health
        if state in (State.LAME_DUCK, State.CLOSING) and health is not None and not health.going_down:
            health.begin_going_down()
            if self._control is not None:
                self._control.going_down()
        if state != State.SERVING:
            self._preloading.stop_importing(STOPPING)
        if state == State.CLOSING and self._own.pid_file is not None and self._keeps_pid_file:
            attempt(self._own.pid_file.release)  # before "closed" is said: a successor may start at that word
        if state == State.CLOSING:
            self._slot_sockets.release_reserved()
        super()._entered(state)

    def _gone(self, ending: DrainResult) -> None:
        self._crash_reports.end(lambda: self._leave(ending))

    def _leave(self, ending: DrainResult) -> None:
        """Leave; if something was taken down, when Prometheus has read that, within the time that there is."""
        read: Deferred[None] = succeed(None)
        if (ending.taken_down or ending.abandoned) and self._control is not None:
            read = self._control.until_scraped(self._fleet_status.latest_exit - EXIT_SECONDS - MARGIN)
        read.addCallback(lambda ignored: self._end(ending))

    def _end(self, ending: DrainResult) -> None:
        if self._failed is not None:
            ending = evolve(ending, exit_status=1)
        assert self._control is not None
        self._own.leave(self._reactor, ending, EXIT_SECONDS, self._control.end)
        self._poller.stop()
        self._preloading.close()
        self._clock.stop()
        self._over.callback(None)

    def stopService(self) -> Deferred[None]:
        """Drain; fires when nothing is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._orders is None:
            return succeed(None)
        if self._fleet_drain.state != State.GONE:
            self._orders.stop(True)
        return self._over
