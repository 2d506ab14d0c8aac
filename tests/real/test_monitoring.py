"""What is ready to be copied for operators: the unit, the balancer's configuration, the dashboard and the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from graceful.config.settings import Settings
from graceful.process.exit import ABANDONED, KERNEL_AFTER, TAKEN_DOWN, latest_exit
from tests.support.clients import Connection, ask, get, request
from tests.support.docs_blocks import ROOT
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus
from tests.support.server import LOOPBACK, PROGRAMS, Server
from tests.support.tls import Certificate
from tests.support.waiting import wait_for

EXAMPLES = ROOT / "examples"
STATUS = ("--status-listen", "tcp:0:interface=127.0.0.1")
NAME = re.compile(r"graceful_[a-z_]+")


def scrape(server: Server) -> tuple[str, dict[str, Any]]:
    """Fetch the metrics, and read them as Prometheus does."""
    port = int(server.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])
    answer = ask(port, request("/metrics", host=f"127.0.0.1:{port}"))
    assert answer.status == 200
    assert (answer.header("Content-Type") or "").startswith("text/plain")
    text = answer.body.decode()
    return text, {family.name: family for family in text_string_to_metric_families(text)}


def test_the_metrics_tell_what_happened(home: Home) -> None:
    """What the text says is what happened, in the middle of a stop as well."""
    with Server(home, "--idle-grace", "0.2", *STATUS) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as client:
            for _ in range(3):
                assert get(server.port).status == 200
            assert get(server.port, "/nowhere").status == 404
            client.send(request(gate.target()))
            gate.wait_reached()
            wait_for(lambda: _requests(scrape(server)[1]).get("2xx") == 3)
            text, families = scrape(server)
            assert _requests(families)["4xx"] == 1
            assert "graceful_threads_busy 1.0" in text
            assert 'graceful_state{state="serving"} 1.0' in text
            assert 'graceful_in_flight_exchanges{phase="in_the_application"} 1.0' in text
            assert "graceful_deadline_seconds" not in families
            buckets = [
                sample for sample in families["graceful_request_duration_seconds"].samples if "le" in sample.labels
            ]
            assert [sample.value for sample in buckets] == sorted(sample.value for sample in buckets)
            server.terminate()
            server.wait_closed()
            text, families = scrape(server)
            assert 'graceful_state{state="finishing"} 1.0' in text
            assert 190 < families["graceful_deadline_seconds"].samples[0].value <= 200
            assert "graceful_in_rotation 0.0" in text
            gate.open()
            assert client.answer().status == 200
        assert server.wait() == 0


def _requests(families: dict[str, Any]) -> dict[str, float]:
    return {sample.labels["status"]: sample.value for sample in families["graceful_requests"].samples}


def test_the_metrics_tell_who_waits_in_the_queue(home: Home) -> None:
    """Clients beyond `--max-connections` are counted while the kernel keeps them, and then no more."""

    def waiting() -> float:
        (sample,) = scrape(server)[1]["graceful_backlog_connections"].samples
        assert sample.labels == {"socket": f"tcp:127.0.0.1:{server.port}"}
        return float(sample.value)

    with Server(home, "--max-connections", "10", *STATUS) as server, ExitStack() as stack:
        first, later = ([stack.enter_context(Connection(server.port)) for _ in range(count)] for count in (10, 5))
        wait_for(lambda: waiting() == 5)
        for connection in first:
            connection.close()
        wait_for(lambda: waiting() == 0)
        assert later[0].get("/").status == 200


def test_dashboard_and_alerts(home: Home, tmp_path: Path) -> None:
    """They ask for metrics that there are, by labels that these have."""
    dashboard = (EXAMPLES / "grafana" / "graceful.json").read_text()
    alerts = (EXAMPLES / "prometheus" / "graceful-alerts.yml").read_text()
    panels = json.loads(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += re.findall(r"expr: (.*)", alerts)
    listen = [LOOPBACK.format(port=0), Certificate(tmp_path).own]
    with (
        Server(home, *STATUS, listen=listen) as server,
        Connection(server.port) as client,
        Gate(home.path / "gate") as gate,
    ):
        client.send(request(gate.target()))
        gate.wait_reached()
        server.terminate()
        server.wait_closed()
        _, families = scrape(server)
        gate.open()
        assert client.answer().status == 200
        client.end()
        assert server.wait() == 0
    known = {sample.name for family in families.values() for sample in family.samples}
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert {name for expression in asked for name in NAME.findall(expression)} <= known
    grouped = {label for expression in asked for label in re.findall(r"by \((\w+)\)", expression)}
    assert grouped <= labels | {"instance"}
    documented = set(NAME.findall((ROOT / "docs" / "how-to" / "watch.rst").read_text())) - {"graceful_app"}
    sampled = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in known}
    assert documented == sampled


#: Series, and what the alerts say of them: each alert with the number that it is about.
ALERT_TESTS = """
rule_files: [graceful-alerts.yml]
evaluation_interval: 5s
tests:
  - interval: 5s
    input_series:
      - {series: 'graceful_threads_busy{instance="a"}', values: '20x60'}
      - {series: 'graceful_threads{instance="a"}', values: '20x60'}
      - {series: 'graceful_queue_oldest_seconds{instance="a"}', values: '90x60'}
      - {series: 'graceful_threads_busy{instance="b"}', values: '19x60'}
      - {series: 'graceful_threads{instance="b"}', values: '20x60'}
      - {series: 'graceful_queue_oldest_seconds{instance="b"}', values: '90x60'}
      - {series: 'graceful_backlog_connections{instance="a", socket="tcp:a:80"}', values: '40x60'}
      - {series: 'graceful_backlog_connections{instance="b", socket="tcp:b:80"}', values: '40x6 0 40x6 0 40x6 0x9'}
      - {series: 'graceful_taken_down_total{instance="a"}', values: '0x30 7x30'}
      - {series: 'graceful_deadline_seconds{instance="a"}', values: '25x60'}
      - {series: 'graceful_in_flight_exchanges{instance="a", phase="parked"}', values: '3x60'}
      - {series: 'graceful_certificate_end_timestamp_seconds{instance="a", file="/a.pem"}', values: '1209830x60'}
      - {series: 'graceful_certificate_end_timestamp_seconds{instance="b", file="/b.pem"}', values: '1296000x60'}
    alert_rule_test:
      - eval_time: 4m
        alertname: ThreadsUsedUp
        exp_alerts:
          - {exp_labels: {instance: a}, exp_annotations: {summary: "a: requests wait 1m 30s for a thread"}}
      - eval_time: 4m
        alertname: ExchangesTakenDown
        exp_alerts:
          - {exp_labels: {instance: a}, exp_annotations: {summary: "a has taken down 7 exchanges"}}
      - eval_time: 1m
        alertname: ExchangesTakenDown
        exp_alerts: []
      - eval_time: 1m50s
        alertname: ClientsWaitToBeAccepted
        exp_alerts:
          - exp_labels: {instance: a, socket: "tcp:a:80"}
            exp_annotations:
              summary: "a: 40 clients wait at tcp:a:80 to be accepted"
              description: "It has as many as --max-connections, or its event loop is stuck: see `graceful status`."
      - eval_time: 3m
        alertname: CertificateEnds
        exp_alerts: []
      - eval_time: 4m
        alertname: CertificateEnds
        exp_alerts:
          - exp_labels: {instance: a, file: /a.pem}
            exp_annotations:
              summary: "a: /a.pem ends in 13d 23h 59m 50s"
              description: "Renew it; the server loads the new files by itself, or at `graceful reload-certificates`."
      - eval_time: 4m
        alertname: DrainWillHitItsDeadline
        exp_alerts:
          - exp_labels: {instance: a, severity: page}
            exp_annotations:
              summary: "a takes down what is in flight in 25s"
              description: "See what it is with `graceful status`; give it more time with `graceful extend SECONDS`."
