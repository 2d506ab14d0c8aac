"""The examples for more than one machine: Ansible over several hosts, and the life of a pod in Kubernetes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from graceful.control.client import ClientError, ControlClient
from graceful.process.exit import KERNEL_AFTER, latest_exit
from tests.support.clients import get
from tests.support.docs_site import Site, fetch, gone
from tests.support.fleet import Fleet
from tests.support.home import Home
from tests.support.load import Load
from tests.support.ports import free_port
from tests.support.server import LOOPBACK, PROGRAMS, Server, become_subreaper
from tests.support.waiting import wait_for

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
QUICK = ("--idle-grace", "1", "--deadline", "20")


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory with a site in it."""
    with Site() as site:
        yield site


# -- Ansible --------------------------------------------------------------------------------------------------


def inventory(fleet: Fleet) -> dict[str, Any]:
    """The example's inventory, with this machine as each of its hosts, and the instances of a fleet."""
    found: dict[str, Any] = yaml.safe_load((EXAMPLES / "ansible" / "inventory.yml").read_text())
    found["site"]["vars"] |= {
        "ansible_connection": "local",
        "ansible_python_interpreter": str(PROGRAMS / "python"),
        "graceful_command": str(PROGRAMS / "graceful"),
        "graceful_haproxy": [fleet.balancer.runtime.address],
        "graceful_backend": "app",
        "graceful_before": "twistd graceful-app --check --listen tcp:0 mysite.wsgi",
        "graceful_margin": 1,
    }
    names = iter(fleet.names)
    for host, values in found["site"]["hosts"].items():
        directory = fleet.site.path / host
        directory.mkdir()
        for file in ("start", "mysite"):
            (directory / file).symlink_to(fleet.site.path / file)
        values["graceful_directory"] = str(directory)
        del values["graceful_instances"][1:]  # quicker
        for instance in values["graceful_instances"]:
            name = instance["name"] = next(names)
            port = fleet.ports[name]
            instance["control"] = str(fleet.site.path / f"{name}.sock")
            instance["start"] = f"cd .. && ./start {name} {port}"
            instance["check"] = [url.replace(re.findall(r":(\d+)/", url)[0], str(port)) for url in instance["check"]]
    assert not list(names)
    return found


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="ansible-core does not run on CPython 3.15")
def test_the_playbook_loses_no_request_and_stops_at_a_bad_version(site: Site) -> None:
    """The playbook rolls over two hosts, and no request is lost; a bad version ends it on the first host."""
    shutil.copytree(EXAMPLES / "ansible", site.path / "ansible")
    with Fleet(site, 2, QUICK) as fleet:
        (site.path / "hosts.json").write_text(json.dumps(inventory(fleet)))
        site.environment |= {"ANSIBLE_LOCALHOST_WARNING": "False", "LC_ALL": "C.UTF-8", "HOME": str(site.path)}
        command = "ansible-playbook -i hosts.json ansible/deploy.yml"
        with Load(fleet.balancer.port) as load:
            load.mark()
            before = fleet.pids()
            said = site.shell(command, timeout=120)
            after = fleet.pids()
            assert after.keys() == before.keys()
            assert not set(after.values()) & set(before.values())
            assert said.count("deployed in") >= 2  # each instance says it, and each verdict
            assert re.search(r"web1 .*failed=0", said) and re.search(r"web2 .*failed=0", said)
            fleet.version("2", extra="\nimport nowhere\n")
            said = site.shell(command, status=2, timeout=120)
            assert re.search(r"web1 .*failed=1", said)
            assert not re.search(r"^web2", said, re.MULTILINE)
            assert fleet.pids() == after
            load.mark()
            load.stop().check()
        assert set(fleet.balancer.states().values()) == {"ready"}


# -- systemd --------------------------------------------------------------------------------------------------


