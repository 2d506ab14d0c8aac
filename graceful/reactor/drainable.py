"""The way out of a process that a graceful reactor runs: from SIGTERM, or `reactor.stop()`, to the exit status.

    signal, or stop ─▶ drain (graceful.drain) ─▶ the reactor's own shutdown phases ─▶ thread pools ─▶ exit

The stock reactor begins with the phases, and everything in the process is in ruins from then on: connections are cut,
threads joined while they wait for the reactor.  So the phases are held back until nothing is in flight.  The order of
the drain is :mod:`graceful.drain`'s; what its steps mean for ports and connections of Twisted's is here.
"""

from __future__ import annotations

from threading import current_thread, main_thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger

from graceful.config.settings import Settings
from graceful.drain import Drain, State
from graceful.process.clock import monotonic_clock
from graceful.process.exit import ABANDONED, EXIT_SECONDS, FINISHED, REPORTS, TAKEN_DOWN, LastLimit, latest_exit
from graceful.reactor.lingering import Lingering
from graceful.reactor.thread_pools import Pools
from graceful.reactor.tracking import TrackedItem, Tracker
from graceful.reactor.transports import name_of_port
from graceful.sockets.endpoint_listener import close_port

if TYPE_CHECKING:
    from graceful.reactor.control import ReactorControl

log = Logger(namespace="graceful")


#: Seconds between two looks at idle connections in a drain.
SWEEP: Final = 0.1

#: Seconds that what is taken down has to end by itself; and threads, if there is no other deadline any more.
LAST_MOMENT: Final = 2.0
LOOK_AGAIN: Final = 0.05


class ReactorProcess:
    """What a reactor has that is installed in a process: the exit status is its verdict.

    One that runs in another thread than the main one has no say in that: the process belongs to another program.

    :ivar limit: the moment at which the process ends in any case, once it was told to stop.
    :ivar pools: sees to it that thread pools end.
    """

    def __init__(self) -> None:
        self.limit = LastLimit()
        self.pools = Pools()

    def install(self) -> None:
        """Take the process; early, since what is registered with atexit before is not called with a verdict."""
        self.limit.install()
        self.pools.install()

    def arm(self, seconds: float) -> None:
        """End the process `seconds` from now, whatever happens."""
        if current_thread() is main_thread():
            self.limit.arm(seconds)

    def verdict(self, status: int) -> None:
        """Say how it went: the process has to be gone soon."""
        if current_thread() is main_thread():
            self.limit.verdict(status, REPORTS + EXIT_SECONDS)


