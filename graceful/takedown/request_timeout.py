"""Exchanges that exceed their `--request-timeout` while the server runs normally.

A thread that hangs is lost until an unplanned restart.  So an exchange that exceeds its limit by the margin is taken
down: its client gets 503, or sees its answer cut; its thread is brought down and goes back to work.  If it does not
come down, another thread takes its place, so that the pool does not silently shrink.

Exchanges that exceed a limit that is only tried out, or `--report-slower-than`, are reported here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.reports.interruption import Interruption
from graceful.reports.reporter import Reporter
from graceful.takedown.last_answer import interrupt, take_down
from graceful.takedown.thread_interrupt import Interrupt, InterruptScheduler
from graceful.threads.stacks import Worker, kind_of, stack_of
from graceful.web.exchange import APPLICATION, QUEUED, SENDING, WEBSOCKET, Exchange
from graceful.web.site import Site

log = Logger(namespace="graceful")


#: Why an exchange is taken down by `graceful takedown`, in words that follow "taking down".
WHY: Final = "by order"


def take_down_one(site: Site, timeouts: RequestTimeouts, number: int) -> list[int]:
    """Take down an exchange; those behind it on its connection go on, if the connection can be kept.  Reactor thread.

    :param site: it has the exchange.
    :param timeouts: takes single exchanges down.
    :param number: of the exchange.
    :returns: the numbers of those that were interrupted; none if the exchange is not in flight, or if others are
        before it on its connection, since those would be interrupted first.
    """
    exchange = site.register.exchanges.get(number)
    if exchange is None:
        return []
    connection = exchange.connection
    current = connection.write_token.current
    if current is None:
        if exchange not in connection.under_way():
            return []
    elif current is not exchange:
        return []
    return [one.id for one in timeouts.interrupt(exchange, WHY, cut=True)]


#: Seconds between two looks at all exchanges: so much later than its limit one may be taken down.
LOOK: Final = 0.25


@define
class _Noted:
    """An exchange that is only reported, when it has ended.

    :ivar why: which limit it has exceeded.
    :ivar stack: of its thread at that time.
    """

    why: str
    stack: str


class RequestTimeouts:
    """Takes down or reports exchanges that run for too long.  Reactor thread.

    :param site: its exchanges are watched, by its limits.
    :param clock: monotonic time.
    :param working: the exchanges that a thread or a task works for, each with that.
    :param queued: the exchanges that wait for a thread.
    :param scheduler: brings threads down.
    :param reports: gets the reports.
    :param replace: starts a thread in the place of one that is lost; returns False if too many are lost.
    :ivar taken: how many exchanges in flight were interrupted.
    :ivar in_drain: what was interrupted since a drain began; None before it.
    """

    def __init__(
        self,
        site: Site,
        clock: IReactorTime,
        working: Callable[[], dict[Exchange, Any]],
        queued: Callable[[], list[Exchange]],
        scheduler: InterruptScheduler,
        reports: Reporter,
        replace: Callable[[Any], bool],
    ) -> None:
        self._site = site
        self._clock = clock
        self._working = working
        self._queued = queued
        self._scheduler = scheduler
        self._reports = reports
        self._replace = replace
        self._slow = site.settings.report_slower_than
        self._noted: dict[Exchange, _Noted] = {}
        self._interrupted: dict[Exchange, Interruption] = {}
        self.taken = 0
        self.in_drain: list[Interruption] | None = None

    def begin_drain(self) -> None:
        """Collect in `in_drain` what is interrupted from now on."""
        self.in_drain = []

    def start(self) -> None:
        """Begin to look, if there is a limit."""
        if self._site.limits.any or self._slow is not None:
            self._clock.callLater(LOOK, self._look)

    def _look(self) -> None:
        self._clock.callLater(LOOK, self._look)
        now, working = self._clock.seconds(), self._working()
        for exchange, thread in working.items():
            if exchange.takedown is None:
                self._look_at(exchange, thread, now)
        for exchange in self._queued():
            limit = self._site.limits.passed(exchange, now)
            if limit is not None and not limit.report:
                self.interrupt(exchange, f"at the limit {limit}")
        for exchange in [exchange for exchange in self._noted if exchange not in working]:
            noted = self._noted.pop(exchange)
            if exchange.takedown is None and not exchange.error:  # else there is a report already
                self._reports.slow(exchange, noted.why, noted.stack)

    def _look_at(self, exchange: Exchange, thread: Worker, now: float) -> None:
        limit = self._site.limits.passed(exchange, now)
        if limit is not None and not limit.report:
            if exchange.in_application or not exchange.ended:  # else it is about to end
                self.interrupt(exchange, f"at the limit {limit}")
        elif exchange not in self._noted:
            if limit is not None:
                self._note(exchange, thread, f"the limit {limit}, which is only tried out", now)
            elif self._slow is not None and exchange.phase != WEBSOCKET and now - exchange.started >= self._slow:
                self._note(exchange, thread, f"{self._slow:g} s", now)

    def _note(self, exchange: Exchange, thread: Worker, why: str, now: float) -> None:
        exchange.report = exchange.report or self._reports.new_id()
        self._noted[exchange] = _Noted(why, stack_of(thread))
        log.info("{what} has passed {why} ({report})", what=exchange.describe(now), why=why, report=exchange.report)

    def interrupt(self, exchange: Exchange, why: str, cut: bool = False) -> list[Exchange]:
        """Take an exchange down.

        :param why: in words that follow "taking down".
        :param cut: even if its answer is complete, and only on its way to a slow client.
        :returns: the exchanges in flight that were interrupted.
        """
        now, thread = self._clock.seconds(), self._working().get(exchange, 0)
        exchange.report = exchange.report or self._reports.new_id()
        stack = stack_of(thread)
        interruption = Interruption.of(exchange, why, now, stack)
        log.warn(
            "taking down {what} {why} ({report}){stack}",
            what=exchange.describe(now),
            why=why,
            report=exchange.report,
            stack=f", its {kind_of(thread)} is here:\n{stack}" if stack else "",
        )
        interrupted = self._end(exchange, cut)
        interruption.status = exchange.status
        self.taken += len(interrupted)
        if interrupted and self.in_drain is not None:
            self.in_drain.append(interruption)
        for one in interrupted:
            self._site.interrupted(one)
        if thread:
            self._interrupted[exchange] = interruption
            self._scheduler.start(exchange, thread, self._ended)
        else:
            exchange.abandon()
            self._reports.taken_down(interruption)
        return interrupted

    @staticmethod
    def _end(exchange: Exchange, cut: bool) -> list[Exchange]:
        """End the exchange for its client.

        :returns: the exchanges that were interrupted.
        """
        connection = exchange.connection
        if exchange.phase == WEBSOCKET:
            exchange.taken_down = True  # before the end, at which it is logged
            if exchange.handler.take_down():
                return [exchange]
            exchange.taken_down = False
        if exchange.phase not in (QUEUED, APPLICATION, SENDING) or exchange.download or (cut and exchange.ended):
            return take_down(connection)
        behind = [*connection.write_token.waiting, *connection.under_way()]
        if not interrupt(exchange):
            return []
        return [exchange, *(behind if connection.write_token.closed or connection.write_token.closing else ())]

    def _ended(self, thread_interrupt: Interrupt, down: bool) -> None:
        """Report an exchange: its thread is free again, or lost."""
        exchange = thread_interrupt.exchange
        interruption = self._interrupted.pop(exchange)
        interruption.thread_ended(down, thread_interrupt.story)
        story, kind = ", ".join(interruption.story), kind_of(thread_interrupt.thread)
        if down:
            log.info(
                "{exchange} ({report}): its {kind} has come down",
                exchange=exchange,
                report=exchange.report,
                kind=kind,
            )
        elif kind != "thread":
            log.warn(
                "{exchange} ({report}): its {kind} could not be brought down ({story}) and is abandoned; it is here:"
                "\n{stack}",
                exchange=exchange,
                report=exchange.report,
                kind=kind,
                story=story,
                stack=stack_of(thread_interrupt.thread),
            )
        else:
            replaced = self._replace(thread_interrupt.thread)
            log.warn(
                "{exchange} ({report}): its thread could not be brought down ({story}) and is lost; {instead}; it is"
                " here:\n{stack}",
                exchange=exchange,
                report=exchange.report,
                story=story or "it was never where that can be done",
                instead="another one takes its place" if replaced else "too many are lost to replace it",
                stack=stack_of(thread_interrupt.thread),
            )
        self._reports.taken_down(interruption)
