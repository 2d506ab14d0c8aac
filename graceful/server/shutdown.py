"""The steps of a drain: what each does to an engine's sockets, connections and threads, and how the process ends.

:mod:`graceful.drain` decides their order and their time.
"""

from __future__ import annotations

from concurrent.futures import Future
from inspect import iscoroutinefunction
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.application import drain_notice, hooks
from graceful.drain.result import DrainResult
from graceful.logs.attempt import attempt, attempt_deferred
from graceful.process.exit import ABANDONED, EXIT_SECONDS, FINISHED, REPORTS, TAKEN_DOWN
from graceful.process.own_process import OwnProcess
from graceful.reports.outlets import as_json
from graceful.server.engine import Engine
from graceful.takedown.drain_deadline import DrainTakedown
from graceful.takedown.request_timeout import take_down_one
from graceful.web.connection import open_connections, spared_exchanges

log = Logger(namespace="graceful")


#: Seconds between two looks whether threads or reports have come to their end, which no event announces.
LOOK_AGAIN: Final = 0.02


class DrainListener(Protocol):
    """An instance that is told the steps of its drain, in the order of these methods.  Reactor thread."""

    def going_down(self) -> None:
        """The drain has begun: tell the balancer and the service manager."""

    def before_closing(self) -> Deferred[None]:
        """The sockets are about to be closed, which waits until this fires."""

    def sockets_closed(self) -> None:
        """Every listening socket is closed."""

    def more_arrive(self) -> bool:
        """Nothing is left: take no more connections in.  Returns whether some are still on their way."""

    def before_leaving(self) -> Deferred[None]:
        """Something was taken down: the process leaves only when this fires, so that it can be read."""

    def drained(self, result: DrainResult) -> None:
        """The drain is over; the process leaves after this call."""


