"""Real applications under their real clients while they are deployed, in the three ways that there are.

========== ==========================================================================================
hang up    SIGHUP: the process starts its successor
takeover   the start command, which has `--takeover`, is run once more
deploy     `graceful deploy` does that, and asks the application whether it answers
========== ==========================================================================================

No client may notice any of them.  Nor may the server: its access log has no error, and no process of it took
anything down.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from attrs import define, field, frozen

from graceful.control.client import ClientError, ControlClient
from tests.support.docs_site import Site, gone
from tests.support.ports import free_port
from tests.support.postgres import Postgres
from tests.support.real_clients import PASSWORD, USER, Admin, Calendar, Client, Git, Httpbin, Packages, Zope
from tests.support.server import APPLICATIONS, DRAINED, PROGRAMS, become_subreaper
from tests.support.waiting import wait_for

#: Seconds that a deploy, and a client's last turn, may take.
LONG = 120.0
#: Seconds between two turns of a client: a deploy has to find all moments of a turn, and the machine does much else.
PAUSE = 0.05
#: What a site needs is in the site's directory, or reached by what this adds to the environment.
Around = Callable[[Path], AbstractContextManager[Mapping[str, str]]]

START = """#!/bin/bash
exec twistd --umask=022 --pidfile=site.pid --logfile=site.log graceful-app --takeover --control site.sock \\
    --listen tcp:{port}:interface=127.0.0.1 --threads 10 --idle-grace 2 --access-log access.log {application}
"""
PLAN = """margin = 5

