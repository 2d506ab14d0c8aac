"""README.md and docs/: what they show is run, and what they say of options and log lines is what there is."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import setuptools

from graceful.config.settings import Settings
from graceful.process.exit import ABANDONED, KERNEL_AFTER, TAKEN_DOWN, latest_exit
from tests.support.clients import Connection, request
from tests.support.docs_blocks import DOCS, PAGES, README, ROOT, blocks, by_name, commands, option_tables
from tests.support.docs_site import ANYWHERE, LISTEN, Site, check_lines, fetch, gone, lines_of, replaced, shown
from tests.support.gate import Gate
from tests.support.haproxy import ONE_THREAD
from tests.support.home import UNPRIVILEGED
from tests.support.load import Load
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.server import APPLICATIONS, KEEPS_READING, LOOPBACK, PROGRAMS, Server
from tests.support.waiting import wait_for

Test = TypeVar("Test", bound=Callable[..., None])

NOT_RUN = {
    "systemctl": "there is no systemd as process 1 on a test machine; the unit's own command is run",
    "docker-run": "there is no Docker on a test machine; the image's command is run",
    "stop-states": "a drawing",
}
"""The blocks that no test runs, and why."""

COMMANDS = {
    "gunicorn mysite.wsgi": "another server; the tests do not need it",
    "uwsgi --http-socket :8080 --module mysite.wsgi": "another server; the tests do not need it",
    "twistd web": "stock Twisted",
    "twistd web --wsgi": "stock Twisted",
    "twistd -n web --wsgi mysite.wsgi.application": "stock Twisted",
    "uvicorn --interface wsgi mysite.wsgi:app": "another server; the tests do not need it",
    "twistd -n graceful-app mysite.wsgi": "test_names",
    "twistd -n graceful-app mysite.wsgi:application": "test_names",
    "twistd -n graceful-app mysite.wsgi:app": "a name; test_names has its like",
    "twistd graceful-app": "a name",
    "twistd graceful-app --help": "test_options",
    "twist graceful-app": "a name",
    "make demo": "test_demo",
    "make test": "it is what runs this",
    "make bench": "a benchmark: it takes minutes, and servers that the tests do not need",
    "make redeploy": "a benchmark",
    "python bench/deploys.py": "a benchmark",
    "python bench/downloads.py --rounds 3": "a benchmark",
    "python bench/redeploy.py --ways takeover --redeploys 100 --requests 1000000": "a benchmark",
    "systemctl start": "see `systemctl`",
    "systemctl reload": "see `systemctl`; tests/real/test_fleets.py does what it does",
    "systemctl stop": "see `systemctl`",
    "systemctl restart": "see `systemctl`",
    "systemctl kill": "see `systemctl`",
    "systemctl kill --kill-whom=main --signal=USR1 site": "see `systemctl`; SIGUSR1 is sent by test_logrotate",
    "twistd --python": "a name; see `tac-run`",
    "pip install .": "test_install",
    "pip install --editable": "what not to do",
    "graceful status": "test_watching",
    "graceful status --json": "test_watching",
    "graceful top": "tests/real/test_top.py",
    "graceful stop": "tests/real/test_control.py",
    "graceful stop --wait closed": "tests/real/test_control.py",
    "graceful stop --wait gone": "test_watching",
    "graceful stop --deadline SECONDS": "tests/real/test_control.py",
    "graceful stop --quiet": "tests/real/test_control.py",
    "graceful wait closed": "tests/real/test_control.py",
    "graceful wait gone": "tests/real/test_control.py",
    "graceful extend SECONDS": "tests/real/test_control.py",
    "graceful takedown ID": "tests/real/test_control.py",
    "graceful extend": "a name; tests/real/test_control.py",
    "graceful deploy": "test_deploy_command",
    "graceful leave": "test_rotation",
    "graceful enter": "test_rotation",
    "graceful takedown 4712-17": "tests/real/test_workers_told.py",
}
"""The commands in the text, each with the test that runs it, or the reason why none does."""

_SHOWN: set[str] = set()


def runs(*names: str) -> Callable[[Test], Test]:
    """Say which blocks a test runs."""
    _SHOWN.update(names)
    return lambda test: test


@pytest.fixture
def site() -> Iterator[Site]:
    """A directory with a site in it."""
    with Site() as site:
        site.module()
        yield site


def unit(*names: str) -> configparser.ConfigParser:
    """Return a systemd unit, with drop-ins."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    for name in names:
        parser.read_string(shown(name))
    return parser


# -- nothing is left out ------------------------------------------------------------------------------------


def test_every_block_is_run() -> None:
    """Every block of code has a name, and a test that runs it, or stands in the list of those that none does."""
    nameless = [f"{block.page}: {block.text}" for page in PAGES for block in blocks(page) if not block.name]
    assert not nameless
    assert not _SHOWN & NOT_RUN.keys()
    assert _SHOWN | NOT_RUN.keys() == by_name().keys()


def test_every_command_is_known() -> None:
    """Every command in the text is one that a test runs, or stands in the list with the reason why none does."""
    assert {command for page in PAGES for command in commands(page)} == COMMANDS.keys()


def test_readme_is_short() -> None:
    """The README is a door: what takes more than a screen or two stands in docs/."""
    assert len(README.read_text().splitlines()) <= 150


