"""Metrics for Prometheus: what the status says, as numbers over time.

Most of them are read from the status when somebody scrapes, and cost nothing otherwise.  Only what has ended cannot
be read later: so every exchange that ends is counted, by the thread that ends it, in a row of its own to which no
other thread writes.  No lock, no lost count, about a third of a microsecond; and nothing at all while there is no
door at which metrics are told.

No label has a value that a client chooses: a status is told by its class, a path not at all.

The text is made by `prometheus-client`, from the extra `graceful[metrics]`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from threading import get_ident
from time import monotonic
from typing import Any, Final

from graceful import __version__
from graceful.control.status import Status
from graceful.web.exchange import QUEUED, Exchange

#: Upper bounds of the duration histogram, seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
CLASSES: Final = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "6xx", "7xx", "8xx", "9xx")
STATES: Final = ("starting", "serving", "lame-duck", "closing", "finishing", "takedown", "gone")

Row = list[Any]  # how many in each bucket, and the sum of the durations at the end


class Tally:
    """Counts what has ended.

    :param then: called with each exchange after it was counted.
    :ivar record: counts an exchange.  Any thread.
    """

    def __init__(self, then: Callable[[Exchange], object] | None) -> None:
        # By thread: a row for each class of status, and the bytes of downloads.  Each is written by its thread alone.
        self._rows: dict[int, tuple[list[Row], list[int]]] = {}
        self.record = self._recorder(then)

    def _recorder(self, then: Callable[[Exchange], object] | None) -> Callable[[Exchange], None]:
        rows_of = self._rows

        # A closure: this is done for every request, and looks up nothing but what it has.
        def record(exchange: Exchange) -> None:
            mine = rows_of.get(get_ident())
            if mine is None:
                mine = rows_of[get_ident()] = [[0] * (len(BOUNDS) + 1) + [0.0] for _ in CLASSES], [0]
            took = exchange.ended - exchange.started
            row = mine[0][exchange.status // 100]
            row[bisect_left(BOUNDS, took)] += 1
            row[-1] += took
            if exchange.download:
                mine[1][0] += exchange.sent
            if then is not None:
                then(exchange)

        return record

    def sums(self) -> list[Row]:
        """A row for each class, of all threads together."""
        total: list[Row] = [[0] * (len(BOUNDS) + 1) + [0.0] for _ in CLASSES]
        for rows, _ in list(self._rows.values()):
            for sums, row in zip(total, rows, strict=True):
                for index, value in enumerate(list(row)):
                    sums[index] += value
        return total

    def downloaded(self) -> int:
        """How many bytes of downloads that have ended were sent."""
        return sum(count[0] for _, count in list(self._rows.values()))


class Metrics:
    """What is told at `/metrics`.  Reactor thread.

    :param status: where it is read.
    :ivar content_type: of the text; known once it was rendered.
    """

    def __init__(self, status: Status) -> None:
        self._status = status
        self._tally: Tally | None = None
        self._registry: Any = None
        self._downloaded = 0
        self.content_type = "text/plain; charset=utf-8"

    def count(self) -> None:
        """Count from now on what ends; if there is nothing to tell it with, do not."""
        engine = self._status.engine
        if engine is not None and _client() is not None:
            self._tally = Tally(engine.site.record)
            engine.site.record = self._tally.record

    def render(self) -> bytes | None:
        """The text; None if `prometheus-client` is not installed."""
        client = _client()
        if client is None:
            return None
        if self._registry is None:
            self._registry = client.CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            self.content_type = client.CONTENT_TYPE_LATEST
        text: bytes = client.generate_latest(self._registry)
        return text

    def collect(self) -> Iterator[Any]:
        """The families, as a collector of `prometheus-client` gives them."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        status, now = self._status, monotonic()
        told = status(0)

        def gauge(name: str, text: str, value: float) -> Any:
            return GaugeMetricFamily(f"graceful_{name}", text, value=value)

        def gauges(name: str, text: str, label: str, values: dict[str, float]) -> Any:
            family = GaugeMetricFamily(f"graceful_{name}", text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            return family

        yield InfoMetricFamily(
            "graceful",
            "The server and its application.",
            value={"version": __version__, "app_version": status.settings.app_version},
        )
        in_flight = {phase.replace(" ", "_"): float(count) for phase, count in status.phases().items()}
        yield gauges("in_flight_exchanges", "Exchanges in flight.", "phase", in_flight)
        yield gauges("connections", "Open client connections.", "state", told["connections"])
        threads = told["threads"]
        yield gauge("threads", "Threads that run the application.", threads["size"])
        yield gauge("threads_busy", "Threads that work for an exchange.", threads["busy"])
        yield gauge("queue_exchanges", "Exchanges that wait for a thread.", threads["queued"])
        yield gauge("queue_oldest_seconds", "Age of the oldest exchange that waits for a thread.", self._oldest(now))
        states = {state: float(state == told["state"]) for state in STATES}
        yield gauges("state", "1 for the state that the server is in.", "state", states)
        rotation = float(told["rotation"] == "in")
        yield gauge("in_rotation", "1 while health says that requests are welcome.", rotation)
        if told["deadline"] is not None:
            yield gauge("deadline_seconds", "Seconds until what is in flight is taken down.", told["deadline"])
        yield gauge("latest_exit_seconds", "Seconds after which a drain has ended the process.", told["latest_exit"])
        yield CounterMetricFamily("graceful_taken_down", "Exchanges taken down.", value=told["taken_down"])
        abandoned = status.ending.abandoned if status.ending is not None else 0
        yield CounterMetricFamily("graceful_abandoned", "Threads abandoned.", value=abandoned)
        yield CounterMetricFamily("graceful_download_bytes", "Bytes of downloads sent.", value=self._download_bytes())
        if self._tally is not None:
            sums = self._tally.sums()
            requests = CounterMetricFamily("graceful_requests", "Exchanges that have ended.", labels=["status"])
            for name, row in zip(CLASSES, sums, strict=True):
                requests.add_metric([name], sum(row[:-1]))
            yield requests
            buckets, total = [], 0
            for index, bound in enumerate((*BOUNDS, float("inf"))):
                total += sum(row[index] for row in sums)
                buckets.append(("+Inf" if bound == float("inf") else repr(bound), total))
            yield HistogramMetricFamily(
                "graceful_request_duration_seconds",
                "From an exchange's first byte to its answer's last.",
                buckets=buckets,
                sum_value=sum(row[-1] for row in sums),
            )

    def _oldest(self, now: float) -> float:
        engine = self._status.engine
        if engine is not None:
            for exchange in engine.site.register.in_flight():
                if exchange.phase == QUEUED:
                    return max(0.0, now - exchange.started)
        return 0.0

    def _download_bytes(self) -> int:
        """What has ended and what is under way; never less than last time, whatever ends in this moment."""
        total = self._tally.downloaded() if self._tally is not None else 0
        engine = self._status.engine
        if engine is not None:
            total += sum(exchange.sent for exchange in engine.site.register.in_flight() if exchange.download)
        self._downloaded = max(self._downloaded, total)
        return self._downloaded


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError:
        return None
    return prometheus_client
