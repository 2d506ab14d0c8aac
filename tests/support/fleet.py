"""A site of several instances behind a real HAProxy, as `graceful deploy` finds it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from graceful.control.client import ClientError, ControlClient
from graceful.deploy.haproxy import HAProxyError, Runtime
from tests.support.docs_site import Site, gone
from tests.support.haproxy import HEAD
from tests.support.ports import free_port
from tests.support.server import PROGRAMS, become_subreaper
from tests.support.waiting import wait_for

HAPROXY = """
frontend clients
    bind 127.0.0.1:{port}
    default_backend app
backend app
    balance roundrobin
    {lines}
    default-server check inter 200ms {server}
{servers}
"""

APPLICATION = """
import basic

VERSION = "{version}"


def application(environ, start_response):
    if environ["PATH_INFO"] == "/login":
        start_response("{login}", [("Content-Type", "text/plain")])
        return [VERSION.encode()]
    return basic.application(environ, start_response)
"""

START = """#!/bin/bash
{before} || exit 9
exec twistd --pidfile="$1.pid" --logfile="$1.log" graceful-app --control "$1.sock" \\
    --listen "tcp:$2:interface=127.0.0.1" --threads 30 --trusted-proxy 127.0.0.1 {options} mysite.wsgi
"""


class Balancer:
    """A HAProxy that can be restarted.

    :param site: where its files are.
    :param ports: of the instances, by their names.
    :param lines: for the backend.
    :param server: for each of its servers.
    :ivar port: where clients connect to.
    :ivar runtime: its runtime API.
    """

    def __init__(self, site: Site, ports: dict[str, int], lines: str = "", server: str = "") -> None:
        self.port = free_port()
        self.runtime = Runtime(str(site.path / "haproxy.sock"))
        servers = "\n".join(f"    server {name} 127.0.0.1:{port}" for name, port in ports.items())
        text = (HEAD + HAPROXY).format(
            runtime=self.runtime.address, port=self.port, lines=lines, server=server, servers=servers
        )
        self._file = site.write("haproxy.cfg", text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        """Start it.

        :param wait: until every server is up.
        """
        self._process = subprocess.Popen(["haproxy", "-db", "-q", "-f", self._file])
        if wait:
            wait_for(self._ready)

    def _ready(self) -> bool:
        try:
            return all(state.up for state in self.runtime.servers("app").values())
        except HAProxyError:
            return False

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def states(self) -> dict[str, str]:
        """Every server's state, as it can be set."""
        return {name: state.state for name, state in self.runtime.servers("app").items()}


class Fleet:
    """Instances, and what deploys them.

    :param site: where they live.
    :param count: how many.
    :param options: of `graceful-app`.
    :param lines: for HAProxy's backend.
    :param server: for each of its servers.
    :ivar names: `app1`, `app2`, …
    """

    def __init__(
        self, site: Site, count: int = 2, options: Sequence[str] = (), lines: str = "", server: str = ""
    ) -> None:
        become_subreaper()  # else whoever is this machine's first process has to collect what was killed
        self.site = site
        self.options = options
        self.names = [f"app{number}" for number in range(1, count + 1)]
        self.ports = {name: free_port() for name in self.names}
        self.balancer = Balancer(site, self.ports, lines, server)
        self.start_with()
        self.version("1")
        self.plan()

    def __enter__(self) -> Fleet:
        for name in self.names:
            self.site.shell(self.start_line(name))
            wait_for(lambda name=name: self.status(name) is not None)  # type: ignore[misc]
        self.balancer.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self.balancer.kill()
        for pid in self.pids().values():
            os.kill(pid, signal.SIGTERM)
            assert gone(pid, 20)

    def start_with(self, *options: str, before: str = "true") -> None:
        """Write the command that starts an instance.

        :param options: more of them.
        :param before: what it does first.
        """
        text = START.format(options=" ".join([*self.options, *options]), before=before)
        self.site.write("start", text).chmod(0o755)

    def version(self, version: str, login: str = "200 OK", extra: str = "") -> None:
        """Have another version of the application, for whoever starts."""
        self.site.write("mysite/wsgi.py", APPLICATION.format(version=version, login=login) + extra)

    def start_line(self, name: str) -> str:
        """The command that starts an instance."""
        return f"./start {name} {self.ports[name]}"

    def plan(self, top: str = "margin = 1", instance: str = "", haproxy: bool = True) -> None:
        """Write deploy.toml.

        :param top: lines before the tables.
        :param instance: lines for each instance.
        """
        parts = [top]
        if haproxy:
            parts.append('[haproxy]\nsocket = "haproxy.sock"\nbackend = "app"')
        for name in self.names:
            health = f'health = "http://127.0.0.1:{self.ports[name]}/+haproxy"'
            check = f'check = ["http://127.0.0.1:{self.ports[name]}/login"]'
            start = f'start = "{self.start_line(name)}"'
            more = instance.format(name=name, port=self.ports[name])
            parts.append(
                "\n".join(
                    ["[[instance]]", f'name = "{name}"', f'control = "{name}.sock"', start, health, check, more]
                )
            )
        self.site.write("deploy.toml", "\n\n".join(parts) + "\n")

    def deploy(self, *options: str, status: int = 0) -> str:
        """Deploy, and return what is said."""
        return self.site.shell(f"graceful deploy deploy.toml {' '.join(options)}", status=status, timeout=120)

    def deploying(self) -> Deploying:
        """Deploy, and do something else meanwhile."""
        return Deploying(self.site)

    def status(self, name: str) -> dict[str, Any] | None:
        """The status of the instance that serves; None if there is none."""
        try:
            with ControlClient(str(self.site.path / f"{name}.sock")) as client:
                status: dict[str, Any] = client.get("/status")
        except ClientError:
            return None
        return status if status["state"] == "serving" else None

    def pids(self) -> dict[str, int]:
        """The processes that serve."""
        found = {name: self.status(name) for name in self.names}
        return {name: int(status["pid"]) for name, status in found.items() if status is not None}


class Deploying:
    """A deploy that is under way.

    :ivar events: what it has said so far.
    """

    def __init__(self, site: Site) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [str(PROGRAMS / "graceful"), "deploy", "deploy.toml", "--json"],
            cwd=site.path,
            env=site.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Deploying:
        return self

    def __exit__(self, *ignored: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, step: str) -> dict[str, Any]:
        """Wait until it says that it has come to a step."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["step"] == step:
                return self.events[-1]
        raise AssertionError(f"no {step}: {self.events}")

    def verdict(self, status: int = 0) -> dict[str, Any]:
        """Wait for its end, and return the verdict."""
        verdict = self.until("verdict")
        assert self.process.wait(30) == status, self.events
        return verdict


def events_of(said: str) -> list[dict[str, Any]]:
    """What a deploy has said with `--json`."""
    return [json.loads(line) for line in said.splitlines()]


def check_replaced(fleet: Fleet, before: dict[str, int], verdict: dict[str, Any]) -> None:
    """Assert that every process is another one, and that nothing was interrupted."""
    after = fleet.pids()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert verdict["step"] == "verdict"
    assert (verdict["result"], verdict["taken_down"], verdict["killed"]) == ("deployed", 0, 0), verdict
    assert {one["name"]: one["pid"] for one in verdict["instances"]} == after
    assert set(fleet.balancer.states().values()) == {"ready"}