def test_links() -> None:
    """Every file that the README links to exists."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_figures() -> None:
    """The README's figures are those of the benchmarks, server by server."""
    table = README.read_text().partition("<!-- figures: make bench -->\n")[2].partition("<!-- /figures -->")[0]
    rows = [[cell.strip("* ") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 5
    measured = (DOCS / "reference" / "benchmarks.rst").read_text().replace("*", "")
    for server, small, large in rows:
        short = server.partition(" ")[0]
        assert re.search(rf"^{re.escape(server)} +{small} ", measured, re.MULTILINE), server
        assert re.search(rf"^{short} +{large} ", measured, re.MULTILINE), server


def options_shown() -> str:
    """Return the tables of options in the reference."""
    start, end = ".. options: twistd graceful-app --help\n", ".. /options\n"
    return (DOCS / "reference" / "options.rst").read_text().partition(start)[2].partition(end)[0]


def known_options() -> set[str]:
    """Return the options that the reference has."""
    return set(re.findall(r"\* - ``(--[a-z-]+)", options_shown()))


@runs("usage")
def test_options(site: Site) -> None:
    """The options in the reference are those of `--help`, with their defaults and words."""
    wide = site.shell("COLUMNS=2000 twistd graceful-app --help")
    assert options_shown().strip() == option_tables(wide).strip()
    assert set(re.findall(r"  (--[a-z-]+)", wide)) == known_options()
    assert f"Usage: {shown('usage')}" in wide


def test_names_of_options() -> None:
    """An option that the text gives to graceful-app exists."""
    known = known_options()
    for block in by_name().values():
        for line in block.text.replace("\\\n", " ").splitlines():
            given = line.partition("graceful-app ")[2].partition("#")[0]
            assert set(re.findall(r"--[a-z-]+", given)) <= known, line


@runs("stop-formula")
def test_last_limit() -> None:
    """The last limit is by the formula that the text gives, and units and containers are given longer."""
    deadline = Settings().deadline
    added = sum(map(int, re.findall(r"\+ (\d+)", shown("stop-formula"))))
    assert latest_exit(0, deadline) == deadline + added
    killed = latest_exit(0, deadline) + KERNEL_AFTER
    assert int(unit("unit")["Service"]["TimeoutStopSec"]) > killed
    stop_timeout = re.search(r"--stop-timeout=(\d+)", shown("docker-run"))
    assert stop_timeout is not None
    assert int(stop_timeout[1]) > killed


# -- starting -----------------------------------------------------------------------------------------------


@runs("install", "start-install")
def test_install(site: Site) -> None:
    """`pip install` of the package makes an environment in which the README's command serves.

    Without a network: the package is a wheel of this checkout, and what it needs is found beside the tests.
    """
    name = re.search(r'^name = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert name is not None
    for source in ("graceful", "twisted"):
        shutil.copytree(ROOT / source, site.path / source, ignore=shutil.ignore_patterns("__pycache__"))
    for source in ("_graceful_app.py", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / source, site.path)
    # All packages beside the tests but this one, which pip would take for installed.
    beside = site.path / "beside"
    beside.mkdir()
    for package in Path(setuptools.__file__).parent.parent.iterdir():
        if "graceful" not in package.name:
            (beside / package.name).symlink_to(package)
    site.environment |= {
        "PYTHONPATH": str(beside),
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this name as its opposite
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_FIND_LINKS": str(site.path / "wheels"),
    }
    create, install = shown("start-install").splitlines()
    readme, serve = shown("install").splitlines()
    assert readme == f"pip install {name[1]}"
    assert install.endswith(f" -m {readme}")
    site.shell(create)
    site.shell(".venv/bin/python -m pip wheel --no-deps --wheel-dir wheels .", timeout=120)
    site.shell(install, timeout=120)
    for source in ("graceful", "twisted"):
        shutil.rmtree(site.path / source)
    (installed,) = site.path.glob(".venv/lib/python*/site-packages")
    (installed / "beside.pth").write_text(f"{beside}\n")
    site.environment["PYTHONPATH"] = str(APPLICATIONS)
    assert site.shell(".venv/bin/python -c 'import graceful; print(graceful.__file__)'").startswith(str(installed))
    twistd = "exec .venv/bin/python -c 'from twisted.scripts.twistd import run; run()'"
    with site.server(replaced(serve, {"twistd": twistd, **LISTEN})) as server:
        assert fetch(server.port) == b"Hello, world!"


def projects(site: Site) -> None:
    """Make the sites that the examples name: Django's by its own command, and a Flask application."""
    (site.path / "mysite" / "wsgi.py").unlink()
    site.shell("django-admin startproject mysite .")
    site.write("flaskr.py", "import flask\napp = flask.Flask(__name__)\napp.get('/')(lambda: 'from flask')\n")


def check_served(site: Site, name: str) -> None:
    """Run each line of a block, and see that it serves what it says."""
    expected = {"mysite": b"Django", "flaskr": b"from flask", "": b"kill -TERM"}
    for line in shown(name, LISTEN).splitlines():
        module = re.search(r"interface=127.0.0.1 (\w*)", line)
        assert module is not None
        with site.server(line) as server:
            assert expected[module[1]] in fetch(server.port)


@runs("start-names")
def test_names(site: Site) -> None:
    """Django, Flask and the demo are served, by both usual names, and by the module alone."""
    projects(site)
    check_served(site, "start-names")


@runs("start-hello", "start-run", "start-ask")
def test_hello(site: Site) -> None:
    """The first application says hello, and Ctrl-C stops it."""
    site.write("hello.py", shown("start-hello"))
    with site.server(shown("start-run", LISTEN)) as server:
        said = site.shell(shown("start-ask", {"8080": str(server.port)}))
        assert "Hello, world!" in said
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0


@runs("start-check")
def test_check(site: Site) -> None:
    """`--check` says what it would do, or what is wrong, by the statuses that the text gives."""
    site.write("hello.py", shown("start-hello"))
    port = free_port()
    said = site.shell(shown("start-check", {"8081": str(port)}))
    assert f"hello:application would start, at tcp:0.0.0.0:{port}" in said
    missing = site.shell(shown("start-check", {"8081": str(port), "hello": "nowhere"}), status=1)
    assert "nowhere cannot be imported" in missing
    site.shell(shown("start-check", {"8081": "what"}), status=2)


@runs("start-daemon")
def test_daemon(site: Site) -> None:
    """A daemon is started, and stopped by its pid file; the next start in that directory is not hindered."""
    site.write("hello.py", shown("start-hello"))
    for _ in range(2):
        start, stop = shown("start-daemon", LISTEN).splitlines()
        site.shell(start)
        pid = int((site.path / "hello.pid").read_text())
        site.shell(stop)
        assert gone(pid, 20)
        assert not list(site.path.glob("*.pid*"))
    assert "drained in" in (site.path / "hello.log").read_text()


# -- stopping -----------------------------------------------------------------------------------------------


DEMO = f"twistd -n graceful-app --listen {ANYWHERE}"


def in_flight(server: Server, count: int) -> None:
    """Wait until so many exchanges are in flight."""
    end = time.monotonic() + 10
    said = len(server.log.find_all("in flight"))
    while True:
        server.send_signal(signal.SIGUSR2)
        said += 1
        if server.wait_line(r"(\d+) in flight", count=said)[1] == str(count):
            return
        assert time.monotonic() < end, f"never {count} in flight"


def asked(port: int, path: str) -> subprocess.Popen[bytes]:
    """Ask a server for something that may take long."""
    return subprocess.Popen(["curl", "-sN", f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE)


@runs("demo", "watch", "watch-log")
def test_demo(site: Site) -> None:
    """The demo is what `make demo` runs, its stream goes on to the last line, and the log is as shown."""
    make = ["bash", "-c", shown("demo", {"make": "make --dry-run"})]
    # This test may itself be run by make, which would have another word to say.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    said = subprocess.run(make, cwd=ROOT, env=outside, stdout=subprocess.PIPE, text=True, check=True).stdout
    command = said.splitlines()[-1].removeprefix("exec .venv/bin/")
    assert DEMO.startswith(command)
    with site.server(DEMO) as server:
        said = site.shell(shown("watch", {"8080": str(server.port)}))
        assert "nobody interrupted it" in said
        assert server.wait() == 0
        check_lines("watch-log", lines_of(server))


@runs("stop-log")
def test_log_of_a_stop(site: Site) -> None:
    """The log of a stop with something taken down is as shown, and the status is 71."""
    with site.server(f"{DEMO} --deadline 3") as server:
        with asked(server.port, "/slow?seconds=2") as short, asked(server.port, "/slow?seconds=60") as long:
            in_flight(server, 2)
            server.terminate()
            assert b"2 seconds later" in short.communicate()[0]
            assert b"503" in long.communicate()[0]
        assert server.wait() == ABANDONED
        check_lines("stop-log", lines_of(server))


@runs("takedown-run", "takedown-obey")
def test_limits(site: Site) -> None:
    """An application that obeys, under the options that the text shows: it ends by itself, with 503 and a report."""
    site.write("mysite/wsgi.py", "import time\n" + shown("takedown-obey", {"render(number)": "[time.sleep(0.01)]"}))
    reports = site.path / "reports"
    reports.mkdir()
    options = {"--request-timeout 30": "--request-timeout 1", "/var/log/site/reports": str(reports)}
    command = shown("takedown-run", {**options, "graceful-app": f"graceful-app --listen {ANYWHERE}"})
    with site.server(command) as server:
        with asked(server.port, "/") as page:
            assert b"503" in page.communicate()[0]
        server.wait_line("has no time left")
    assert len(list(reports.glob("*/OOPS-*"))) == 1


@runs("in-flight")
def test_in_flight(site: Site) -> None:
    """SIGUSR2 logs what is in flight as shown."""
    with site.server(f"{DEMO} --deadline 0") as server:
        with asked(server.port, "/slow?seconds=20") as slow:
            in_flight(server, 1)
            with asked(server.port, "/stream?seconds=30") as stream:
                assert stream.stdout is not None
                stream.stdout.readline()
                in_flight(server, 2)
                server.wait_line("exchange 2 .* bytes sent")
                check_lines("in-flight", lines_of(server))
                server.terminate()
                slow.communicate()
                stream.communicate()
        assert server.wait() == ABANDONED


# -- operating ----------------------------------------------------------------------------------------------


@runs("haproxy", "first-start", "deploy")
def test_deploy(site: Site) -> None:
    """The script in the guide replaces two servers under five kinds of clients, and no request is lost.

    HAProxy tries nothing twice, and a start takes so long that it takes the server for dead: each step of the script
    counts.  With a version that does not import, nothing is stopped.
    """
    clients, runtime, one, two, status_one, status_two = (str(free_port()) for _ in range(6))
    servers = {"8001": one, "8002": two, "9001": status_one, "9002": status_two}
    quick = {"mysite.wsgi:application": "--idle-grace 1 mysite.wsgi:application"}
    strict = {**ONE_THREAD, "mode http": "mode http\n    retries 0", "inter 1s": "inter 250ms"}
    site.write(
        "haproxy.cfg", shown("haproxy", {**servers, **strict, ":80\n": f"127.0.0.1:{clients}\n", "9999": runtime})
    )
    site.write("deploy.sh", shown("deploy", {**servers, "9999": runtime}))
    site.write("start", shown("deploy-start", quick)).chmod(0o755)
    site.shell(shown("first-start", servers))
    first = pids(site)
    slow = site.write("bin/twistd", f'#!/bin/bash\nsleep 1\nexec {PROGRAMS}/twistd "$@"\n')
    slow.chmod(0o755)
    site.environment["PATH"] = f"{slow.parent}:{site.environment['PATH']}"
    with subprocess.Popen(["haproxy", "-db", "-f", site.path / "haproxy.cfg"]) as haproxy:
        try:
            wait_for(lambda: listens(int(clients)))
            with Load(int(clients)) as load, asked(int(two), "/sleep?seconds=10") as long:
                load.mark()
                site.shell("bash deploy.sh")
                assert all(gone(pid) for pid in first)
                assert long.communicate()[0] == b"slept"
                load.mark()
                second = pids(site)
                site.write("mysite/wsgi.py", "import nowhere\n")
                assert "mysite.wsgi cannot be imported" in site.shell("bash deploy.sh", status=1)
                assert pids(site) == second
                load.mark()
                load.stop().check()
        finally:
            haproxy.kill()
    assert not first & second
    for pid in second:
        os.kill(pid, signal.SIGTERM)
        assert gone(pid, 20)
    for name in ("one", "two"):
        log = (site.path / f"{name}.log").read_text()
        assert len(re.findall(r"drained in .* finished, 0 taken down, 0 abandoned", log)) == 2


@runs("readme-deploy", "deploy-file", "deploy-start", "deploy-run", "deploy-said", "deploy-verdict")
def test_deploy_command(site: Site) -> None:
    """The commands of README and guide replace the guide's two servers, and no request is lost."""
    clients, runtime, one, two, status_one, status_two = (str(free_port()) for _ in range(6))
    servers = {"8001": one, "8002": two, "9001": status_one, "9002": status_two}
    strict = {**ONE_THREAD, "mode http": "mode http\n    retries 0"}
    site.write(
        "haproxy.cfg", shown("haproxy", {**servers, **strict, ":80\n": f"127.0.0.1:{clients}\n", "9999": runtime})
    )
    site.write("start", shown("deploy-start")).chmod(0o755)
    site.shell(shown("first-start", servers))
    first = pids(site)
    with subprocess.Popen(["haproxy", "-db", "-q", "-f", site.path / "haproxy.cfg"]) as haproxy:
        try:
            wait_for(lambda: listens(int(clients)))
            with Load(int(clients)) as load:
                load.mark()
                site.write("deploy.toml", shown("deploy-file", {**servers, "9999": runtime}))
                site.shell(shown("readme-deploy"))
                second = pids(site)
                load.mark()
                said = site.shell(shown("deploy-run")).splitlines()
                load.mark()
                load.stop().check()
        finally:
            haproxy.kill()
    third = pids(site)
    assert not first & second and not second & third
    check_lines("deploy-said", said)
    check_lines("deploy-verdict", said)
    for pid in third:
        os.kill(pid, signal.SIGTERM)
        assert gone(pid, 20)


@runs("deploy-takeover")
def test_deploy_by_takeover(site: Site) -> None:
    """Without HAProxy, the next process has the sockets, and the old one is gone."""
    port = str(free_port())
    places = {"tcp:8080": LOOPBACK.format(port=port), "8080": port}
    site.write("deploy.toml", shown("deploy-takeover", places))
    site.shell("graceful deploy deploy.toml")
    (first,) = pids(site)
    with Load(int(port)) as load:
        load.mark()
        site.shell("graceful deploy deploy.toml")
        (second,) = pids(site)
        load.mark()
        load.stop().check()
    assert first != second
    assert gone(first)
    os.kill(second, signal.SIGTERM)
    assert gone(second, 20)


@runs("testing-pytest", "testing-trial", "testing-memory", "testing-treq-trial", "testing-treq-pytest")
def test_testing(site: Site) -> None:
    """The tests of a site that the guide shows pass."""
    site.write(
        "mysite/wsgi.py",
        "import hashlib, time\n\n\ndef application(environ, start_response):\n"
        "    time.sleep(2 if environ['PATH_INFO'] == '/report' else 0)\n"
        "    body = b'done' if environ['PATH_INFO'] != '/book' else bytes(1 << 24)\n"
        "    start_response('200 OK', [('X-Digest', hashlib.sha256(body).hexdigest())])\n    return [body]\n",
    )
    site.write("test_pytest.py", shown("testing-pytest"))
    site.write("test_memory.py", shown("testing-memory"))
    site.write("test_trial.py", shown("testing-trial"))
    assert "2 passed" in site.shell("python -m pytest -q -p no:cacheprovider test_pytest.py test_memory.py")
    assert "successes=1" in site.shell("python -m twisted.trial test_trial")
    site.write("test_treq_trial.py", shown("testing-treq-trial"))
    site.write("test_treq_pytest.py", shown("testing-treq-pytest"))
    assert "1 passed" in site.shell("python -m pytest -q -p no:cacheprovider test_treq_pytest.py")
    assert "successes=1" in site.shell("python -m twisted.trial test_treq_trial")


def pids(site: Site) -> set[int]:
    """Return the processes that the pid files name."""
    return {int(file.read_text()) for file in site.path.glob("*.pid")}


def listens(port: int) -> bool:
    """Whether somebody accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@runs("second-instance")
def test_second_instance(site: Site) -> None:
    """A second instance starts with the same pid file and port as soon as the first has said `closed`."""
    port = free_port()
    said = site.shell(shown("second-instance", {"tcp:8080": LOOPBACK.format(port=port)}))
    assert said.splitlines()[0] == "site.pid"
    (pid,) = pids(site)
    assert fetch(port) == b"Hello, world!"
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)


@runs("haproxy-lines")
def test_haproxy_lines(site: Site) -> None:
    """HAProxy takes the lines, in the frontend of the example."""
    example = (ROOT / "examples" / "haproxy.cfg").read_text()
    bind = "    bind :80\n"
    site.write("haproxy.cfg", replaced(example, {bind: bind + shown("haproxy-lines")}))
    assert "ALERT" not in site.shell("haproxy -c -f haproxy.cfg")


@runs("unit")
def test_unit(site: Site) -> None:
    """systemd takes the unit where there is one, its command serves, and its statuses are ours."""
    service = unit("unit")["Service"]
    assert service["SuccessExitStatus"].split() == [str(TAKEN_DOWN), str(ABANDONED)]
    verify(site, {"site.service": ("unit",)})
    with site.server(in_place(service["ExecStart"], {"tcp:8080": ANYWHERE})) as server:
        assert fetch(server.port) == b"Hello, world!"
        assert not list(site.path.glob("*.pid"))


@runs("socket-unit", "socket-service")
def test_socket_unit(site: Site) -> None:
    """With systemd's socket, who connects while one process stops is served by the next."""
    verify(site, {"site.service": ("unit", "socket-service"), "site.socket": ("socket-unit",)})
    command = in_place(unit("socket-service")["Service"]["ExecStart"], {"mysite.wsgi:application": ""})
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        activated(site, listening, command) as old,
        asked(old.port, "/slow?seconds=2") as slow,
    ):
        in_flight(old, 1)
        old.terminate()
        old.wait_closed()
        with asked(old.port, "/fast") as waiting, activated(site, listening, command) as new:
            assert waiting.communicate()[0] == f"Served by process {new.pid}.\n".encode()
        assert b"2 seconds later" in slow.communicate()[0]
        assert old.wait() == 0


def activated(site: Site, listening: socket.socket, command: str) -> Server:
    """Return a server that gets a socket as systemd hands it over, sd_listen_fds(3)."""
    fd = listening.fileno()
    return site.server(f"exec 3<&{fd}; export LISTEN_FDS=1 LISTEN_PID=$$; exec {command}", pass_fds=[fd])


def in_place(command: str, places: dict[str, str]) -> str:
    """Return the command of a unit, for this machine."""
    return replaced(command, {"/srv/site/.venv/bin/": "", **places})


def verify(site: Site, files: dict[str, tuple[str, ...]]) -> None:
    """Have systemd look at units, where it is installed: it is not needed for anything else here."""
    if shutil.which("systemd-analyze") is None:
        return
    for name, parts in files.items():
        whole = unit(*parts)
        if "Service" in whole:
            command = whole["Service"]["ExecStart"]
            whole["Service"]["ExecStart"] = in_place(command, {"twistd": str(PROGRAMS / "twistd")})
        with (site.path / name).open("w") as file:
            whole.write(file, space_around_delimiters=False)
    assert site.shell(f"systemd-analyze verify {' '.join(f'./{name}' for name in files)}") == ""


@runs("socket-activate")
def test_socket_activate(site: Site) -> None:
    """`systemd-socket-activate` starts it with the first connection; where that is not installed, we do it."""
    site.write("mysite/wsgi.py", shown("start-hello"))  # by itself: PYTHONPATH is not passed on
    port = free_port()
    command = shown("socket-activate", {"8080": str(port)})
    activator = f"systemd-socket-activate --listen=127.0.0.1:{port} "
    assert command.startswith(activator)
    with socket.socket() as listening:
        if shutil.which("systemd-socket-activate") is None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1", port))
            listening.listen()
            server = activated(site, listening, command.removeprefix(activator))
        else:
            server = site.server(command)
        server.start()
        try:
            wait_for(lambda: listens(port))
            assert fetch(port) == b"Hello, world!\n"
            server.terminate()
            assert server.wait() == 0
        finally:
            server.kill()


@runs("fd")
def test_inherited_descriptor(site: Site) -> None:
    """The program that holds the socket itself replaces one server by the next."""
    port = free_port()
    program, deploy, rest = shown("fd", {"8080": str(port)}).partition("# … and for a deploy")
    ask = f"import urllib.request as u; assert u.urlopen('http://127.0.0.1:{port}/').read() == b'Hello, world!'\n"
    end = "assert old.returncode == 0\nnew.terminate()\nassert new.wait() == 0\n"
    site.write("program.py", program + ask + deploy + rest + ask + end)
    site.shell("python program.py")


@runs("access-log")
def test_access_log(site: Site) -> None:
    """A line of the access log is as shown."""
    site.write("hello.py", shown("start-hello"))
    with site.server(f"{DEMO} --access-log - hello") as server:
        asked(server.port, "/report").communicate()
        server.wait_line("GET /report")
        check_lines("access-log", lines_of(server))


@runs("logrotate")
def test_logrotate(site: Site) -> None:
    """After its files were moved, what `postrotate` does makes the server write new ones.

    logrotate itself is not run: it would have to be installed for this alone.  What it does is done here.
    """
    logs = site.home.logs
    start = f"twistd --pidfile=site.pid --logfile={logs}/site.log graceful-app --access-log {logs}/access.log"
    port = free_port()
    site.shell(f"{start} --listen {LOOPBACK.format(port=port)} mysite.wsgi")
    fetch(port, "/echo?before")
    access = logs / "access.log"
    wait_for(lambda: "before" in access.read_text())
    text = shown("logrotate", {"/run/site": str(site.path), "/var/log/site": str(logs)})
    files, rest = text.split(" {\n")
    rotated = sorted(Path("/").glob(files[1:]))
    assert [path.name for path in rotated] == ["access.log", "site.log"]
    mode = re.search(r"create (\d+)", rest)
    assert mode is not None
    for path in rotated:
        path.rename(f"{path}.1")
        path.touch(int(mode[1], 8))
    script = re.search(r"postrotate\n(.*)endscript", rest, re.DOTALL)
    assert script is not None
    site.shell(script[1])
    wait_for(lambda: "log files opened anew" in (logs / "site.log").read_text())
    fetch(port, "/echo?after")
    (pid,) = pids(site)
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)
    assert "after" in access.read_text()
    assert "drained in" in (logs / "site.log").read_text()


@runs("uid")
def test_uid(site: Site) -> None:
    """As root the user is changed and the logs are written; as anybody else all but that is tried."""
    logs, port = site.home.logs, free_port()
    places = {"/run/": f"{site.path}/", "/var/log/site": str(logs), "tcp:80 ": f"{LOOPBACK.format(port=port)} "}
    prefix = ""
    if os.getuid() == 0:
        places["www-data"] = str(UNPRIVILEGED)
        prefix = shlex.join(KEEPS_READING) + " "
        logs.chmod(0o777)
    else:
        places["--uid=www-data --gid=www-data "] = ""
    site.shell(prefix + shown("uid", places))
    (pid,) = pids(site)
    fetch(port, "/echo?logged")
    if os.getuid() == 0:
        assert os.stat(f"/proc/{pid}").st_uid == UNPRIVILEGED
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)
    assert "logged" in (logs / "access.log").read_text()
    assert "drained in" in (logs / "site.log").read_text()


@runs("dockerfile")
def test_command_of_a_container(site: Site) -> None:
    """The image's command serves, and stops at SIGTERM."""
    command = json.loads(
        shown("dockerfile", {'graceful-app"': f'graceful-app", "--listen", "{ANYWHERE}"'}).split("CMD ")[1]
    )
    with site.server(f"exec {shlex.join(command)}") as server:
        assert fetch(server.port) == b"Hello, world!"
        server.wait_line("GET / HTTP/1.1")
    lines = (ROOT / "examples" / "docker" / "Dockerfile").read_text().splitlines()
    said = [line for line in lines if line and not line.startswith(("#", "STOPSIGNAL"))]
    assert said == shown("dockerfile").splitlines()
    assert "STOPSIGNAL SIGTERM" in lines


# -- downloads, and requests that wait -----------------------------------------------------------------------


LIBRARIAN = "http://librarian:58000"
PDF = bytes(range(256)) * 4096

DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path
settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[f"{__name__}.known"], SECRET_KEY="x")
"""
URLS = """
def known(get_response):
    def respond(request):
        request.user = User()
        return get_response(request)
    return respond

