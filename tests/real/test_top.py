"""`graceful top` in a terminal of its own, and without the package that it needs."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from typing import Any

from rich.console import Console

from graceful.commands.top import picture
from tests.support.clients import Connection, request
from tests.support.command import COMMAND
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server

ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def test_top_shows_exchanges_and_ends_with_the_server(home: Home) -> None:
    """What comes into flight appears, and it ends when the server has gone."""
    with Server(home, "--idle-grace", "0.2", "--app-version", "r42") as server, Gate(home.path / "gate") as gate:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
        command = [COMMAND, "top", "--interval", "0.1"]
        top = subprocess.Popen(command, cwd=home.run, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        shown = b""

        def wait_for(text: bytes) -> None:
            nonlocal shown
            until = time.monotonic() + 10
            while text not in ESCAPES.sub(b"", shown):
                assert select.select([ours], [], [], max(0.0, until - time.monotonic()))[0], shown[-2000:]
                shown += os.read(ours, 65536)

        try:
            wait_for(b" serving ")
            wait_for(b"version r42")
            with Connection(server.port) as client:
                client.send(request(gate.target()))
                gate.wait_reached()
                wait_for(b"GET /gate")
                server.terminate()
                wait_for(b" finishing ")
                wait_for(b"deadline in ")
                gate.open()
                assert client.answer().status == 200
            wait_for(b"the server is gone")
            assert top.wait(10) == 0
            assert server.wait() == 0
        finally:
            top.kill()
            top.wait()
            os.close(ours)


def test_top_says_how_many_it_leaves_out() -> None:
    """With more in flight than there is room for, the last line says how many are missing."""
    status: dict[str, Any] = {
        "state": "serving",
        "pid": 1,
        "app_version": None,
        "rotation": "in",
        "deadline": None,
        "threads": {"busy": 20, "size": 20, "queued": 6},
        "connections": {"busy": 26, "idle": 0},
        "in_flight_count": 26,
        "in_flight": [],
        "finished": 0,
        "taken_down": 0,
        "sockets": [],
    }
    console = Console(width=80)
    with console.capture() as shown:
        console.print(picture(status))
    assert shown.get().splitlines()[-1].strip() == "and 26 more"
    with console.capture() as shown:
        console.print(picture({**status, "in_flight_count": 0}))
    assert "more" not in shown.get()


def test_top_without_rich_says_what_to_install() -> None:
    """One line says what to install."""
    program = "import sys; sys.modules['rich'] = None; from graceful.cli import main; sys.exit(main(['top']))"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert said.returncode == 2
    assert said.stderr == "graceful: top needs the package rich: pip install 'graceful-app[cli]'\n"
