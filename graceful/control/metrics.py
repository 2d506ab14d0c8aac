"""Metrics for Prometheus: what the status says, as numbers over time.

Most of them are read from the status when Prometheus scrapes, and cost nothing otherwise.  Only exchanges that have
ended cannot be read later: :mod:`graceful.control.counters` counts them, unless there is no address at which metrics
are served.

No label has a value that a client chooses: a response status is given as its class, a path not at all.

The text is made by `prometheus-client`, from the extra `graceful-app[metrics]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graceful._version import __version__
from graceful.control.counters import BOUNDS, CLASSES
from graceful.control.status import StatusSource
from graceful.drain import State


class Metrics:
    """Renders what `/metrics` answers.  Reactor thread.

    :param status: where the numbers come from.
    :ivar content_type: of the text; right once a text was rendered.
    """

    def __init__(self, status: StatusSource) -> None:
        self._status = status
        self._told: dict[str, Any] = {}
        self._registry: Any = None
        self.content_type = "text/plain; charset=utf-8"

    def count(self) -> None:
        """Count from now on what ends, if `prometheus-client` is installed."""
        if self.available:
            self._status.count()

    @property
    def available(self) -> bool:
        """Whether `prometheus-client` is installed."""
        return _client() is not None

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
        yield CounterMetricFamily("graceful_taken_down", "Exchanges taken down.", value=told["taken_down"])
        yield CounterMetricFamily("graceful_abandoned", "Threads abandoned.", value=tally["abandoned"])
        yield CounterMetricFamily("graceful_download_bytes", "Bytes of downloads sent.", value=tally["downloaded"])
        sums = tally["ended"]
        if sums is not None:
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


def _client() -> Any:
    try:
        import prometheus_client
    except ImportError:
        return None
    return prometheus_client