class User:
    id = 7

urlpatterns = [path("book/<int:number>", book), path("news/<int:number>", news)]
application = get_wsgi_application()
"""
SHOP = """
import threading
import types

class Books:
    class model:
        class DoesNotExist(Exception):
            pass

    def all(self):
        return self

    def get(self, number, owner):
        if owner != 7:
            raise self.model.DoesNotExist
        return types.SimpleNamespace(stored_as=f"{number}.pdf", name="book.pdf")

class Book:
    _default_manager = Books()

def tell_me_when_it_is_there(number, ticket):
    threading.Timer(0.1, ticket.answer, (200, [], b"it is there")).start()
"""


@pytest.fixture
def librarian(site: Site) -> Iterator[Nginx]:
    """A file store that has a book."""
    files = site.home.path / "files"
    files.mkdir()
    (files / "1.pdf").write_bytes(PDF)
    with Nginx(site.home.path, files) as nginx:
        yield nginx


@runs("download-flask", "download-django", "download-wsgi", "parked-django")
@pytest.mark.parametrize("name", ["download-flask", "download-django", "download-wsgi"])
def test_views_of_downloads(site: Site, librarian: Nginx, name: str) -> None:
    """What replaces one's own streaming code sends the file store's file, and Django's other view waits for news."""
    text = shown(name, {LIBRARIAN: librarian.url})
    if name == "download-django":
        site.write("shop/models.py", SHOP)
        text = DJANGO + text + shown("parked-django") + URLS
    site.write("view.py", text)
    with site.server(f"twistd -n graceful-app --listen {ANYWHERE} view") as server:
        url = f"http://127.0.0.1:{server.port}/book/1"
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read() == PDF
            named = answer.headers["Content-Disposition"]
        assert named in (None, 'attachment; filename="book.pdf"', "attachment; filename=book.pdf")
        assert (named is None) == (name == "download-wsgi")
        if name == "download-django":
            assert fetch(server.port, "/news/1") == b"it is there"


