"""Metrics: what is counted, and that Prometheus can read it."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from graceful.control import metrics as module
from graceful.control.counters import BOUNDS, Counters
from graceful.control.health import Health
from graceful.control.metrics import Metrics
from graceful.drain.result import DrainResult
from graceful.drain.state import State
from graceful.server.server_status import ServerStatus
from graceful.web.exchange import PHASES
from graceful.web.queue_times import QueueTimes
from tests.fast.doubles import Case, Engine, get


def ended(status: int, seconds: float, *, download: bool = False, sent: int = 0) -> Any:
    """An exchange that has ended."""
    return SimpleNamespace(status=status, started=10.0, ended=10.0 + seconds, download=download, sent=sent)


class TallyTests(Case):
    """Counting of exchanges by the threads that end them."""

    def test_loses_no_count_of_any_thread(self) -> None:
        """No count of any thread is lost, and everything is handed on."""
        seen: list[Any] = []
        tally = Counters()
        record = tally.before(seen.append)

        def count() -> None:
            for _ in range(1000):
                record(ended(200, 0.02))

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        row = tally.sums()[2]
        self.assertEqual(sum(row[:-1]), len(seen))
        self.assertEqual(len(seen), 8000)
        self.assertAlmostEqual(row[-1], 160.0)

    def test_counts_in_bucket_and_class(self) -> None:
        """Each duration is in the first bucket that is not less, each status in its class."""
        tally = Counters()
        record = tally.before(None)
        for seconds in (0.0, 0.001, 0.0011, 1000.0):
            record(ended(404, seconds))
        record(ended(0, 1.0))
        record(ended(999, 1.0))
        sums = tally.sums()
        self.assertEqual(sums[4][:3], [2, 1, 0])
        self.assertEqual(sums[4][len(BOUNDS)], 1)
        self.assertEqual(sum(sums[0][:-1]), 1)


class MetricsTests(Case):
    """The text."""

    def setUp(self) -> None:
        """Have an instance with something in flight."""
        super().setUp()
        self.counters = Counters()
        self.engine = Engine(self, record=self.counters.before(None))
        self.status = ServerStatus(self.engine.site.settings)
        self.instance: Any = SimpleNamespace(
            site=self.engine.site,
            clock=SimpleNamespace(seconds=lambda: 0.0),
            health=Health("/"),
            working=dict,
            thread_names=dict,
            threads=lambda: (1, 20, 0),
            sockets=lambda: [],
            queues=lambda: [],
        )
        nothing = cast(Any, SimpleNamespace(taken_down=0, abandoned=0, latest_exit=lambda: 0.0))
        self.status.read_from(self.instance, cast(Any, None), nothing, nothing, counters=self.counters)
        self.metrics = Metrics(self.status)

    def read(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Returns what Prometheus' own parser makes of the text, after checking its form."""
        text = self.metrics.render(self.status.snapshot_with_counters(0))
        found = {}
        for family in text_string_to_metric_families(text.decode()):
            self.assertTrue(family.name.startswith("graceful_"), family.name)
            self.assertTrue(family.documentation.endswith("."), family.name)
            self.assertNotEqual(family.type, "unknown", family.name)
            for sample in family.samples:
                found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
        return found

    def test_every_phase_has_a_value(self) -> None:
        """Exchanges in flight are counted by phase, each phase always; an exchange that has ended is counted once."""
        client, exchange = self.ask()
        told = self.read()
        phases = {labels[0][1] for name, labels in told if name == "graceful_in_flight_exchanges"}
        self.assertEqual(phases, {phase.replace(" ", "_") for phase in PHASES})
        self.assertEqual(sum(told["graceful_in_flight_exchanges", (("phase", phase),)] for phase in phases), 1)
        self.assertEqual(told["graceful_requests_total", (("status", "2xx"),)], 0)
        self.answer(exchange)
        told = self.read()
        self.assertEqual(told["graceful_requests_total", (("status", "2xx"),)], 1)
        self.assertEqual(told["graceful_request_duration_seconds_count", ()], 1)
        self.assertEqual(told["graceful_request_duration_seconds_bucket", (("le", "+Inf"),)], 1)
        client.close()

    def test_clients_that_wait_are_counted_by_socket(self) -> None:
        """The queues of all sockets of one name are added up; one that several processes share counts once."""
        self.instance.queues = lambda: [
            ("tcp:a:80", 1, 3),
            ("tcp:a:80", 2, 4),
            ("tcp:a:80", 1, 3),
            ("tcp:b:80", 3, 0),
        ]
        told = self.read()
        waiting = [told["graceful_backlog_connections", (("socket", name),)] for name in ("tcp:a:80", "tcp:b:80")]
        self.assertEqual(waiting, [7, 0])

    def test_times_in_the_queue_are_a_histogram_of_each_place(self) -> None:
        """How long exchanges wait here and in a proxy is a histogram each; without a measurement there is none."""
        self.assertNotIn("graceful_queue_seconds_count", [name for name, _ in self.read()])
        self.engine.site.queue_times = QueueTimes()
        for before in (None, 0.3):
            self.counters.waits.count(0.002, before)
        told = self.read()
        name = "graceful_queue_seconds"
        here, proxy = (("where", "server"),), (("where", "proxy"),)
        self.assertEqual([told[f"{name}_count", labels] for labels in (here, proxy)], [2, 1])
        self.assertEqual([told[f"{name}_sum", labels] for labels in (here, proxy)], [0.004, 0.3])
        counts = [told[f"{name}_bucket", (("le", bound), *here)] for bound in ("0.001", "0.0025", "+Inf")]
        self.assertEqual(counts, [0, 2, 2])

    def test_exactly_one_state_is_1(self) -> None:
        """Exactly one state is 1; the deadline has a value only while it runs."""
        for state in State:
            self.status.enter(state)
            told = self.read()
            ones = [labels[0][1] for (name, labels), value in told.items() if name == "graceful_state" and value]
            self.assertEqual(ones, [state])
        self.assertNotIn(("graceful_deadline_seconds", ()), told)

    def test_shows_taken_down_and_abandoned(self) -> None:
        """Exchanges taken down and threads abandoned have their metrics."""
        self.status.progress = cast(Any, SimpleNamespace(taken_down=2, abandoned=0, latest_exit=lambda: 0.0))
        self.status.ending = DrainResult(71, 1.0, 3, 2, 1)
        told = self.read()
        self.assertEqual(told["graceful_taken_down_total", ()], 2)
        self.assertEqual(told["graceful_abandoned_total", ()], 1)

    def test_moved_connections_are_counted_by_direction(self) -> None:
        """Connections that have moved here and away are counted apart."""
        self.engine.site.arrived, self.engine.site.moved = 38, 5
        told = self.read()
        name = "graceful_connections_moved_total"
        self.assertEqual([told[name, (("direction", way),)] for way in ("in", "out")], [38, 5])

    def test_downloads_never_go_back(self) -> None:
        """The bytes of downloads, under way and ended, only grow."""
        client, exchange = self.ask()
        exchange.download, exchange.sent = True, 500
        self.assertEqual(self.read()["graceful_download_bytes_total", ()], 500)
        del self.engine.site.register.exchanges[exchange.id]  # in the very moment between its two places
        self.assertEqual(self.read()["graceful_download_bytes_total", ()], 500)
        client.close()

    def test_no_label_is_the_clients(self) -> None:
        """However many things are asked for, there are no more lines."""
        lines = len(self.read())
        client = self.engine.connect()
        for number in range(50):
            client.send(get(number))
            self.answer(self.engine.asked[-1], body=b"x")
        self.assertEqual(len(self.read()), lines)
        client.close()

    def test_without_the_package(self) -> None:
        """Without prometheus-client there is no text."""
        self.patch(module, "_client", lambda: None)
        self.assertFalse(self.metrics.available)
