"""The steps of a drain, for the ports and connections of any Twisted service.

:mod:`graceful.drain` has the order of the steps; a step here finds what is open or in flight by the tracker
(:mod:`graceful.reactor.tracking`), and closes, waits for, or takes down each.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.process.clock import MonotonicClock
from graceful.reactor.lingering import Lingering
from graceful.reactor.tracking import TrackedItem, Tracker
from graceful.reactor.transports import name_of_port
from graceful.sockets.endpoint_listener import close_port

log = Logger(namespace="graceful")


#: Seconds between two looks at idle connections in a drain.
SWEEP: Final = 0.1

#: Seconds that a connection or Deferred has to end by itself after it was taken down; and thread pools at least.
LAST_MOMENT: Final = 2.0

#: Seconds between two looks at whether the last bytes are confirmed, or what was taken down has ended.
LOOK_AGAIN: Final = 0.05


class ReactorDrainListener(Protocol):
    """Is told of two moments of a drain."""

    def going_down(self) -> None:
        """The drain begins; the balancer has to look elsewhere."""

    def drained(self) -> None:
        """Nothing is in flight any more."""


class ReactorDrainable:
    """Drains the ports and connections of a reactor: a :class:`graceful.drain.machine.Drainable`.  Reactor thread.

    :param tracker: knows the ports, the connections, and what is in flight.
    :param listener: told when the drain begins and when it is over.
    :ivar taken_down: how many items were taken down, also before the drain.
    """

    def __init__(
        self, reactor: IReactorTime, tracker: Tracker, clock: MonotonicClock, listener: ReactorDrainListener
    ) -> None:
        self._reactor = reactor
        self._tracker = tracker
        self._clock = clock
        self._listener = listener
        self._lingering = Lingering()
        self._factories: list[Any] = []
        self._over = False
        self._quiet = False  # no client sends further requests on idle connections
        self.taken_down = self._taken_before = 0
        self._finished_before = 0

    @property
    def taken(self) -> int:
        """How many items this drain has taken down."""
        return self.taken_down - self._taken_before

    @property
    def finished(self) -> int:
        """How many items have ended by themselves in this drain, once it is over."""
        return self._tracker.issued - self._finished_before - self.taken

    # -- the steps, in their order ---------------------------------------------------------------------

    def going_down(self) -> None:
        """Tell the balancer to look elsewhere."""
        self._taken_before = self.taken_down
        self._listener.going_down()

    def last_requests(self, quiet: bool) -> None:
        """Make every answer from now on its connection's last."""
        self._quiet = self._quiet or quiet
        tracker = self._tracker
        if not tracker.draining:
            in_flight = len(tracker.in_flight())
            self._finished_before = tracker.issued - in_flight
            log.info("stopping: {count} in flight", count=in_flight)
            tracker.begin_drain(self._added, self._lingering)
            self._sweep()

    def close_listeners(self) -> Deferred[None]:
        """Close the listening ports without losing a connection; each is named in the log."""
        at_work = {transport.logPrefix() for transport in self._tracker.connections}
        closing = [
            Deferred.fromCoroutine(self._close(port))
            for port, opened_by in list(self._tracker.ports.items())
            if opened_by not in at_work
        ]
        closed: Deferred[None] = Deferred()
        DeferredList(closing, consumeErrors=True).addCallback(lambda ignored: closed.callback(None))
        return closed

    def all_gone(self) -> Deferred[None]:
        """Fire when nothing is in flight, no connection is left, and every last byte is at its client."""
        done: Deferred[None] = Deferred()

        def look(ignored: object) -> None:
            if self._lingering:
                self._clock.callLater(LOOK_AGAIN, look, None)
            else:
                done.callback(None)

        self._tracker.all_gone().addCallback(look)
        return done

    def has_leftovers(self) -> bool:
        """Whether anything is left."""
        return bool(self._tracker.connections or self._tracker.deferreds() or self._lingering)

    def has_spared(self) -> bool:
        """Returns False: nothing has a second deadline."""
        return False

    def take_down(self, everything: bool) -> Deferred[None]:
        """End what is left, and name it in the log; fire when it has ended, or has had its time."""
        now = self._clock.seconds()
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
            _cancel(deferred)
        done: Deferred[None] = Deferred()
        self._wait_for_end(done, now + LAST_MOMENT)
        return done

    def finish(self, seconds: float) -> Deferred[None]:
        """Release what the drain has held: nothing is in flight any more."""
        self._over = True
        self._tracker.end_drain()
        self._lingering.close()
        while self._factories:
            try:
                self._factories.pop().doStop()
            except Exception:
                log.failure("a factory could not be stopped")
        self._listener.drained()
        return succeed(None)

    # -- one item --------------------------------------------------------------------------------------

    def take_down_one(self, number: int) -> list[int]:
        """Take down the item with a number; returns the numbers of all items that this interrupts."""
        found = self._tracker.find(number)
        if found is None:
            return []
        watch, item = found
        taken = [item] if watch is None else watch.take_down(item)
        self._log_takedown(taken, self._clock.seconds())
        if watch is None:
            _cancel(item.connection)
        return [one.id for one in taken]

    # -- within the steps ------------------------------------------------------------------------------

    def _added(self, transport: Any) -> None:
        """A connection was accepted in the drain; it has its protocol by the end of this turn."""
        self._reactor.callLater(0, self._begin_drain_of, transport)

    def _begin_drain_of(self, transport: Any) -> None:
        watch = self._tracker.watch(transport)
        if watch is not None:
            watch.begin_drain()

    def _sweep(self) -> None:
        """Close the connections that have had their time; all are asked, since a protocol may have changed."""
        if self._over:
            return
        now = self._clock.seconds()
        self._lingering.release_confirmed()
        for watch in self._tracker.watches():
            try:
                watch.begin_drain()
                watch.sweep(now, self._quiet)
            except Exception:
                log.failure("a connection cannot be watched and is left to the deadline")
        # With very many connections a sweep takes long, and they are to be served meanwhile.
        self._clock.callLater(max(SWEEP, 10 * (self._clock.seconds() - now)), self._sweep)

    async def _close(self, port: Any) -> None:
        try:
            # A factory without ports stops, and a site that has stopped logs no request any more.
            port.factory.doStart()
            self._factories.append(port.factory)
        except Exception:
            log.failure("a factory does not start once more, and stops with its port")
        await close_port(self._reactor, name_of_port(port), port)

    def _log_takedown(self, taken: list[TrackedItem], now: float) -> None:
        for item in taken:
            self.taken_down += 1
            log.warn("taking down {what}", what=item.describe(now))

    def _wait_for_end(self, done: Deferred[None], until: float) -> None:
        if not self.has_leftovers():
            done.callback(None)
        elif self._clock.seconds() < until:
            self._clock.callLater(LOOK_AGAIN, self._wait_for_end, done, until)
        else:
            for transport in list(self._tracker.connections):
                transport.abortConnection()
            # They are lost in the reactor's next turn; a Deferred without a canceller is left alone.
            self._reactor.callLater(0, done.callback, None)


def _cancel(deferred: Deferred[Any]) -> None:
    try:
        deferred.cancel()
    except Exception:
        log.failure("a Deferred that was counted could not be cancelled")
