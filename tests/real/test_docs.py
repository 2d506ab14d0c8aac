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
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

import pytest
import setuptools

from graceful.config.settings import Settings
from graceful.process.exit import ABANDONED, KERNEL_AFTER, TAKEN_DOWN, latest_exit
from tests.support.clients import Connection, request
from tests.support.collector import Collector, Span
from tests.support.docs_blocks import DOCS, PAGES, README, ROOT, blocks, by_name, commands, option_tables
from tests.support.docs_site import ANYWHERE, LISTEN, SERVE, Site, check_lines, fetch, gone, lines_of, replaced, shown
from tests.support.gate import Gate
from tests.support.haproxy import ONE_THREAD
from tests.support.home import UNPRIVILEGED
from tests.support.load import Load
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.server import APPLICATIONS, KEEPS_READING, LOOPBACK, PROGRAMS, Server
from tests.support.tls import Certificate
from tests.support.waiting import wait_for

Test = TypeVar("Test", bound=Callable[..., None])

NOT_RUN = {
    "systemctl": "tests/real/test_systemd.py does it, with the documentation's units",
    "docker-run": "there is no Docker on a test machine; the image's command is run",
    "request-start": "what proxies send is read in tests/fast/web/test_queue_times.py",
    "completion": "lines for three shells; tests/real/test_share.py completes with all of them",
    "stop-states": "a drawing",
    "tracing-install": "the tests are installed with it",
}
"""The blocks that no test runs, and why."""