"""


def test_alerts_say_the_number_that_they_are_about(home: Home) -> None:
    """Prometheus itself evaluates the alerts: when they come, and what their texts say."""
    promtool = shutil.which("promtool")
    assert promtool, "Prometheus is not installed: run `make system`"
    shutil.copy(EXAMPLES / "prometheus" / "graceful-alerts.yml", home.path)
    (home.path / "tests.yml").write_text(ALERT_TESTS)
    tested = subprocess.run(
        [promtool, "test", "rules", "tests.yml"], cwd=home.path, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_prometheus_learns_of_all_that_is_taken_down(home: Home, options: tuple[str, ...]) -> None:
    """What a predecessor takes down is in its successor's counters; a stop stays until it was read."""
    status = free_port()
    options = (*options, "--deadline", "1", "--idle-grace", "0.2", "--status-listen", LOOPBACK.format(port=status))
    alerts = EXAMPLES / "prometheus" / "graceful-alerts.yml"
    with ExitStack() as stack:
        first = stack.enter_context(Server(home, *options, application="stalls:application"))
        prometheus = stack.enter_context(Prometheus(home.path, status, alerts, "3s"))
        for _ in range(3):
            assert get(first.port).status == 200
        prometheus.wait_value('graceful_requests_total{status="2xx"}', 3)
        stack.enter_context(_stuck(first, prometheus))
        second = Server(
            home, "--takeover", *options, port=first.port, application="stalls:application", wait_open=False
        )
        stack.enter_context(second)
        second.wait_line("took over from process", timeout=60)
        assert first.wait(30) in (TAKEN_DOWN, ABANDONED)
        prometheus.wait_value("graceful_taken_down_total", 1)
        assert get(first.port).status == 200
        prometheus.wait_value('graceful_requests_total{status="2xx"}', 4)
        client = stack.enter_context(_stuck(second, prometheus))
        second.terminate()
        assert client.answer().status == 503
        client.end()  # or the process waits for it, and is read meanwhile
        assert second.wait(30) in (TAKEN_DOWN, ABANDONED)
        assert prometheus.value("max_over_time(graceful_taken_down_total[5m])") == 2
        assert prometheus.value("sum(resets(graceful_requests_total[5m]))") == 0
        wait_for(lambda: "ExchangesTakenDown" in prometheus.firing())


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_no_counter_goes_down_in_a_takeover(home: Home, options: tuple[str, ...]) -> None:
    """Metrics read on a connection of their own, at any moment of it, know what the predecessor has counted."""
    status = free_port()
    options = (*options, "--status-listen", LOOPBACK.format(port=status))
    counted: list[float] = []

    def read() -> float:
        text = ask(status, request("/metrics", "Connection: close", host=f"127.0.0.1:{status}")).body.decode()
        return _requests({family.name: family for family in text_string_to_metric_families(text)})["2xx"]

    with Server(home, *options) as first:
        for _ in range(3):
            assert get(first.port).status == 200
        wait_for(lambda: read() == 3)
        with Server(home, "--takeover", *options, port=first.port, wait_open=False) as second:
            while not second.log.find_all("took over from process"):
                counted.append(read())
            assert first.wait() == 0
            counted.append(read())
    assert set(counted) == {3}


