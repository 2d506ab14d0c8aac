"""Metrics for Prometheus: what the status says, as numbers over time.

Most of them are read from the status when Prometheus scrapes, and cost nothing otherwise.  Only exchanges that have
ended cannot be read later: :mod:`graceful.control.counters` counts them, unless there is no address at which metrics
are served.

A successor goes on counting where its predecessors have stopped, so that nothing is lost that they have counted since
they were read last, and no counter goes down.  The status is that of a process, and has only what this one has done.

No label has a value that a client chooses: a response status is given as its class, a path not at all.

The text is made by `prometheus-client`, from the extra `graceful-app[metrics]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from graceful._version import __version__
from graceful.control.counters import BOUNDS, CLASSES, PLACES
from graceful.control.status import StatusSource
from graceful.control.totals import Totals
from graceful.drain.state import State
from graceful.sockets.backlog import clients_waiting


class Metrics:
    """Renders what `/metrics` answers.  Reactor thread.

    :param status: where the numbers come from.
    :ivar content_type: of the text; right once a text was rendered.
    """

    def __init__(self, status: StatusSource) -> None:
        self._status = status
        self._told: dict[str, Any] = {}
        self._inherited = Totals()
        self._registry: Any = None
        self.content_type = "text/plain; charset=utf-8"

    def load(self) -> None:
        """Import `prometheus-client`, if it is installed, so that no scrape has to wait for that."""
        _client()

    @property
    def available(self) -> bool:
        """Whether `prometheus-client` is installed."""
        return _client() is not None

    def inherit(self, counted: Totals) -> None:
        """Go on counting from what a predecessor has counted."""
        self._inherited = self._inherited.added(counted)

    def totals(self) -> Totals:
        """Returns what was counted so far, here and by predecessors."""
        return self._inherited.added(self._status.totals())

    def render(self, told: dict[str, Any]) -> bytes:
        """Returns the metrics in Prometheus's text format.

        :param told: from :meth:`graceful.control.status.StatusSource.snapshot_with_counters`.
        """
        client, self._told = _client(), told
        if self._registry is None:
            self._registry = client.CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            self.content_type = client.CONTENT_TYPE_LATEST
        text: bytes = client.generate_latest(self._registry)
        return text

    def collect(self) -> Iterator[Any]:
        """Yields the metric families; `prometheus-client` calls this."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        told = self._told
        tally = told["tally"]
        totals = self._inherited.plus([told])

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
            value={"version": __version__, "app_version": told["app_version"] or ""},
        )
        in_flight = {phase.replace(" ", "_"): float(count) for phase, count in tally["phases"].items()}
        yield gauges("in_flight_exchanges", "Exchanges in flight.", "phase", in_flight)
        yield gauges("connections", "Open client connections.", "state", told["connections"])
        waiting = {name: float(clients) for name, clients in clients_waiting(tally["backlog"]).items()}
        text = "Clients that wait in the queue of a listening socket."
        yield gauges("backlog_connections", text, "socket", waiting)
        threads = told["threads"]
        yield gauge("threads", "Threads that run the application.", threads["size"])
        yield gauge("threads_busy", "Threads that work for an exchange.", threads["busy"])
        yield gauge("queue_exchanges", "Exchanges that wait for a thread.", threads["queued"])
        yield gauge(
            "queue_oldest_seconds", "Age of the oldest exchange that waits for a thread.", tally["queue_oldest"]
        )
        states = {state.value: float(state == told["state"]) for state in State}
        yield gauges("state", "1 for the state that the server is in.", "state", states)
        rotation = float(told["rotation"] == "in")
        yield gauge("in_rotation", "1 while health says that requests are welcome.", rotation)
        if told["deadline"] is not None:
            yield gauge("deadline_seconds", "Seconds until what is in flight is taken down.", told["deadline"])
        yield gauge("latest_exit_seconds", "Seconds after which a drain has ended the process.", told["latest_exit"])
        ends = {one["file"]: one["ends"] for one in told.get("certificates") or ()}
        text = "When a certificate ends, seconds since 1970."
        yield gauges("certificate_end_timestamp_seconds", text, "file", ends)
        yield CounterMetricFamily("graceful_taken_down", "Exchanges taken down.", value=totals.taken_down)
        moved = CounterMetricFamily(
            "graceful_connections_moved",
            "Connections moved here from a predecessor, and to a successor.",
            labels=["direction"],
        )
        for direction, count in (("in", totals.moved_in), ("out", totals.moved_out)):
            moved.add_metric([direction], count)
        yield moved
        yield CounterMetricFamily("graceful_abandoned", "Threads abandoned.", value=totals.abandoned)
        yield CounterMetricFamily("graceful_download_bytes", "Bytes of downloads sent.", value=totals.downloaded)
        sums = totals.ended
        if sums is not None:
            requests = CounterMetricFamily("graceful_requests", "Exchanges that have ended.", labels=["status"])
            for name, row in zip(CLASSES, sums, strict=True):
                requests.add_metric([name], sum(row[:-1]))
            yield requests
            together = [sum(column) for column in zip(*sums, strict=True)]
            yield HistogramMetricFamily(
                "graceful_request_duration_seconds",
                "From an exchange's first byte to its answer's last.",
                buckets=_buckets(together),
                sum_value=together[-1],
            )
        if totals.waited is not None:
            waits = HistogramMetricFamily(
                "graceful_queue_seconds",
                "How long exchanges have waited for the application, here and in a proxy before.",
                labels=["where"],
            )
            for where, row in zip(PLACES, totals.waited, strict=True):
                waits.add_metric([where], _buckets(row), row[-1])
            yield waits


def _buckets(row: Sequence[float]) -> list[tuple[str, float]]:
    """Returns the buckets of a histogram, each with what is in all before it."""
    bounds = (*map(repr, BOUNDS), "+Inf")
    return list(zip(bounds, accumulate(row[:-1]), strict=True))


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError:
        return None
    return prometheus_client