@runs("download-internal")
def test_internal_download(site: Site) -> None:
    """`X-Accel-Redirect` is taken over."""
    site.write("mysite/wsgi.py", "from handover import application\n")
    file = site.write("files/book.pdf", "a book")
    with site.server(shown("download-internal", {**LISTEN, "/srv/files": str(file.parent)})) as server:
        assert fetch(server.port, "/redirect?to=/protected/book.pdf") == b"a book"


@runs("download-prefix")
def test_download_by_prefix(site: Site, librarian: Nginx) -> None:
    """Prefixes are served without the application."""
    file = site.write("static/style.css", "a style")
    places = {**LISTEN, "/srv/static": str(file.parent), LIBRARIAN: librarian.url}
    with site.server(shown("download-prefix", places)) as server:
        assert fetch(server.port, "/static/style.css") == b"a style"
        assert fetch(server.port, "/files/1.pdf") == PDF
        assert fetch(server.port) == b"Hello, world!"


@runs("downloads-log")
def test_download_deadline(site: Site) -> None:
    """A download that is over its deadline is named in the log as shown."""
    with site.write("large", "").open("wb") as large:
        large.truncate(1 << 28)
    options = f"--download /files={site.path} --download-deadline 2 --deadline 1"
    with site.server(f"{DEMO} {options}") as server, Connection(server.port, receive_buffer=4096) as connection:
        connection.send(request("/files/large"))
        connection.some(1000)
        server.terminate()
        assert server.wait() == TAKEN_DOWN
        check_lines("downloads-log", lines_of(server))


