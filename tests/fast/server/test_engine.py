"""The engine as a whole, on a reactor in memory."""

from __future__ import annotations

import mimetypes
import os
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource

from graceful.config.settings import Settings
from graceful.control.counters import Counters
from graceful.server.engine import SWEEP, Engine
from graceful.web.exchange import Exchange
from graceful.web.transport_connection import EndpointFactory
from tests.fast.doubles import directory_for


class EngineTests(SynchronousTestCase):
    """An engine that accepts from nowhere."""

    def engine(self, counters: Counters | None = None, **settings: Any) -> Engine:
        """Start an engine."""
        engine = Engine(MemoryReactorClock(), Settings(**settings), Resource(), counters=counters)
        self.addCleanup(engine.close)
        engine.accept((), (), EndpointFactory())
        return engine

    def test_one_look_that_fails_does_not_keep_the_others_from_looking(self) -> None:
        """The relays' time-outs are seen to although something else raises, each second."""
        engine = self.engine()
        looked: list[float] = []

        def fail(now: float) -> None:
            raise ZeroDivisionError

        self.patch(engine, "_end_overdue", fail)
        self.patch(engine._relays, "tick", looked.append)
        for number in (1, 2):
            engine._sweep()
            self.assertEqual(len(looked), number)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertGreater(SWEEP, 0)

    def test_what_ends_and_what_has_waited_is_counted(self) -> None:
        """An engine that is given counters has its exchanges counted."""
        counters = Counters()
        engine = self.engine(counters, status_listen=("tcp:0",))
        exchange: Any = Exchange(cast(Any, SimpleNamespace(peer="", scheme="http")))
        exchange.status, exchange.started, exchange.ended, exchange.entered = 200, 1.0, 3.0, 0.0
        times, record = engine.site.queue_times, engine.site.record
        assert times is not None and record is not None
        times.refuses(exchange)
        record(exchange)
        self.assertEqual([row[-1] for row in counters.sums()][2], 2.0)
        self.assertGreater(counters.waits.sums()[0][-1], 0.0)

    def test_media_types_are_read_before_a_request_asks_for_one(self) -> None:
        """A file with a byte that is no UTF-8 is left out, instead of failing each download."""
        path = os.path.join(directory_for(self), "mime.types")
        with open(path, "wb") as file:
            file.write(b"text/x-b\xff bad\n")
        self.patch(mimetypes, "knownfiles", [path])
        self.engine()
        self.assertEqual(mimetypes.knownfiles, [])