class Shutdown:
    """Drains an engine; a `graceful.drain.machine.Drainable`.  Reactor thread.

    :param engine: is drained.
    :param reactor: stopped at the end, if the server owns its process.
    :param process: None if the server does not own its process.
    :param listener: is called at the steps of the drain.
    :param words: the first words of two log lines: that the server stops, and how the drain has ended.
    """

    def __init__(
        self,
        engine: Engine,
        reactor: Any,
        process: OwnProcess | None,
        listener: DrainListener,
        words: tuple[str, str] = ("stopping", "drained"),
    ) -> None:
        self._engine = engine
        self._site = engine.site
        self._reactor = reactor
        self._process = process
        self._finished_before = 0
        self._takedown: DrainTakedown | None = None
        self._taken_before = self._abandoned = 0
        self._listener = listener
        self._words = words
        self._failed = False
        self._keeps_pid_file = True

    def fail(self) -> None:
        """End with status 1, however the drain goes: the server stops because of a failure, not by an order."""
        self._failed = True

    def give_up_pid_file(self) -> None:
        """Leave the pid file alone from now on: it belongs to the successor."""
        self._keeps_pid_file = False

    @property
    def taken_down(self) -> int:
        """How many exchanges were taken down since the start."""
        return self._engine.request_timeouts.taken + (self._takedown.taken if self._takedown is not None else 0)

    @property
    def abandoned(self) -> int:
        """How many threads were abandoned, once everything was taken down."""
        return self._abandoned

    def take_down_one(self, number: int) -> list[int]:
        """Take down an exchange, and those behind it on its connection.  Returns the numbers of those interrupted."""
        return take_down_one(self._site, self._engine.request_timeouts, number)

    def going_down(self) -> None:
        """Tell the balancer to send requests elsewhere, and the application that the server is going down."""
        # Before the application is told of the drain, since it may finish something at once.
        self._finished_before = self._site.register.finished
        self._site.go_down()
        hooks.going_down(self)
        attempt(drain_notice.wake_all)
        attempt(self._engine.asgi.notice)
        self._taken_before = self.taken_down
        self._engine.request_timeouts.begin_drain()
        self._engine.health.begin_going_down()
        for function in hooks.at_drain:
            if iscoroutinefunction(function):
                attempt(self._engine.asgi.tell, function)
            else:
                attempt(self._engine.callbacks.call, function)
        attempt(self._listener.going_down)

    def last_requests(self, quiet: bool) -> None:
        """Make every answer from now on the last one on its connection."""
        site = self._site
        begins = not site.draining
        site.drain(self._engine.clock.seconds(), quiet)
        if begins:
            log.info("{words}: {count} in flight", words=self._words[0], count=len(site.register.exchanges))
        self._engine.sweep_in_drain()

    def close_listeners(self) -> Deferred[None]:
        """Close all listening sockets; each is logged.  Fires when all are closed."""
        if self._process is not None and self._process.pid_file is not None and self._keeps_pid_file:
            attempt(self._process.pid_file.release)  # before "closed" is said: a successor may start at that word
        closed = attempt_deferred(self._listener.before_closing)
        closed.addCallback(lambda ignored: attempt_deferred(self._engine.listening.close))
        return closed.addCallback(lambda ignored: attempt(self._listener.sockets_closed))

    def all_gone(self) -> Deferred[None]:
        """Fire when no connection is left, and no thread works for an exchange any more."""
        # The sockets are closed: a client whose parked request or WebSocket is ended reconnects to the next instance.
        attempt(self._engine.parking_lot.drain)
        attempt(self._engine.websockets.drain)
        done: Deferred[None] = Deferred()
        register = self._site.register

        def look(ignored: object) -> None:
            works = register.exchanges or self._engine.interrupt_scheduler.busy or self._engine.asgi.tasks
            if register.connections:  # one has moved here meanwhile
                register.all_gone().addCallback(look)
            elif works or self._listener.more_arrive():
                self._engine.clock.callLater(LOOK_AGAIN, look, None)
            else:
                done.callback(None)

        register.all_gone().addCallback(look)
        return done

    def has_leftovers(self) -> bool:
        """Whether anything is left but downloads."""
        spared = spared_exchanges(self._site)
        return any(exchange not in spared for exchange in self._site.register.in_flight()) or any(
            connection.write_token.current not in spared for connection in open_connections(self._site)
        )

    def has_spared(self) -> bool:
        """Whether downloads are left."""
        return bool(spared_exchanges(self._site))

    def take_down(self, everything: bool) -> Deferred[None]:
        """End all that is left.

        :param everything: downloads, too.
        """
        if self._takedown is None:
            engine = self._engine
            self._takedown = DrainTakedown(
                self._site, engine.clock, engine.working, engine.interrupt_scheduler, engine.reports
            )
        return self._takedown.start(everything)

    def finish(self, seconds: float) -> Deferred[None]:
        """Wait for the application's last calls and the reports, log the result, close the engine, end the process.

        :param seconds: how long the drain has taken.
        """
        engine = self._engine
        done: Deferred[None] = Deferred()
        leaving: dict[Any, Future[Any]] = {function: engine.callbacks.call(function) for function in hooks.at_exit}
        leaving.update((lifespan.shutdown, lifespan.shutdown()) for lifespan in engine.asgi.lifespans())
        self._abandoned = self._count_abandoned()
        publisher = engine.reports.publisher
        publisher.end()
        until = engine.clock.seconds() + REPORTS

        def look() -> None:
            if (
                publisher.busy or not all(call.done() for call in leaving.values())
            ) and engine.clock.seconds() < until:
                engine.clock.callLater(LOOK_AGAIN, look)
                return
            for function, call in leaving.items():
                if not call.done():
                    log.warn("{function!r} has not returned in {limit:g} s", function=function, limit=REPORTS)
            attempt(publisher.give_up)
            taken = self.taken_down > self._taken_before
            read = attempt_deferred(self._listener.before_leaving) if taken else succeed(None)
            read.addCallback(lambda ignored: self._end(seconds)).chainDeferred(done)

        look()
        return done

    def _count_abandoned(self) -> int:
        """Returns how many could not be taken down at the deadline, or were abandoned before it."""
        return sum(exchange.takedown is not None for exchange in self._engine.working())

    def _end(self, seconds: float) -> None:
        takedown = self._takedown
        interrupted = [
            *(self._engine.request_timeouts.in_drain or ()),
            *(takedown.interrupted.values() if takedown else ()),
        ]
        taken = self.taken_down - self._taken_before
        abandoned = self._abandoned = self._count_abandoned()
        finished = self._site.register.finished - self._finished_before - taken
        attempt(self._engine.close)
        hooks.gone(self)
        log.info(
            "{words} in {seconds:.1f} s: {finished} finished, {taken} taken down, {abandoned} abandoned{moved}",
            words=self._words[1],
            seconds=seconds,
            finished=finished,
            taken=taken,
            abandoned=abandoned,
            moved=f", {self._site.moved} connections moved" if self._site.moved else "",
        )
        lines = [self._engine.reports.writer.line(what) for what in interrupted]
        if lines:
            log.info("interrupted: {json}", json=as_json(lines))
        status = ABANDONED if abandoned else TAKEN_DOWN if taken else FINISHED
        reports = tuple(line["report"] for line in lines if line["report"])
        ending = DrainResult(1 if self._failed else status, seconds, finished, taken, abandoned, reports)
        if self._process is None:
            attempt(self._listener.drained, ending)
        else:
            self._process.leave(self._reactor, ending, REPORTS + EXIT_SECONDS, self._listener.drained)