@runs("parked-flask")
def test_parked(site: Site) -> None:
    """Who waits for news gets what another request posts."""
    site.write("flaskr.py", shown("parked-flask"))
    command = f"twistd -n graceful-app --listen {ANYWHERE} flaskr"
    with site.server(command) as server, asked(server.port, "/news") as waiting:
        wait_for(lambda: server.in_flight("parked") == 1)
        assert site.shell(f"curl -s -d 'it is there' http://127.0.0.1:{server.port}/news") == "1 were told\n"
        assert waiting.communicate()[0] == b"it is there"


@runs("downloads-run")
def test_example_of_downloads(site: Site) -> None:
    """The example is started by this command; another test says what it does."""
    shutil.copytree(ROOT / "examples", site.path, dirs_exist_ok=True)
    with site.server(shown("downloads-run", LISTEN)) as server:
        assert b"/news" in fetch(server.port)


# -- watching -----------------------------------------------------------------------------------------------


@runs("control-rotation")
def test_rotation(site: Site) -> None:
    """Health leaves the rotation, and enters it again."""
    leave, enter = shown("control-rotation").splitlines()
    with site.server(DEMO) as server:
        site.shell(leave)
        said = site.shell(f"curl -s -w '%{{http_code}}' http://127.0.0.1:{server.port}/+haproxy")
        assert said == "away\n503"
        site.shell(enter)
        assert fetch(server.port, "/+haproxy") == b"serving\n"


