"""What is ready to be copied for operators: the unit, the balancer's configuration, the dashboard and the alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from graceful.config.settings import Settings
from graceful.process.exit import ABANDONED, KERNEL_AFTER, TAKEN_DOWN, latest_exit
from tests.support.clients import Connection, ask, get, request
from tests.support.docs_blocks import ROOT
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import PROGRAMS, Server
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


def test_metrics(home: Home) -> None:
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


def test_dashboard_and_alerts(home: Home) -> None:
    """They ask for metrics that there are, by labels that these have."""
    dashboard = (EXAMPLES / "grafana" / "graceful.json").read_text()
    alerts = (EXAMPLES / "prometheus" / "graceful-alerts.yml").read_text()
    panels = json.loads(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    asked += re.findall(r"expr: (.*)", alerts)
    with Server(home, *STATUS) as server, Connection(server.port) as client, Gate(home.path / "gate") as gate:
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


def test_unit(home: Home) -> None:
    """systemd finds nothing wrong with the unit, and it gives a stop the time that it may take."""
    text = (EXAMPLES / "systemd" / "graceful-app.service").read_text()
    assert shutil.which("systemd-analyze"), "systemd is not installed"
    unit = home.path / "graceful-app.service"
    unit.write_text(text.replace("/srv/site/.venv/bin/twistd", str(PROGRAMS / "twistd")))
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