@contextmanager
def _stuck(server: Server, prometheus: Prometheus) -> Iterator[Connection]:
    """A request that never ends by itself, but comes down at once."""
    with Connection(server.port) as client:
        client.send(request("/stuck/event"))
        prometheus.wait_value("graceful_threads_busy", 1)
        yield client


def test_a_stop_without_prometheus_stays_short(home: Home) -> None:
    """What is taken down delays no stop whose metrics nothing reads."""
    with Server(home, "--deadline", "1", "--idle-grace", "0.2", *STATUS) as server, Gate(home.path / "gate") as gate:
        with Connection(server.port) as client:
            client.send(request(gate.target()))
            gate.wait_reached()
            server.terminate()
            assert server.wait(30) in (TAKEN_DOWN, ABANDONED)
        assert not server.log.find_all("the metrics stay")


def test_systemd_accepts_the_unit_and_its_stop_time(home: Home) -> None:
    """systemd finds nothing wrong with the unit, and it gives a stop the time that it may take."""
    text = (EXAMPLES / "systemd" / "graceful-app.service").read_text()
    assert shutil.which("systemd-analyze"), "systemd is not installed"
    unit = home.path / "graceful-app.service"
    unit.write_text(text.replace("/srv/site/.venv/bin", str(PROGRAMS)))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    lines = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    assert (lines["Type"], lines["NotifyAccess"], lines["RuntimeDirectoryPreserve"]) == ("notify", "all", "yes")
    for key in ("SuccessExitStatus", "RestartPreventExitStatus"):
        assert lines[key] == f"{TAKEN_DOWN} {ABANDONED}"
    lame_duck = re.search(r"--lame-duck (\d+)", text)
    assert lame_duck is not None
    limit = latest_exit(float(lame_duck[1]), Settings().deadline) + KERNEL_AFTER
    assert int(lines["TimeoutStopSec"]) >= limit + 10
    assert "PIDFile" not in lines
    assert lines["ExecReload"].endswith("kill -HUP $MAINPID")


def test_the_units_command(home: Home) -> None:
    """The unit's command serves."""
    text = (EXAMPLES / "systemd" / "graceful-app.service").read_text().replace("\\\n", " ")
    command = re.search(r"^ExecStart=\S+/twistd (.*)$", text, re.MULTILINE)
    assert command is not None
    words = command[1].replace("tcp:8080", "tcp:0:interface=127.0.0.1").replace("tcp:9090", "tcp:0")
    words = words.replace("/run/graceful-app", str(home.run)).replace("mysite.wsgi:application", "basic:application")
    server = Server(home)
    server.command = [str(PROGRAMS / "twistd"), *words.replace("--lame-duck 5", "--lame-duck 0").split()]
    with server:
        assert get(server.port).status == 200
        assert (home.run / "graceful.sock").exists()


def test_haproxy_takes_the_example(tmp_path: Path) -> None:
    """HAProxy takes the example; what it does with its settings is in test_balancer."""
    checked = subprocess.run(
        ["haproxy", "-c", "-f", EXAMPLES / "haproxy.cfg"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "ALERT" not in checked.stderr
    assert "WARNING" not in checked.stderr