@runs("control", "control-see", "control-status", "control-stop", "control-curl")
def test_watching(site: Site) -> None:
    """The commands say what is shown, before and in the middle of a stop, and the last one how it went."""
    with site.server(f"{DEMO} --app-version 42") as server, asked(server.port, "/slow?seconds=8") as slow:
        in_flight(server, 1)
        site.shell(shown("control-curl"))
        assert fetch(server.port, "/fast")
        commands = shown("control", {"graceful top": "true"}).splitlines()
        site.shell("\n".join(commands[:-2]))
        server.terminate()
        server.wait_closed()
        see = shown("control-see", {"graceful top": "true"})
        text, told = site.shell(see).split("\n{")
        lines = (f"prefix {line}" for line in text.splitlines())
        check_lines("control-status", lines)
        assert json.loads("{" + told)["state"] == "finishing"
        site.shell("\n".join(commands[-2:]))
        assert b"8 seconds later" in slow.communicate()[0]
        assert server.wait() == 0
        site.shell(shown("control-stop"))


# -- the reactor ------------------------------------------------------------------------------------------------


@runs("reactor-run", "reactor-log")
def test_reactor(site: Site) -> None:
    """`twistd web` under the graceful reactor finishes what is in flight, says what it should say, and exits 0."""
    site.environment["PYTHONPATH"] += f":{site.path}"  # as if the project were installed
    server = site.server(shown("reactor-run", {"tcp:8080": ANYWHERE}), wait_open=False)
    with server, Gate(site.home.path / "gate") as gate:
        with Connection(int(server.wait_line(r"Site starting on (\d+)", 30)[1])) as connection:
            connection.send(request(gate.target()))
            gate.wait_reached()
            server.terminate()
            server.wait_line("closed")
            gate.open()
            assert connection.answer().body == b"passed"
        assert server.wait() == 0
        check_lines("reactor-log", lines_of(server))


