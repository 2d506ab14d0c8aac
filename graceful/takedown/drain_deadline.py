"""The deadline of a drain: exchanges that are still running are taken down, and named in the log.

Most servers kill the process at this point and say nothing.  A client whose answer has not begun deserves a 503 and
a time to try again; a client whose answer has begun must see that it is cut; and the operator must read which
requests were interrupted, how old they were, and where their threads were.  Clients are told at once, all threads are
brought down side by side, and those that do not come down in time are named and abandoned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.process.exit import TAKEDOWN
from graceful.reports.interruption import Interruption
from graceful.reports.reporter import Reporter
from graceful.takedown.last_answer import take_down
from graceful.takedown.thread_interrupt import LATE, LOOK_AGAIN, WITHIN, Interrupt, InterruptScheduler
from graceful.threads.stacks import kind_of, stack_of
from graceful.web.connection import Connection, open_connections, spared_exchanges
from graceful.web.exchange import Exchange
from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Seconds that a takedown takes at most, without pauses: those of its threads, and a few looks more.
LAST_MOMENT: Final = WITHIN + 4 * LOOK_AGAIN
assert LAST_MOMENT < TAKEDOWN


class DrainTakedown:
    """Takes down what a site still has in flight.  Reactor thread.

    :param site: its connections and exchanges are taken down.
    :param clock: monotonic time.
    :param working: the exchanges that a thread or a task works for, each with that.
    :param scheduler: brings threads and tasks down.
    :param reports: gets a report of each exchange that is taken down.
    :ivar interrupted: the exchanges that were interrupted.
    :ivar abandoned: how many threads did not end.
    """

    def __init__(
        self,
        site: Site,
        clock: IReactorTime,
        working: Callable[[], dict[Exchange, Any]],
        scheduler: InterruptScheduler,
        reports: Reporter,
    ) -> None:
        self._site = site
        self._clock = clock
        self._working = working
        self._scheduler = scheduler
        self._reports = reports
        self._everything = True
        self.interrupted: dict[Exchange, Interruption] = {}
        self._counted: set[Exchange] = set()
        self._with_thread: set[Exchange] = set()
        self.abandoned = 0

    def start(self, everything: bool) -> Deferred[None]:
        """Take down what is in flight.

        :param everything: downloads too, which are spared otherwise.
        :returns: fires when all threads have ended, or are abandoned.
        """
        self._everything = everything
        spared = self._spared()
        working = self._working()
        for exchange in dict.fromkeys((*self._site.register.in_flight(), *working)):
            if exchange not in spared and exchange not in self.interrupted:
                self._log_takedown(exchange, working.get(exchange, 0))
        for connection in self._ending(spared):
            self._end(connection)
        for exchange in self._site.register.in_flight():
            if exchange in working and exchange not in spared:
                self._count(exchange)  # its client has left, but its thread still works
        for exchange, interruption in list(self.interrupted.items()):
            if exchange in working and interruption.down is None:
                self._with_thread.add(exchange)
                self._scheduler.start(exchange, working[exchange], self._came_down, True)
            elif exchange not in self._counted:
                del self.interrupted[exchange]  # its last byte was on its way
            elif exchange not in self._with_thread:
                self._reports.taken_down(interruption)
        done: Deferred[None] = Deferred()
        now = self._clock.seconds()
        self._wait(done, now, now + LAST_MOMENT)
        return done

    def _spared(self) -> set[Exchange]:
        return set() if self._everything else spared_exchanges(self._site)

    def _ending(self, spared: set[Exchange]) -> list[Connection]:
        """Return the connections that carry nothing that is spared."""
        connections = open_connections(self._site)
        return [connection for connection in connections if connection.write_token.current not in spared]

    def _log_takedown(self, exchange: Exchange, worker: Any) -> None:
        """Write an exchange to the log before it is interrupted.

        :param worker: what works for it; 0 for nothing.
        """
        now, stack = self._clock.seconds(), stack_of(worker)
        exchange.report = exchange.report or self._reports.new_id()
        self.interrupted[exchange] = Interruption.of(exchange, "at the deadline", now, stack)
        log.warn(
            "taking down {what} ({report}){stack}",
            what=exchange.describe(now),
            report=exchange.report,
            stack=f", its {kind_of(worker)} is here:\n{stack}" if stack else "",
        )

    def _end(self, connection: Connection) -> None:
        try:
            interrupted = take_down(connection)
        except Exception:
            # One that fails must not keep the others from being taken down.
            log.failure("a connection could not be taken down and is closed")
            connection.close(reset=True)
            return
        for exchange in interrupted:
            self._count(exchange)

    def _count(self, exchange: Exchange) -> None:
        self._counted.add(exchange)
        exchange.taken_down = True
        if exchange in self.interrupted:
            self.interrupted[exchange].status = exchange.status
        self._site.interrupted(exchange)

    @property
    def taken(self) -> int:
        """How many exchanges in flight were interrupted."""
        return len(self._counted)

    def _came_down(self, interrupt: Interrupt, down: bool) -> None:
        """A thread has ended, or is abandoned."""
        interruption = self.interrupted[interrupt.exchange]
        interruption.thread_ended(down, interrupt.story)
        if not down:
            log.warn(
                "{exchange} ({report}): its {kind} could not be brought down ({story}) and is abandoned; it is here:"
                "\n{stack}",
                kind=kind_of(interrupt.thread),
                exchange=interrupt.exchange,
                report=interrupt.exchange.report,
                story=", ".join(interruption.story) or "it was never where that can be done",
                stack=stack_of(interrupt.thread),
            )
        if interrupt.exchange in self._counted:
            self._reports.taken_down(interruption)
        elif down:
            del self.interrupted[interrupt.exchange]  # its answer was complete: only its close() was interrupted

    def _wait(self, done: Deferred[None], due: float, until: float) -> None:
        now = self._clock.seconds()
        if now - due > LATE:
            until += now - due  # a pause of the reactor is not held against threads
        spared = self._spared()
        left = len(self._working().keys() - spared)
        ending = self._ending(spared)
        if (left or ending or self._scheduler.busy) and now < until:
            self._clock.callLater(LOOK_AGAIN, self._wait, done, now + LOOK_AGAIN, until)
            return
        self.abandoned = left
        for connection in ending:
            connection.close()
        done.callback(None)