class ReactorShutdown:
    """A reactor on its way out.  Reactor thread.

    It is a `graceful.drain.Drainable` and a `graceful.process.orders.StopOrders`, and what control looks at.

    :param reactor: whose ports and connections.
    :param tracker: what it counts.
    :param process: None if the process is not the reactor's: then there is no verdict, and pools are stopped as ever.
    :ivar drain: the machine.
    :ivar exit_requested: a signal or an order through control has asked for the end of the process.
    """

    def __init__(self, reactor: Any, settings: Settings, tracker: Tracker, process: ReactorProcess | None) -> None:
        self._reactor = reactor
        self._settings = settings
        self._tracker = tracker
        self._process = process
        self.clock = monotonic_clock(reactor)
        self.drain = Drain(self.clock, self, settings.deadline, 0.0, settings.lame_duck, self._entered)
        self.exit_requested = False
        self.taken_down = self._taken_before = 0
        self._failed = self._quiet = False
        self._control: ReactorControl | None = None
        self._factories: list[Any] = []
        self._lingering = Lingering()
        self._finished_before = 0
        self._began = 0.0

    # -- signals ------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether the reactor is being stopped."""
        return bool(self._reactor._stopped)

    def arm_last_limit(self) -> None:
        """Set the time at which the process ends whatever happens.  In a signal handler."""
        self.exit_requested = True
        if self._process is not None and self.drain.state == State.SERVING:
            self._process.arm(self._planned_exit())

    def _planned_exit(self) -> float:
        return latest_exit(*self.drain.seconds_ahead(False))

    def latest_exit(self) -> float:
        """In how many seconds the process is gone, whatever happens; before a drain, from its beginning."""
        if self._process is None or not self.exit_requested:
            return self._planned_exit()
        left = self._process.limit.remaining_seconds
        return self._planned_exit() if left is None else left

    def stop(self, quiet: bool) -> None:
        """Begin to drain.

        :param quiet: close idle connections at once: no client sends further requests.
        """
        self._quiet = self._quiet or quiet
        if not self._reactor._stopped:
            self._reactor.stop()
        elif quiet and self.drain.state not in (State.SERVING, State.GONE):
            self.drain.begin(quiet)

    def hurry(self) -> None:
        """Take down at once what is in flight."""
        if not self._reactor._stopped:
            self._reactor.stop()
        if self.drain.state == State.SERVING:
            self._reactor.callLater(0, self.drain.hurry)  # it begins at the end of this turn
        else:
            self.drain.hurry()

    def abandon_threads(self) -> None:
        """Wait no longer for thread pools that are being stopped.  In a signal handler: the reactor thread waits."""
        if self._process is not None and self._process.pools.until is not None:
            self._process.pools.until = self.clock.seconds()

    def log_in_flight(self) -> None:
        """Log what is in flight."""
        now = self.clock.seconds()
        lines = [f"{len(self._tracker.connections)} connections, in flight:"]
        log.info("{lines}", lines="\n".join(lines + [item.describe(now) for item in self._tracker.in_flight()]))

    # -- control ------------------------------------------------------------------------------------------

    def open_control(self) -> None:
        """Begin to answer, if the settings say where; once the reactor runs."""
        settings = self._settings
        if not settings.control and not settings.status_listen:
            return
        from graceful.reactor.control import CannotOpen, ReactorControl

        control = ReactorControl(settings, self._tracker, self)
        try:
            control.open(self._reactor)
        except CannotOpen as error:
            self._failed = True
            log.critical("{reason}: stopping", reason=str(error))
            self._reactor.stop()
        else:
            self._control = control

    def move_limit(self) -> None:
        """The deadline was moved: so is the last limit, if it has been set."""
        if self._process is not None and self.exit_requested:
            self._process.arm(self._planned_exit())

    def take_down_one(self, number: int) -> list[int]:
        """Take down what has a number; which were, if others are interrupted by that."""
        found = self._tracker.find(number)
        if found is None:
            return []
        watch, item = found
        taken = [item] if watch is None else watch.take_down(item)
        self._log_takedown(taken, self.clock.seconds())
        if watch is None:
            self._cancel(item.connection)
        return [one.id for one in taken]

    # -- the drain ----------------------------------------------------------------------------------------

    def begin(self) -> Deferred[None]:
        """The reactor is to stop: drain first.  Fires when its own shutdown may begin."""
        self._began = monotonic()
        self.clock.start()
        return self.drain.begin(self._quiet)

    def _entered(self, state: State) -> None:
        """The drain is in another state."""
        if self._control is not None:
            self._control.entered(state)

    def going_down(self) -> None:
        """Tell the balancer to look elsewhere."""
        self._taken_before = self.taken_down
        if self._control is not None:
            self._control.health.begin_going_down()

    def last_requests(self, quiet: bool) -> None:
        """From now on every answer is its connection's last."""
        self._quiet = self._quiet or quiet
        tracker = self._tracker
        if tracker.on_add is None:
            in_flight = len(tracker.in_flight())
            self._finished_before = tracker.issued - in_flight
            log.info("stopping: {count} in flight", count=in_flight)
            tracker.on_add, tracker.lingering = self._added, self._lingering
            self._sweep()

    def _added(self, transport: Any) -> None:
        """One more connection was accepted, and has got its protocol by the end of this turn."""
        self._reactor.callLater(0, self._begin_drain_of, transport)

    def _begin_drain_of(self, transport: Any) -> None:
        watch = self._tracker.watch(transport)
        if watch is not None:
            watch.begin_drain()

    def _sweep(self) -> None:
        """End what has had its time; what a connection speaks may have changed."""
        if self.drain.state == State.GONE:
            return
        now = self.clock.seconds()
        self._lingering.release_confirmed()
        for watch in self._tracker.watches():
            try:
                watch.begin_drain()
                watch.sweep(now, self._quiet)
            except Exception:
                log.failure("a connection cannot be watched and is left to the deadline")
        # With very many connections it is a long look, and they are to be served meanwhile.
        self.clock.callLater(max(SWEEP, 10 * (self.clock.seconds() - now)), self._sweep)

    def close_listeners(self) -> Deferred[None]:
        """Close the listening ports without losing a connection; each says so in the log."""
        at_work = {transport.logPrefix() for transport in self._tracker.connections}
        closing = [
            Deferred.fromCoroutine(self._close(port))
            for port, opened_by in list(self._tracker.ports.items())
            if opened_by not in at_work
        ]
        closed: Deferred[None] = Deferred()
        DeferredList(closing, consumeErrors=True).addCallback(lambda ignored: closed.callback(None))
        return closed

    async def _close(self, port: Any) -> None:
        try:
            # A factory without ports stops, and a site that has stopped logs no request any more.
            port.factory.doStart()
            self._factories.append(port.factory)
        except Exception:
            log.failure("a factory does not start once more, and stops with its port")
        await close_port(self._reactor, name_of_port(port), port)

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing is in flight, no connection is left, and every last byte is at its client."""
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            if self._lingering:
                self.clock.callLater(LOOK_AGAIN, look, None)
            else:
                done.callback(None)

        self._tracker.all_gone().addCallback(look)
        return done

    def has_leftovers(self) -> bool:
        """Whether anything is left."""
        return bool(self._tracker.connections or self._tracker.deferreds() or self._lingering)

    def has_spared(self) -> bool:
        """Nothing has a second deadline."""
        return False

    def take_down(self, everything: bool) -> Deferred[None]:
        """End what is left, and name it; fires when it has ended, or has had its time."""
        now = self.clock.seconds()
        for watch in self._tracker.watches():
            try:
                taken = watch.take_down()
            except Exception:
                log.failure("a connection could not be taken down and is closed")
                taken = list(watch.items.values())
                watch.transport.abortConnection()
            self._log_takedown(taken, now)
        for deferred, item in self._tracker.deferreds():
            self._log_takedown([item], now)
            self._cancel(deferred)
        done: Deferred[None] = Deferred()
        self._wait_for_end(done, now + LAST_MOMENT)
        return done

    def _cancel(self, deferred: Deferred[Any]) -> None:
        try:
            deferred.cancel()
        except Exception:
            log.failure("a Deferred that was counted could not be cancelled")

    def _log_takedown(self, taken: list[TrackedItem], now: float) -> None:
        for item in taken:
            self.taken_down += 1
            log.warn("taking down {what}", what=item.describe(now))

    def _wait_for_end(self, done: Deferred[None], until: float) -> None:
        if not self.has_leftovers():
            done.callback(None)
        elif self.clock.seconds() < until:
            self.clock.callLater(LOOK_AGAIN, self._wait_for_end, done, until)
        else:
            for transport in list(self._tracker.connections):
                transport.abortConnection()
            # They are lost in the reactor's next turn; a Deferred that knows no cancelling is left alone.
            self._reactor.callLater(0, done.callback, None)

    def finish(self, seconds: float) -> Deferred[None]:
        """Nothing is in flight: the reactor's own shutdown may begin, and thread pools have until the deadline."""
        self._tracker.on_add = self._tracker.lingering = None
        self._lingering.close()
        while self._factories:
            try:
                self._factories.pop().doStop()
            except Exception:
                log.failure("a factory could not be stopped")
        if self._process is not None:
            deadline, now = self.drain.takedown_at(), self.clock.seconds()
            assert deadline is not None
            self._process.pools.until = max(deadline, now + LAST_MOMENT)
        self.clock.stop()
        return succeed(None)

    # -- the end ------------------------------------------------------------------------------------------

    def ended(self) -> None:
        """The reactor has stopped, and so have the thread pools: say how it went, and see to the exit status."""
        if self.drain.state != State.GONE:
            return  # the reactor was crashed, as its interface calls it
        abandoned = 0
        if self._process is not None:
            self._process.pools.reactor_gone()
            abandoned = self._process.pools.abandoned
        seconds, taken = monotonic() - self._began, self.taken_down - self._taken_before
        finished = self._tracker.issued - self._finished_before - taken  # whatever was not taken down has ended
        log.info(
            "drained in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned",
            seconds=seconds,
            finished=finished,
            taken=taken,
            abandoned=abandoned,
        )
        status = 1 if self._failed else ABANDONED if abandoned else TAKEN_DOWN if taken else FINISHED
        if self._control is not None:
            self._control.end(status, seconds, finished, taken, abandoned)
        if self._process is None:
            return
        # It was not the signal that has ended the process; twistd would have it die of it.
        self._reactor._exitSignal = None
        if status != FINISHED:
            self._process.verdict(status)
        elif self.exit_requested:
            self._process.arm(REPORTS + EXIT_SECONDS)