@runs("reactor-install", "reactor-in-flight")
def test_reactor_in_a_program(site: Site) -> None:
    """A program installs it, and has something counted: a stop waits for that."""
    program = [
        shown("reactor-install"),
        "from twisted.internet.defer import Deferred",
        "deferred = Deferred()",
        shown("reactor-in-flight"),
        "reactor.callLater(0.2, deferred.callback, None)",
        "reactor.callWhenRunning(reactor.stop)",
        "reactor.run()",
        "print(type(reactor).__name__, deferred.called)",
    ]
    site.write("program.py", "\n".join(program))
    assert site.shell("python program.py") == "GracefulReactor True\n"


# -- from one instance to the next -----------------------------------------------------------------------------


@runs("takeover", "takeover-lines", "takeover-failed", "takeover-readme", "takeover-pid")
def test_takeover(site: Site) -> None:
    """The command that starts also deploys, the log is as shown, and a predecessor can be named."""
    listen = {"tcp:8080": LOOPBACK.format(port=free_port())}
    command = shown("takeover", listen)
    with Gate(site.home.path / "gate") as gate, site.server(command) as old:
        slow = asked(old.port, gate.target())
        gate.wait_reached()
        site.write("mysite/wsgi.py", "import nowhere\n")
        assert "cannot be imported" in site.shell(command, status=1)
        old.wait_line("no takeover: process")
        check_lines("takeover-failed", lines_of(old))
        site.module()
        with site.server(command) as new:
            new.wait_line(f"took over from process {old.pid}")
            see, stop, wait, takedown = shown("takeover-pid", {"4711": str(old.pid)}).splitlines()
            assert "no exchange 12" in site.shell(takedown, status=1)
            assert f"process {old.pid}: finishing" in site.shell(see)
            stopping = threading.Thread(target=site.shell, args=(stop,))
            stopping.start()
            old.wait_line("order /stop")
            gate.open()
            assert slow.communicate()[0] == b"passed"
            stopping.join()
            assert old.wait() == 0
            check_lines("takeover-lines", lines_of(old))
            site.shell(wait, status=2)  # it is there no more
            site.shell(shown("takeover-readme", {"--takeover --listen tcp:8080": f"--check --listen {ANYWHERE}"}))