COMMANDS = {
    "gunicorn mysite.wsgi": "another server; the tests do not need it",
    "uwsgi --http-socket :8080 --module mysite.wsgi": "another server; the tests do not need it",
    "uvicorn mysite.asgi:app": "another server; the tests do not need it",
    "twistd -n graceful-app mysite.asgi:app": "a name; `asgi-run` is run",
    "graceful reload-certificates": "tests/real/test_tls_listener.py",
    "twistd web": "stock Twisted",
    "twistd web --wsgi": "stock Twisted",
    "twistd -n web --wsgi mysite.wsgi.application": "stock Twisted",
    "uvicorn --interface wsgi mysite.wsgi:app": "another server; the tests do not need it",
    "twistd -n graceful-app mysite.wsgi": "test_applications_are_served_by_the_usual_names",
    "twistd -n graceful-app mysite.wsgi:application": "test_applications_are_served_by_the_usual_names",
    "pip install 'graceful-app[asgi]'": "the tests are installed with it",
    "twistd -n graceful-app 'flaskr:create_app()'": "test_applications_are_served_by_the_usual_names has its like",
    "twistd -n graceful-app mysite.wsgi:app": "a name; test_applications_are_served_by_the_usual_names has its like",
    "graceful serve": "`start-run` is run",
    "graceful serve [options] [MODULE[:CALLABLE]]": "tests/real/test_startup.py",
    "graceful config": "`options-environment` is run",
    "graceful serve --help": "tests/fast/commands/test_serve.py",
    "python -m": "a name",
    "twistd graceful-app": "a name",
    "twistd graceful-app --help": "test_the_options_of_the_reference_are_those_of_help",
    "twist graceful-app": "a name",
    "make demo": "test_the_demo_streams_to_its_last_line",
    "make test": "it is what runs this",
    "make wheels": "it compiles for a minute; `make soak` builds that wheel and tests it",
    "graceful --version": "tests/fast/test_cli.py",
    "twistd graceful-app --version": "says what `graceful --version` says",
    "make bench": "a benchmark: it takes minutes, and servers that the tests do not need",
    "make bench BENCH=--tls": "a benchmark",
    "make figures": "a benchmark",
    "python bench/instructions.py": "a benchmark",
    'make bench BENCH="--scenarios asgi-events --rounds 1 --seconds 5"': "a benchmark",
    "make redeploy": "a benchmark",
    "make matrix MATRIX=compiled": "it installs other interpreters, and compiles on each",
    "make matrix": "it installs other interpreters; `make test` runs its short form",
    "python bench/asgi_stop.py": "a benchmark",
    "python bench/deploys.py": "a benchmark",
    "python bench/downloads.py --rounds 3": "a benchmark",
    "python bench/tls_libraries.py": "a benchmark",
    "python bench/moving.py --idle 1000 --downloads 50 --rounds 100": "a benchmark",
    "python bench/redeploy.py --redeploys 100": "a benchmark",
    "python bench/redeploy.py --ways takeover --redeploys 100 --requests 1000000": "a benchmark",
    'python bench/redeploy.py --ways "ASGI takeover" --redeploys 50': "a benchmark",
    "docker run --init": "see `docker-run`",
    "graceful status --control /run/graceful-app/graceful.sock": "`control` is run, in its directory",
    "systemctl start": "see `systemctl`",
    "systemctl reload": "see `systemctl`",
    "systemctl stop": "see `systemctl`",
    "systemctl restart": "see `systemctl`",
    "systemctl kill": "see `systemctl`",
    "systemctl show --property=ExecMainStatus site": "see `systemctl`",
    "systemctl kill --kill-whom=main --signal=USR1 site": "see `systemctl`; the test of `postrotate` sends SIGUSR1",
    "twistd --python": "a name; see `tac-run`",
    "pip install .": "test_pip_install_makes_an_environment_that_serves",
    "pip install --editable": "what not to do",
    "graceful status": "test_the_watching_commands_say_what_is_shown",
    "graceful status --json": "test_the_watching_commands_say_what_is_shown",
    "graceful top": "tests/real/test_top.py",
    "graceful stop": "tests/real/test_control.py",
    "graceful stop --wait closed": "tests/real/test_control.py",
    "graceful stop --wait gone": "test_the_watching_commands_say_what_is_shown",
    "graceful stop --deadline SECONDS": "tests/real/test_control.py",
    "graceful stop --quiet": "tests/real/test_control.py",
    "graceful wait closed": "tests/real/test_control.py",
    "graceful wait gone": "tests/real/test_control.py",
    "graceful extend SECONDS": "tests/real/test_control.py",
    "graceful takedown ID": "tests/real/test_control.py",
    "graceful extend": "a name; tests/real/test_control.py",
    "graceful deploy": "test_the_deploy_command_loses_no_request",
    "graceful leave": "test_health_leaves_and_enters_the_rotation",
    "graceful enter": "test_health_leaves_and_enters_the_rotation",
    "graceful convert gunicorn.conf.py": "`convert` is run",
    "graceful convert": "`gunicorn-converted` is compared with what it prints",
    "graceful serve --config site.toml": "a server is started with `unit-counterpart`",
    "graceful convert uwsgi.ini": "tests/fast/config/test_conversion.py",
    "graceful workers N": "tests/real/test_worker_count.py",
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


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    """Every file that the README links to exists."""
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    """The README's figures are those of the benchmarks, server by server."""
    table = README.read_text().partition("<!-- figures: make figures -->\n")[2].partition("<!-- /figures -->")[0]
    rows = [[cell.strip("* ") for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert len(rows) == 6
    measured = (DOCS / "reference" / "benchmarks.rst").read_text().replace("*", "")
    for server, small, browser, large in rows:
        assert re.search(rf"^{re.escape(server)} +{small} +{browser} .* {large}$", measured, re.MULTILINE), server


def options_shown() -> str:
    """Return the tables of options in the reference."""
    start, end = ".. options: twistd graceful-app --help\n", ".. /options\n"
    return (DOCS / "reference" / "options.rst").read_text().partition(start)[2].partition(end)[0]


def known_options() -> set[str]:
    """Return the options that the reference has."""
    return set(re.findall(r"\* - ``(--[a-z-]+)", options_shown()))


@runs("usage")
def test_the_options_of_the_reference_are_those_of_help(site: Site) -> None:
    """The options in the reference are those of `--help`, with their defaults and words."""
    wide = site.shell("COLUMNS=2000 twistd graceful-app --help")
    assert options_shown().strip() == option_tables(wide).strip()
    assert set(re.findall(r"  (--[a-z-]+)", wide)) == known_options()
    assert f"Usage: {shown('usage')}" in wide


@runs("options-environment", "options-file")
def test_options_come_from_environment_and_file(site: Site) -> None:
    """`graceful config` shows what the environment sets; the file of the text serves, and is refused misspelt."""
    said = site.shell(shown("options-environment"))
    for line in (
        'application = "mysite.wsgi"',
        "threads = 8  # GRACEFUL_THREADS",
        'trusted-proxy = ["10.0.0.0/8", "unix"]',
    ):
        assert line in said
    site.write("pyproject.toml", shown("options-file"))
    with site.server(f"exec graceful serve --listen {ANYWHERE}") as server:
        assert fetch(server.port) == b"Hello, world!"
    site.write("pyproject.toml", shown("options-file", {"threads": "treads"}))
    assert "treads: there is no such option; the nearest is threads" in site.shell("graceful serve", status=2)


def test_names_of_options() -> None:
    """An option that the text gives to graceful-app exists."""
    known = known_options()
    for block in by_name().values():
        for line in block.text.replace("\\\n", " ").splitlines():
            given = line.partition("graceful-app ")[2].partition("#")[0]
            assert set(re.findall(r"--[a-z-]+", given)) <= known, line


@runs("stop-formula")
def test_the_last_limit_follows_the_formula_in_the_text() -> None:
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
def test_pip_install_makes_an_environment_that_serves(site: Site) -> None:
    """`pip install` of the package makes an environment in which the README's command serves.

    Without a network: the package is a wheel of this checkout, and what it needs is found beside the tests.
    """
    name = re.search(r'^name = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert name is not None
    for source in ("graceful", "share", "twisted"):
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
    assert not [*site.path.glob("build"), *site.path.glob("*.egg-info")], "the build leaves nothing in the checkout"
    site.shell(install, timeout=120)
    for source in ("graceful", "share", "twisted"):
        shutil.rmtree(site.path / source)
    (installed,) = site.path.glob(".venv/lib/python*/site-packages")
    (installed / "beside.pth").write_text(f"{beside}\n")
    site.environment["PYTHONPATH"] = str(APPLICATIONS)
    assert site.shell(".venv/bin/python -c 'import graceful; print(graceful.__file__)'").startswith(str(installed))
    with site.server(replaced(serve, {"graceful serve": f"exec .venv/bin/{SERVE['graceful serve']}"})) as server:
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
def test_applications_are_served_by_the_usual_names(site: Site) -> None:
    """Django, Flask and the demo are served, by both usual names, and by the module alone."""
    projects(site)
    check_served(site, "start-names")


@runs("start-hello", "start-run", "start-twistd", "start-ask")
@pytest.mark.parametrize("start", ["start-run", "start-twistd"])
def test_the_first_application_says_hello_and_ctrl_c_stops_it(site: Site, start: str) -> None:
    """The first application says hello, started in both ways, and Ctrl-C stops it."""
    site.write("hello.py", shown("start-hello"))
    with site.server(shown(start, SERVE if start == "start-run" else LISTEN)) as server:
        said = site.shell(shown("start-ask", {"8080": str(server.port)}))
        assert "Hello, world!" in said
        server.send_signal(signal.SIGINT)
        assert server.wait() == 0


@runs("start-reload")
def test_an_edit_is_served_at_once(site: Site) -> None:
    """What is edited is served by the server that is started as shown."""
    site.write("hello.py", shown("start-hello"))
    _, serve = shown("start-reload", SERVE).splitlines()
    with site.server(serve) as server:
        assert b"world" in fetch(server.port, "/")
        site.write("hello.py", shown("start-hello").replace("world", "reload"))
        wait_for(lambda: b"reload" in fetch(server.port, "/"))


@runs("start-check")
def test_check_says_what_it_would_do_or_what_is_wrong(site: Site) -> None:
    """`--check` says what it would do, or what is wrong, by the statuses that the text gives."""
    site.write("hello.py", shown("start-hello"))
    port = free_port()
    said = site.shell(shown("start-check", {"8081": str(port)}))
    assert f"hello:application would start, at tcp:0.0.0.0:{port}" in said
    missing = site.shell(shown("start-check", {"8081": str(port), "hello": "nowhere"}), status=1)
    assert "nowhere cannot be imported" in missing
    site.shell(shown("start-check", {"8081": "what"}), status=2)


@runs("start-daemon")
def test_a_daemon_is_started_and_stopped_by_its_pid_file(site: Site) -> None:
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


def asked(port: int, path: str) -> subprocess.Popen[bytes]:
    """Ask a server for something that may take long."""
    return subprocess.Popen(["curl", "-sN", f"http://127.0.0.1:{port}{path}"], stdout=subprocess.PIPE)


@runs("demo", "watch", "watch-log")
def test_the_demo_streams_to_its_last_line(site: Site) -> None:
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
    with site.server(f"{DEMO} --deadline 7") as server:
        with asked(server.port, "/slow?seconds=6") as short, asked(server.port, "/slow?seconds=60") as long:
            server.settle(2)
            server.terminate()
            assert b"6 seconds later" in short.communicate()[0]
            assert b"503" in long.communicate()[0]
        assert server.wait() == ABANDONED
        check_lines("stop-log", lines_of(server))


@runs("takedown-run", "takedown-obey")
def test_an_application_that_obeys_its_limit_ends_with_503(site: Site) -> None:
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


@runs("asgi-run", "asgi-events")
def test_the_event_stream_of_the_text_ends_itself_in_a_stop(site: Site) -> None:
    """The ASGI application that the text shows is served by the command, and is told of the stop."""
    site.write("mysite/asgi.py", shown("asgi-events"))
    with site.server(shown("asgi-run", LISTEN)) as server, Connection(server.port) as stream:
        pieces: list[bytes] = []

        def take(piece: bytes) -> None:
            if not pieces:
                server.terminate()
            pieces.append(bytes(piece))

        stream.send(request("/events"))
        stream.answer(consume=take)
        assert pieces[0].startswith(b"data: news")
        assert b"".join(pieces).endswith(b"event: bye\ndata: come back\n\n")
        assert server.wait() == 0


@runs("in-flight")
def test_sigusr2_logs_what_is_in_flight_as_shown(site: Site) -> None:
    """SIGUSR2 logs what is in flight as shown."""
    with site.server(f"{DEMO} --deadline 0") as server:
        with asked(server.port, "/slow?seconds=20") as slow:
            server.settle(1)
            with asked(server.port, "/stream?seconds=30") as stream:
                assert stream.stdout is not None
                stream.stdout.readline()
                server.settle(2)
                server.wait_line("exchange 2 .* bytes sent")
                check_lines("in-flight", lines_of(server))
                server.terminate()
                slow.communicate()
                stream.communicate()
        assert server.wait() == ABANDONED


# -- operating ----------------------------------------------------------------------------------------------


@runs("haproxy", "first-start", "deploy")
def test_the_deploy_script_loses_no_request(site: Site) -> None:
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
def test_the_deploy_command_loses_no_request(site: Site) -> None:
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


ASGI_SITE: Final = """
import graceful


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: news\\n\\n", "more_body": True})
        await graceful.drain_begins()
        await send({"type": "http.response.body", "body": b"event: bye\\ndata: come back\\n\\n"})
"""


@runs(
    *("testing-pytest", "testing-trial", "testing-memory", "testing-memory-asgi"),
    *("testing-treq-trial", "testing-treq-pytest"),
)
def test_the_tests_that_the_guide_shows_pass(site: Site) -> None:
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
    site.write("mysite/asgi.py", ASGI_SITE)
    site.write("test_memory_asgi.py", shown("testing-memory-asgi"))
    site.write("test_trial.py", shown("testing-trial"))
    site.write("test_treq_pytest.py", shown("testing-treq-pytest"))
    site.write("test_treq_trial.py", shown("testing-treq-trial"))
    files = "test_pytest.py test_memory.py test_memory_asgi.py test_treq_pytest.py"
    assert "4 passed" in site.shell(f"python -m pytest -q -p no:cacheprovider {files}")
    assert "successes=2" in site.shell("python -m twisted.trial test_trial test_treq_trial")


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
def test_a_second_instance_starts_when_the_first_is_closed(site: Site) -> None:
    """A second instance starts with the same pid file and port as soon as the first has said `closed`."""
    port = free_port()
    said = site.shell(shown("second-instance", {"tcp:8080": LOOPBACK.format(port=port)}))
    assert said.splitlines()[0] == "site.pid"
    (pid,) = pids(site)
    assert fetch(port) == b"Hello, world!"
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)


@runs("tls-listen")
def test_the_endpoint_of_tls_is_taken(site: Site) -> None:
    """The server takes the option, and loads the certificate."""
    certificate = Certificate(site.path)
    words = shown("tls-listen").replace("/etc/site/site.key", str(certificate.path)).split()
    command = " ".join(words).replace("/etc/site/site.pem", str(certificate.path))
    assert "would start, at tcp:0.0.0.0:8443" in site.shell(f"twistd graceful-app --check {command}")


@runs("proxy-protocol-listen")
def test_the_endpoints_of_the_proxy_protocol_are_taken(site: Site) -> None:
    """The server takes both options."""
    words = shown("proxy-protocol-listen").replace("/run/", f"{site.path}/").split()
    assert "would start, at tcp:0.0.0.0:8080, unix:" in site.shell(f"twistd graceful-app --check {' '.join(words)}")


@runs("haproxy-lines")
def test_haproxy_accepts_the_lines_shown(site: Site) -> None:
    """HAProxy takes the lines, in the frontend of the example."""
    example = (ROOT / "examples" / "haproxy.cfg").read_text()
    bind = "    bind :80\n"
    site.write("haproxy.cfg", replaced(example, {bind: bind + shown("haproxy-lines")}))
    assert "ALERT" not in site.shell("haproxy -c -f haproxy.cfg")


@runs("unit")
def test_systemd_accepts_the_unit_and_its_command_serves(site: Site) -> None:
    """systemd takes the unit where there is one, its command serves, and its statuses are ours."""
    service = unit("unit")["Service"]
    assert service["SuccessExitStatus"].split() == [str(TAKEN_DOWN), str(ABANDONED)]
    verify(site, {"site.service": ("unit",)})
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "all")
    control = {"/run/site/graceful.sock": "graceful.sock"}
    with site.server(in_place(service["ExecStart"], {"tcp:8080": ANYWHERE, **control})) as server:
        assert fetch(server.port) == b"Hello, world!"
        assert not list(site.path.glob("*.pid"))


@runs("socket-unit", "socket-service")
def test_with_a_socket_unit_the_next_process_serves_waiting_clients(site: Site) -> None:
    """With systemd's socket, who connects while one process stops is served by the next."""
    verify(site, {"site.service": ("unit", "socket-service"), "site.socket": ("socket-unit",)})
    command = in_place(
        unit("socket-service")["Service"]["ExecStart"], {"mysite.wsgi:application": "", "/run/site/": ""}
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        activated(site, listening, command) as old,
        asked(old.port, "/slow?seconds=6") as slow,
    ):
        old.settle(1)
        old.terminate()
        old.wait_closed()
        with asked(old.port, "/fast") as waiting, activated(site, listening, command) as new:
            assert waiting.communicate()[0] == f"Served by process {new.pid}.\n".encode()
        assert b"6 seconds later" in slow.communicate()[0]
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
def test_socket_activation_starts_the_server_with_the_first_connection(site: Site) -> None:
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
def test_a_program_that_holds_the_socket_replaces_the_server(site: Site) -> None:
    """The program that holds the socket itself replaces one server by the next."""
    port = free_port()
    program, deploy, rest = shown("fd", {"8080": str(port)}).partition("# … and for a deploy")
    ask = f"import urllib.request as u; assert u.urlopen('http://127.0.0.1:{port}/').read() == b'Hello, world!'\n"
    end = "assert old.returncode == 0\nnew.terminate()\nassert new.wait() == 0\n"
    site.write("program.py", program + ask + deploy + rest + ask + end)
    site.shell("python program.py")


@runs("access-log")
def test_a_line_of_the_access_log_is_as_shown(site: Site) -> None:
    """A line of the access log is as shown."""
    site.write("hello.py", shown("start-hello"))
    with site.server(f"{DEMO} --access-log - hello") as server:
        asked(server.port, "/report").communicate()
        server.wait_line("GET /report")
        check_lines("access-log", lines_of(server))


@runs("access-log-json", "access-log-template")
def test_other_forms_of_the_access_log_are_as_shown(site: Site) -> None:
    """A line in JSON has the keys that are shown, and the template that is shown can be used."""
    with site.server(f"{DEMO} --access-log - --access-log-format json mysite.wsgi") as server:
        asked(server.port, "/echo?json").communicate()
        line = server.wait_line(r"\{.*/echo\?json.*\}").group()
        assert list(json.loads(line)) == list(json.loads(shown("access-log-json")))
    with site.server(shown("access-log-template", LISTEN)) as server:
        asked(server.port, "/echo?template").communicate()
        server.wait_line(r'\dZ 127.0.0.1 "GET /echo\?template HTTP/1.1" 200 0\.\d{6}')


@runs("logrotate")
def test_postrotate_makes_the_server_write_new_files(site: Site) -> None:
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
def test_uid_changes_the_user_and_the_logs_are_written(site: Site) -> None:
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


@runs("download-flask", "download-django", "download-starlette", "download-wsgi", "parked-django")
@pytest.mark.parametrize("name", ["download-flask", "download-django", "download-starlette", "download-wsgi"])
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
def test_an_x_accel_redirect_is_taken_over(site: Site) -> None:
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


@runs("download-immutable")
def test_compressed_and_immutable_files_are_sent_as_shown(site: Site) -> None:
    """Clients that accept it get what lies compressed beside a file, and keep for a year what its name says."""
    for number, name in enumerate(("a.css", "a.css.gz", "a.0123456789ab.js")):
        os.utime(site.write(f"static/{name}", "x" * number), (1000, 1000))
    options = {**LISTEN, "/srv/static": str(site.path / "static")}
    with site.server(shown("download-immutable", options)) as server, Connection(server.port) as client:
        plain = client.get("/static/a.css")
        packed = client.get("/static/a.css", "Accept-Encoding: br, gzip")
        same = f"If-None-Match: {packed.header('ETag')}"
        again = client.get("/static/a.css", "Accept-Encoding: gzip", same)
        other = client.get("/static/a.css", same)
        script = client.get("/static/a.0123456789ab.js?v=1")
        beyond = client.get("/static/a.0123456789ab.js", "Range: bytes=9-")
    assert (plain.body, plain.header("Content-Encoding"), plain.header("Vary")) == (b"", None, "Accept-Encoding")
    assert (packed.body, packed.header("Content-Encoding")) == (b"x", "gzip")
    assert packed.header("Vary") == "Accept-Encoding"
    assert packed.header("Content-Type") == plain.header("Content-Type") == "text/css"
    assert (again.status, other.status, plain.header("Cache-Control")) == (304, 200, None)
    assert script.header("Cache-Control") == "public, max-age=31536000, immutable"
    assert (beyond.status, beyond.header("Cache-Control")) == (416, None)


@runs("downloads-log")
def test_an_overdue_download_is_named_in_the_log_as_shown(site: Site) -> None:
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
def test_a_parked_client_gets_what_another_request_posts(site: Site) -> None:
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
def test_health_leaves_and_enters_the_rotation(site: Site) -> None:
    """Health leaves the rotation, and enters it again."""
    leave, enter = shown("control-rotation").splitlines()
    with site.server(DEMO) as server:
        site.shell(leave)
        said = site.shell(f"curl -s -w '%{{http_code}}' http://127.0.0.1:{server.port}/+haproxy")
        assert said == "away\n503"
        site.shell(enter)
        assert fetch(server.port, "/+haproxy") == b"serving\n"


@runs("control", "control-see", "control-status", "control-stop", "control-curl")
def test_the_watching_commands_say_what_is_shown(site: Site) -> None:
    """The commands say what is shown, before and in the middle of a stop, and the last one how it went."""
    with site.server(f"{DEMO} --app-version 42") as server, asked(server.port, "/slow?seconds=20") as slow:
        server.settle(1)
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
        assert b"20 seconds later" in slow.communicate()[0]
        assert server.wait() == 0
        site.shell(shown("control-stop"))


# -- traces -------------------------------------------------------------------------------------------------


TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
COLLECTOR = "http://127.0.0.1:4318"

#: Views beside those of the guide: one says by which process it is answered, one stays until the server stops.
DJANGO_URLS = """
import os
import pathlib
import time

import graceful
from django.http import HttpResponse
from django.urls import path


def process(request):
    return HttpResponse(str(os.getpid()))


def stays(request):
    pathlib.Path("stays").touch()
    while not graceful.draining():
        time.sleep(0.01)
    return HttpResponse("stayed")


urlpatterns = [path("process", process), path("stays", stays)]
"""
FASTAPI_VIEWS = """

import os
import pathlib

import graceful


@app.get("/process")
def process():
    return os.getpid()


@app.get("/stays")
async def stays():
    pathlib.Path("stays").touch()
    await graceful.drain_begins()
"""


def traced_site(site: Site) -> None:
    """Make the sites of the guide, with views for the test, and with an exporter that sends nothing by itself."""
    projects(site)
    site.write("mysite/urls.py", DJANGO_URLS)
    site.write("mysite/tracing.py", shown("tracing-module"))
    site.write("mysite/wsgi.py", shown("tracing-django"))
    site.write("mysite/asgi.py", shown("tracing-fastapi") + FASTAPI_VIEWS)
    never = str(3600 * 1000)
    site.environment |= {
        "OTEL_BSP_SCHEDULE_DELAY": never,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }


def check_traces(site: Site, command: str, collector: Collector, processes: int) -> None:
    """Ask for pages with a trace and without, stop the server, and compare its log with what was collected.

    :param processes: how many serve; each is asked.
    """
    serving: set[bytes] = set()

    def all_asked() -> bool:
        serving.add(fetch(server.port, "/process"))
        return len(serving) == processes

    with site.server(command) as server:
        wait_for(all_asked, 60)
        with Connection(server.port) as client:
            client.send(request("/process", f"traceparent: 00-{TRACE}-{CALLER}-01", host="127.0.0.1"))
            assert client.answer().status == 200
        with asked(server.port, "/stays") as stays:
            wait_for((site.path / "stays").exists)
            assert not collector.spans
            server.terminate()
            stays.communicate()
        assert server.wait() == 0
    lines = [json.loads(line) for line in (site.path / "access.log").read_text().splitlines()]
    logged = {line["trace_id"]: line["target"] for line in lines}
    assert len(logged) == len(lines) > processes + 1
    assert {span.trace for span in collector.spans} == logged.keys()
    assert len(collector.spans) == len(lines)
    assert Span(TRACE, CALLER) in collector.spans
    assert "/stays" in logged.values()


@runs("tracing-module", "tracing-django", "tracing-fastapi", "tracing-run")
@pytest.mark.parametrize("workers", [0, 2], ids=["one process", "workers"])
@pytest.mark.parametrize("application", ["mysite.wsgi", "mysite.asgi:app"])
def test_spans_and_the_access_log_name_a_trace_by_the_same_id(site: Site, application: str, workers: int) -> None:
    """Every request has one span, with the id that the log shows; those in memory at a stop are sent."""
    traced_site(site)
    with Collector() as collector:
        options = f"{LISTEN['graceful-app']} --workers {workers or 1}"
        places = {COLLECTOR: collector.url, "graceful-app": options, "mysite.wsgi": application}
        check_traces(site, shown("tracing-run", places), collector, workers or 1)


@runs("tracing-instrument", "tracing-instrument-exit")
def test_automatic_instrumentation_sends_the_last_spans(site: Site) -> None:
    """With OpenTelemetry's command, and two lines in the application, no span is lost at a stop."""
    traced_site(site)
    site.shell("django-admin startproject other")
    plain = (site.path / "other/other/wsgi.py").read_text().replace("other", "mysite")
    site.write("mysite/wsgi.py", plain + shown("tracing-instrument-exit"))
    with Collector() as collector:
        command = shown("tracing-instrument", {COLLECTOR: collector.url, **LISTEN})
        check_traces(site, command, collector, 2)


@pytest.mark.parametrize("timeout", [None, 3], ids=["the server's limit", "the exporter's limit"])
def test_a_collector_that_does_not_answer_delays_a_stop_by_seconds(site: Site, timeout: int | None) -> None:
    """The stop gives up after 5 seconds, or when the exporter does, and says what it has waited for."""
    traced_site(site)
    if timeout is not None:
        site.environment["OTEL_EXPORTER_OTLP_TIMEOUT"] = str(timeout)
    with Collector() as collector:
        collector.answers.clear()
        with site.server(shown("tracing-run", {COLLECTOR: collector.url, **LISTEN})) as server:
            fetch(server.port, "/process")
            server.terminate()
            assert server.wait() == 0
            late = server.log.find_all(r"TracerProvider.shutdown .* has not returned in 5 s")
            assert bool(late) == (timeout is None)
            assert bool(server.log.find_all("Failed to export spans batch")) == (timeout is not None)
        assert not collector.spans


def test_a_sampler_that_goes_by_the_id_decides_alone(site: Site) -> None:
    """What the made field says of the trace does not count for it."""
    traced_site(site)
    site.environment |= {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    with Collector() as collector:
        with site.server(shown("tracing-run", {COLLECTOR: collector.url, **LISTEN})) as server:
            fetch(server.port, "/process")
            server.terminate()
            assert server.wait() == 0
        assert not collector.spans


# -- the reactor ------------------------------------------------------------------------------------------------


@runs("reactor-run", "reactor-log")
def test_twistd_web_under_the_graceful_reactor_finishes_and_exits_0(site: Site) -> None:
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
def test_the_command_that_starts_also_takes_over(site: Site) -> None:
    """The command that starts also deploys, the log is as shown, and a predecessor can be named."""
    listen = {"tcp:8080": LOOPBACK.format(port=free_port())}
    command = shown("takeover", listen)
    with (
        Gate(site.home.path / "gate") as gate,
        site.server(command) as old,
        Connection(old.port) as kept,  # It is what moves: curl closes what it has opened.
    ):
        slow = asked(old.port, gate.target())
        gate.wait_reached()
        assert kept.get("/").status == 200
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
            assert kept.get("/").status == 200
            kept.close()
            check_lines("takeover-lines", lines_of(old))
            site.shell(wait, status=2)  # it is there no more
            site.shell(shown("takeover-readme", {"--takeover --listen tcp:8080": f"--check --listen {ANYWHERE}"}))


@runs("hang-up", "hang-up-lines")
def test_a_hang_up_runs_the_release_that_the_link_leads_to(site: Site) -> None:
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
    try:
        wait_for(lambda: done in log.read_text(), 60)
    except AssertionError:
        raise AssertionError(f"no line {done!r} in the log:\n{log.read_text()}") from None
    (pid,) = pids(site)
    check_lines(lines, log.read_text().replace(str(site.path), "/srv/site").splitlines())
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, 20)


@runs("workers", "workers-lines", "workers-died", "workers-takeover", "workers-watching", "workers-count")
def test_workers_serve_and_are_replaced_as_the_guide_shows(site: Site) -> None:
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
        assert site.shell(shown("workers-count")).startswith("6 workers (were 4)")
        old.wait_line(r"worker \d, process \d+, accepts", count=7)
        with site.server(shown("workers-takeover", listen)) as new:
            new.wait_line(f"took over from process {old.pid}")
            assert old.wait() == 0


@runs("workers-preload", "workers-preload-lines", "workers-unfit-lines")
def test_workers_share_memory_as_the_guide_shows(site: Site) -> None:
    """A fork server imports the application; one whose import leaves something behind is not forked."""
    command = shown("workers-preload", {"tcp:8080": LOOPBACK.format(port=free_port())})
    with site.server(command) as server:
        release = str(site.path), "/srv/site/releases/41"
        check_lines("workers-preload-lines", (line.replace(*release) for line in lines_of(server)))
    with socket.create_server(("127.0.0.1", 0)) as database:
        port = database.getsockname()[1]
        wsgi = site.path / "mysite" / "wsgi.py"
        leaves = "import socket, threading, time\n"
        leaves += "threading.Thread(None, time.sleep, 'poller', [99], daemon=True).start()\n"
        leaves += f"connection = socket.create_connection(('127.0.0.1', {port}))\n"
        wsgi.write_text(leaves + wsgi.read_text())
        with site.server(command) as server:
            there = f"127.0.0.1, port {port}", "10.0.0.7, port 5432"
            check_lines("workers-unfit-lines", (line.replace(*there) for line in lines_of(server)))


@runs("workers-hang-up", "workers-hang-up-lines")
def test_workers_hang_up(site: Site) -> None:
    """A hang-up has the workers run the release that the link leads to now, and the log says so."""
    check_deploy_in_place(site, "workers-hang-up", "deployed: all workers run", "workers-hang-up-lines")


@runs("convert")
def test_gunicorns_file_is_converted_and_serves(site: Site) -> None:
    """What gunicorn's file becomes starts the server that it described."""
    port = free_port()
    site.write("gunicorn.conf.py", f"bind = '127.0.0.1:{port}'\nthreads = 3\nworkers = 2\npreload_app = True\n")
    convert, show, serve = shown("convert").splitlines()
    site.shell(convert)
    assert "threads = 3" in site.shell(show)
    with site.server(serve) as server:
        assert fetch(port, "/echo?converted") == b"converted"
        server.wait_line(r"worker 2, process \d+, accepts")


@runs("gunicorn-file", "gunicorn-converted", "uwsgi-file", "uwsgi-converted")
def test_files_of_other_servers_become_what_the_guide_shows(site: Site) -> None:
    """`graceful convert` prints these lines for these files."""
    for name, path in (("gunicorn", "gunicorn.conf.py"), ("uwsgi", "uwsgi.ini")):
        site.write(path, shown(f"{name}-file"))
        assert site.shell(f"graceful convert {path}").rstrip() == shown(f"{name}-converted").rstrip()


@runs("unit-file", "unit-counterpart", "uvicorn-counterpart")
def test_the_counterparts_of_other_configurations_are_complete(site: Site) -> None:
    """A server starts with each of them; Unit's own is what Unit would be sent, JSON."""
    assert json.loads(shown("unit-file"))["applications"]["site"]["module"] == "mysite.wsgi"
    site.write("mysite/asgi.py", "async def app(scope, receive, send): ...\n")
    (site.path / "static").mkdir()
    places = {"/srv/static": f"{site.path}/static"}
    for text in (shown("unit-counterpart", places), shown("uvicorn-counterpart")):
        site.write("site.toml", text)
        site.shell("graceful serve --config site.toml --check")


@runs("readme-workers")
def test_workers_of_the_readme(site: Site) -> None:
    """The README's two lines start workers and replace them."""
    link = "ln -sfn releases/41 current\n"
    check_deploy_in_place(site, "readme-workers", "deployed: all workers run", "workers-hang-up-lines", before=link)


# -- embedding ----------------------------------------------------------------------------------------------


@runs("tree-run", "klein-run")
@pytest.mark.parametrize(("name", "path"), [("tree-run", "/files/"), ("klein-run", "/api/hello/you")])
def test_the_commands_of_the_tree_examples_start_them(site: Site, name: str, path: str) -> None:
    """The examples are started by these commands; other tests say what they do."""
    shutil.copytree(ROOT / "examples", site.path, dirs_exist_ok=True)
    with site.server(shown(name, LISTEN)) as server:
        assert b"you" in fetch(server.port, path) or b"embedded.tac" in fetch(server.port, path)
        assert fetch(server.port, "/other").startswith(b"This is /other")


@runs("tac-run")
def test_the_command_of_the_tac_example_starts_it(site: Site) -> None:
    """A service of one's own is started by this command, and ended by SIGTERM as twistd ends."""
    shutil.copytree(ROOT / "examples", site.path, dirs_exist_ok=True)
    with site.server(f"export LISTEN={ANYWHERE}; {shown('tac-run')}") as server:
        assert fetch(server.port).startswith(b"The other service")
        server.terminate()
        assert server.wait() == -signal.SIGTERM