def test_a_deploy_of_the_template_unit_loses_nothing(site: Site) -> None:
    """A deploy of the template unit: what `systemctl reload` does in it is a takeover, and nothing is lost.

    What systemd would do for the unit is done here, without root; test_systemd has a real one.
    """
    directory, port = EXAMPLES / "systemd", free_port()
    service = (directory / "graceful-app@.service").read_text().replace("\\\n", " ").replace("%i", str(port))
    lines = dict(line.split("=", 1) for line in service.splitlines() if "=" in line and line[0].isalpha())
    control = f"/run/{lines['RuntimeDirectory']}/graceful.sock"
    command = lines["ExecStart"].replace("/srv/site/.venv/bin/", "").replace(control, f"{site.path}/graceful.sock")
    assert lines["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert float(lines["TimeoutStopSec"]) > latest_exit(0, 200) + KERNEL_AFTER
    site.write("bin/systemctl", '#!/bin/bash\n[ "$1" = reload ] && kill -HUP "$(cat main)"\n').chmod(0o755)
    site.environment["PATH"] = f"{site.path}/bin:{site.environment['PATH']}"
    plan = (directory / "deploy.toml").read_text().replace("/srv/site/.venv/bin/", "").replace("/srv/site", ".")
    one = plan.replace("8001", str(port)).partition('\n[[instance]]\nname = "8002"')[0]
    assert f'control = "{control}"' in one
    site.write("deploy.toml", one.replace(control, "graceful.sock").replace("/var/lib/graceful-app", "."))
    site.module()
    become_subreaper()
    old = site.server(command)
    old.start()
    try:
        old.wait_open()
        (site.path / "main").write_text(str(old.pid))
        with Load(port) as load:
            load.mark()
            verdict = json.loads(site.shell("graceful deploy deploy.toml --json").splitlines()[-1])
            load.mark()
            load.stop().check()
        assert (verdict["result"], verdict["taken_down"]) == ("deployed", 0)
        (instance,) = verdict["instances"]
        assert [one["pid"] for one in instance["old"]] == [old.pid]
        assert old.wait() == 0
        os.kill(instance["pid"], signal.SIGTERM)
        assert gone(instance["pid"], 20)
    finally:
        old.kill()
        with suppress(ClientError), ControlClient(str(site.path / "graceful.sock")) as client:
            os.kill(client.peer_pid, signal.SIGKILL)


# -- Kubernetes -----------------------------------------------------------------------------------------------


def manifests() -> dict[str, dict[str, Any]]:
    """The example's objects, by their kinds."""
    text = (EXAMPLES / "kubernetes" / "site.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


def container() -> dict[str, Any]:
    """The one of the example's pods."""
    (found,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def options() -> dict[str, str]:
    """What the pod gives to graceful-app."""
    return dict(re.findall(r"(--[a-z-]+)=(\S*)", " ".join(container()["args"])))


def test_the_kubernetes_objects_follow_their_schemas() -> None:
    """The objects are what the published schemas say, strictly."""
    found = manifests()
    assert found.keys() == {"Deployment", "Service", "PodDisruptionBudget"}
    for one in found.values():
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_kubernetes_kills_later_than_the_last_limit() -> None:
    """Kubernetes kills later than the server's own last limit, and not at all for being unready."""
    given = options()
    deadline = max(float(given["--deadline"]), float(given["--download-deadline"]))
    last = latest_exit(float(given["--lame-duck"]), deadline)
    text = (EXAMPLES / "kubernetes" / "site.yaml").read_text()
    assert f"= {last:.0f}, and the kernel's timer {KERNEL_AFTER:.0f} = {last + KERNEL_AFTER:.0f}" in text
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > last + KERNEL_AFTER
    probes = container()
    assert probes["livenessProbe"]["httpGet"] != probes["readinessProbe"]["httpGet"]
    assert probes["livenessProbe"]["httpGet"]["port"] == "status"


def test_a_pods_life(home: Home) -> None:
    """Connections come for as long as it takes until every node knows that the pod is no endpoint any more.

    HAProxy is the service: it still has the pod that ends for a while after SIGTERM.  Readiness says no at once,
    liveness says yes to the end, and nothing is lost.
    """
    arguments = container()["args"]
    (http, status), lame_duck = (free_port(), free_port()), "3"
    given = {
        "--listen": LOOPBACK.format(port=http),
        "--status-listen": LOOPBACK.format(port=status),
        "--lame-duck": lame_duck,
        "--deadline": "20",
        "--download-deadline": "20",
    }
    assert arguments[: arguments.index("graceful-app")] == ["twistd", "-n", "--pidfile="]
    assert given.keys() | {"--access-log"} == options().keys() - {"--pidfile"}
    more = [part for name in given if name != "--listen" for part in (name, given[name])]
    probes = container()
    with Site() as site, Server(home, *more, "--threads", "30", listen=[given["--listen"]]) as old:
        fleet = Fleet(site, 1)
        fleet.ports = {"old": http, "new": free_port()}
        balancer = fleet.balancer = type(fleet.balancer)(site, fleet.ports)
        with Server(home, "--threads", "30", port=fleet.ports["new"], twistd_options=["--pidfile=new.pid"]) as new:
            balancer.start()
            try:
                with Load(balancer.port) as load:
                    load.mark()
                    assert new.pid
                    assert get(http, probes["readinessProbe"]["httpGet"]["path"]).status == 200
                    old.terminate()
                    wait_for(lambda: get(http, probes["readinessProbe"]["httpGet"]["path"]).status == 503)
                    load.mark()  # each client has begun another request meanwhile
                    balancer.runtime.set_state("app", "old", "maint")
                    assert fetch(
                        status, probes["livenessProbe"]["httpGet"]["path"]
                    )  # by its address, as kubelets ask
                    old.wait_closed()
                    assert old.wait() == 0
                    load.mark()
                    load.stop().check()
            finally:
                balancer.kill()
