"""A real Prometheus, which reads the metrics of a server and evaluates the example's alerts."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.ports import free_port
from tests.support.waiting import PATIENCE, wait_for

CONFIGURATION = """
global: {{scrape_interval: {every}, evaluation_interval: {every}}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: graceful
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


class Prometheus:
    """A server that runs inside of the `with` block.

    :param directory: for its files.
    :param target: the port at which the metrics are.
    :param alerts: the file with the rules.
    :param every: from one question to the next.
    """

    def __init__(self, directory: Path, target: int, alerts: Path, every: str = "1s") -> None:
        self._port = free_port()
        self._directory = directory / "prometheus"
        self._directory.mkdir()
        self._file = self._directory / "prometheus.yml"
        self._file.write_text(CONFIGURATION.format(every=every, alerts=alerts, target=target))

    def __enter__(self) -> Prometheus:
        program = shutil.which("prometheus")
        assert program, "Prometheus is not installed: run `make system`"
        self._log = (self._directory / "log").open("w")
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={self._file}",
                f"--storage.tsdb.path={self._directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    def value(self, expression: str) -> float | None:
        """Returns the value of an expression with one series; None if there is none, or no answer yet."""
        found = self._ask(f"/query?query={urllib.parse.quote(expression)}")
        return float(found["result"][0]["value"][1]) if found is not None and found["result"] else None

    def wait_value(self, expression: str, value: float, timeout: float = PATIENCE) -> None:
        """Wait until an expression has a value.

        :raises AssertionError: it has not in `timeout` seconds.
        """
        with suppress(AssertionError):
            wait_for(lambda: self.value(expression) == value, timeout)
        assert self.value(expression) == value, (expression, self.value(expression))

    def firing(self) -> set[str]:
        """Returns the names of the alerts that fire."""
        found = self._ask("/alerts")
        alerts = found["alerts"] if found is not None else []
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _ask(self, what: str) -> dict[str, Any] | None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1{what}", timeout=10) as said,
        ):
            data: dict[str, Any] = json.loads(said.read())["data"]
            return data
        return None