[[instance]]
name = "site"
control = "site.sock"
start = "./start"
check = ["http://127.0.0.1:{port}{check}"]
"""


@contextmanager
def nothing(directory: Path) -> Iterator[Mapping[str, str]]:
    """A site that needs nothing else."""
    yield {}


@contextmanager
def database(directory: Path) -> Iterator[Mapping[str, str]]:
    """PostgreSQL, with the tables of the administration."""
    with Postgres() as postgres:
        environment = {"POSTGRES": postgres.dsn}
        subprocess.run(
            [sys.executable, str(APPLICATIONS / "site_admin.py")], env={**os.environ, **environment}, check=True
        )
        yield environment


@contextmanager
def objects(directory: Path) -> Iterator[Mapping[str, str]]:
    """A Zope instance, and the server of its objects."""
    instance, at = directory / "instance", directory / "objects.sock"
    make = [str(PROGRAMS / "mkwsgiinstance"), "--dir", str(instance), "--user", f"{USER}:{PASSWORD}"]
    subprocess.run(make, check=True, capture_output=True)
    (instance / "etc" / "zope.conf").write_text(
        f"instancehome {instance}\n<zodb_db main>\n  mount-point /\n  <zeoclient>\n    server {at}\n"
        "    storage 1\n  </zeoclient>\n</zodb_db>\n"
    )
    command = [str(PROGRAMS / "runzeo"), "-a", str(at), "-f", str(instance / "var" / "Data.fs")]
    with (directory / "objects.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            wait_for(at.exists, 30)
            yield {}
        finally:
            server.terminate()


@frozen
class RealSite:
    """An application, and its clients.

    :ivar module: of the application, in `tests/apps`.
    :ivar client: what its clients are.
    :ivar check: a path that it answers with 200.
    :ivar around: what has to be there while it runs.
    """

    module: str
    client: Callable[[str, Path, Path, str], Client]
    check: str
    around: Around = nothing


SITES = {
    "pypiserver": RealSite("site_packages", Packages, "/simple/"),
    "dulwich": RealSite("site_git", Git, "/empty/info/refs?service=git-upload-pack"),
    "radicale": RealSite("site_calendar", Calendar, "/.web/"),
    "httpbin": RealSite("site_httpbin", Httpbin, "/get"),
    "django": RealSite("site_admin", Admin, "/admin/login/", database),
    "zope": RealSite("site_zope", Zope, "/", objects),
}


@define
class Result:
    """What has come of it.

    :ivar deploys: how many of each way.
    :ivar turns: of all clients, those that succeeded.
    :ivar failures: what clients have raised.
    :ivar answers: how many requests were answered with which class of status, by the server's access log.
    :ivar ends: of each process that was deployed away or stopped: finished, taken down, abandoned.
    :ivar log: the end of what the server has logged.
    """

    deploys: Counter[str] = field(factory=Counter)
    turns: int = 0
    failures: list[str] = field(factory=list)
    answers: Counter[str] = field(factory=Counter)
    ends: list[tuple[int, int, int]] = field(factory=list)
    log: str = ""

    def check(self) -> None:
        """Assert that nothing was lost."""
        assert not self.failures, "\n".join([*self.failures, self.log])
        assert self.turns, "no client came to the end of a turn"
        assert not {"0", "5"} & self.answers.keys(), self.answers
        assert len(self.ends) == 1 + sum(self.deploys.values()), (self.ends, self.deploys)
        assert not any(taken or abandoned for _, taken, abandoned in self.ends), self.ends


@define
class Run:
    """A site while it runs.

    :param real: the application.
    :param clients: how many.
    """

    real: RealSite
    clients: int
    result: Result = field(factory=Result)
    _stopping: threading.Event = field(factory=threading.Event)

    def run(self, seconds: float, every: float) -> Result:
        """Deploy in turn by each way until the time is over, and then stop.  Each way is gone at least once.

        :param seconds: how long.
        :param every: seconds from the beginning of one deploy to the next.
        """
        become_subreaper()
        with Site() as site, self.real.around(site.path) as environment:
            site.environment.update(environment, SITE=str(site.path), PYTHONPATH=str(APPLICATIONS))
            try:
                self._run(site, seconds, every)
            except BaseException:
                log = site.path / "site.log"
                print(log.read_text()[-10_000:] if log.exists() else "no log", file=sys.stderr)
                raise
        return self.result

    def _run(self, site: Site, seconds: float, every: float) -> None:
        port = free_port()
        site.write("start", START.format(port=port, application=self.real.module)).chmod(0o755)
        site.write("deploy.toml", PLAN.format(port=port, check=self.real.check))
        site.shell("git init --quiet --bare empty; ./start", timeout=LONG)
        wait_for(lambda: _serving(site) != 0, LONG)
        clients = [
            self.real.client(f"http://127.0.0.1:{port}", site.path, site.path / f"client{number}", f"c{number}x")
            for number in range(self.clients)
        ]
        for client in clients:
            client.prepare()
        threads = [threading.Thread(target=self._go_on, args=(client,), daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        ways = {"hang up": hang_up, "takeover": take_over, "deploy": deploy}
        number, end = 0, time.monotonic() + seconds
        while number < len(ways) or time.monotonic() < end:
            due = time.monotonic() + every
            way = list(ways)[number % len(ways)]
            old = _serving(site)
            ways[way](site, old)
            wait_for(lambda old=old: _serving(site) not in (0, old), LONG)  # type: ignore[misc]
            self.result.deploys[way] += 1
            number += 1
            time.sleep(max(0.0, due - time.monotonic()))
        self._stopping.set()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a client does not end"
        for client in clients:
            client.session.close()
        site.shell("graceful stop --control site.sock", timeout=LONG)
        wait_for(lambda: len(_ends(site)) == 1 + number, LONG)
        self.result.ends = _ends(site)
        self.result.log = (site.path / "site.log").read_text()[-10_000:]
        for line in (site.path / "access.log").read_text().splitlines():
            found = re.search(r'" (\d+) ', line)
            assert found is not None, line
            self.result.answers[found[1][0]] += 1

    def _go_on(self, client: Client) -> None:
        while not self._stopping.is_set():
            try:
                client.take_turn()
                self.result.turns += 1
            except Exception as error:
                self.result.failures.append(f"{client.name}, turn {client.number}: {type(error).__name__}: {error}")
                return
            self._stopping.wait(PAUSE)


# -- ways to deploy ---------------------------------------------------------------------------------------


def hang_up(site: Site, old: int) -> None:
    """Have the process start its successor."""
    os.kill(old, signal.SIGHUP)


def take_over(site: Site, old: int) -> None:
    """Start another one."""
    site.shell("./start", timeout=LONG)


def deploy(site: Site, old: int) -> None:
    """Have the command do it, and find nothing wrong."""
    site.shell("graceful deploy deploy.toml --strict", timeout=LONG)
    assert gone(old, LONG)


def _serving(site: Site) -> int:
    """The process that serves; 0 if there is none."""
    try:
        with ControlClient(str(site.path / "site.sock")) as client:
            status = client.get("/status?limit=0")
    except ClientError:
        return 0
    return int(status["pid"]) if status["state"] == "serving" else 0


def _ends(site: Site) -> list[tuple[int, int, int]]:
    log = (site.path / "site.log").read_text()
    return [
        (int(found["finished"]), int(found["taken_down"]), int(found["abandoned"]))
        for found in re.finditer(DRAINED, log)
    ]
