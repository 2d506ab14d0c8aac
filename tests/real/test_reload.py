"""`--reload`: each edit is a deploy that loses no request, and broken code is shown while the former goes on."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack

from tests.support.chromium import Chromium
from tests.support.clients import Connection, Failure, get, request
from tests.support.files import edit
from tests.support.home import Home
from tests.support.server import Server
from tests.support.waiting import wait_for

EDITS = int(os.environ.get("GRACEFUL_TEST_EDITS", "3"))
SITE = """
import helper

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [helper.TEXT]
"""


class Clients:
    """Clients that keep their connections and ask all the time, until they are stopped.

    :ivar answers: how many answers they got.
    :ivar failures: what was no good answer.
    """

    def __init__(self, port: int, count: int = 4) -> None:
        self._port = port
        self._stopping = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        try:
            with Connection(self._port) as connection:
                while not self._stopping.wait(0.005):
                    connection.send(request("/"))
                    if connection.answer().status != 200:
                        self.failures.append("a status")
                    self.answers += 1
        except (Failure, OSError) as failure:
            self.failures.append(str(failure))

    def stop(self) -> None:
        """Stop them, and check that none has failed."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)
        assert self.failures == []


def test_edits_are_deployed_without_a_loss(home: Home) -> None:
    """Edits are served soon, under load; a broken one is shown in log and browser until it is mended."""
    site, helper = home.path / "edited.py", home.path / "helper.py"
    site.write_text(SITE)
    helper.write_text("TEXT = b'edit 0'\n")
    with ExitStack() as stack:
        environment = {"PYTHONPATH": str(home.path)}
        server = stack.enter_context(Server(home, "--reload", application="edited", environment=environment))
        server.tracebacks = 1
        clients = Clients(server.port)
        for number in range(1, EDITS + 1):
            edit(helper, f"TEXT = b'edit {number}'\n")
            text = b"edit %d" % number
            wait_for(lambda text=text: get(server.port).body == text)
        edit(helper, "TEXT = broken\n")
        server.wait_line("no deploy: .*name 'broken' is not defined.*the old release serves on")
        wait_for(lambda: b"NameError" in get(server.port, "/", "Accept: text/html").body)
        former = f"edit {EDITS}"
        page = stack.enter_context(Chromium()).page(f"http://127.0.0.1:{server.port}/")
        shown = page.wait("document.querySelector('pre')?.textContent")
        assert shown.endswith("NameError: name 'broken' is not defined") and "importlib" not in shown
        page.wait(f"frames[0]?.document.body?.textContent.includes('{former}')")
        assert get(server.port).body == former.encode()
        edit(helper, "TEXT = b'mended'\n")
        wait_for(lambda: get(server.port).body == b"mended")
        page.call("Page.reload")
        page.wait("document.body?.textContent == 'mended'")
        clients.stop()
        assert clients.answers > 100