@runs("hang-up", "hang-up-lines")
def test_hang_up(site: Site) -> None:
    """A hang-up runs the release that the link leads to now, and the log says so."""
    check_deploy_in_place(site, "hang-up", "took over from process", "hang-up-lines")


def check_deploy_in_place(site: Site, command: str, done: str, lines: str, before: str = "") -> None:
    """Run what deploys in place, and compare what is logged.

    :param command: the block that is run.
    :param done: what the log says when it is done.
    :param lines: the block with the log.
    :param before: a command that the block takes for granted.
    """
    for release in ("41", "42"):
        site.write(f"releases/{release}/mysite/wsgi.py", "from basic import application\n")
    shutil.rmtree(site.path / "mysite")
    site.shell(before + shown(command, {"tcp:8080": LOOPBACK.format(port=free_port())}))
    log = site.path / "site.log"
    wait_for(lambda: done in log.read_text())
    (pid,) = pids(site)
    check_lines(lines, log.read_text().replace(str(site.path), "/srv/site").splitlines())
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)


@runs("workers", "workers-lines", "workers-died", "workers-takeover", "workers-watching")
def test_workers(site: Site) -> None:
    """Workers serve, are replaced when they die, are looked at, and a supervisor with more of them takes over."""
    listen = {"tcp:8080": LOOPBACK.format(port=free_port())}
    with Gate(site.home.path / "gate") as gate, site.server(shown("workers", listen)) as old:
        check_lines("workers-lines", sorted(lines_of(old), key=lambda line: "open (pid" in line))
        asking = asked(old.port, gate.target())
        gate.wait_reached()
        see, take = shown("workers-watching").splitlines()
        (worker,) = re.findall(r"^ +(\d+)-1 .* GET /gate", site.shell(see), re.MULTILINE)
        os.kill(int(worker), signal.SIGKILL)
        asking.wait()
        old.wait_line("another one starts now")
        check_lines("workers-died", (re.sub("worker [134],", "worker 2,", line) for line in lines_of(old)))
        assert "no exchange 4712-17" in site.shell(take, status=1)
        old.wait_line(r"worker \d, process \d+, accepts", count=5)
        with site.server(shown("workers-takeover", listen)) as new:
            new.wait_line(f"took over from process {old.pid}")
            assert old.wait() == 0


@runs("workers-hang-up", "workers-hang-up-lines")
def test_workers_hang_up(site: Site) -> None:
    """A hang-up has the workers run the release that the link leads to now, and the log says so."""
    check_deploy_in_place(site, "workers-hang-up", "deployed: all workers run", "workers-hang-up-lines")


@runs("readme-workers")
def test_workers_of_the_readme(site: Site) -> None:
    """The README's two lines start workers and replace them."""
    link = "ln -sfn releases/41 current\n"
    check_deploy_in_place(site, "readme-workers", "deployed: all workers run", "workers-hang-up-lines", before=link)


# -- embedding ----------------------------------------------------------------------------------------------


@runs("tree-run", "klein-run")
@pytest.mark.parametrize(("name", "path"), [("tree-run", "/files/"), ("klein-run", "/api/hello/you")])
def test_trees(site: Site, name: str, path: str) -> None:
    """The examples are started by these commands; other tests say what they do."""
    shutil.copytree(ROOT / "examples", site.path, dirs_exist_ok=True)
    with site.server(shown(name, LISTEN)) as server:
        assert b"you" in fetch(server.port, path) or b"embedded.tac" in fetch(server.port, path)
        assert fetch(server.port, "/other").startswith(b"This is /other")


@runs("tac-run")
def test_tac(site: Site) -> None:
    """A service of one's own is started by this command, and ended by SIGTERM as twistd ends."""
    shutil.copytree(ROOT / "examples", site.path, dirs_exist_ok=True)
    with site.server(f"export LISTEN={ANYWHERE}; {shown('tac-run')}") as server:
        assert fetch(server.port).startswith(b"The other service")
        server.terminate()
        assert server.wait() == -signal.SIGTERM
