"""The status page in a real browser, through a whole drain; and what a hostile page beside it learns: nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.chromium import Chromium
from tests.support.clients import Connection, ask, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.server import Server

STATUS = ("--status-listen", "tcp:0:interface=127.0.0.1")
FAST = ("--idle-grace", "0.2")
CLIENTS = 50


def status_port(server: Server) -> int:
    """Where its status page is."""
    return int(server.wait_line(r"status page at http://127\.0\.0\.1:(\d+)/")[1])


def own(target: str, *fields: str, method: str = "GET") -> bytes:
    """A request as a browser on the same machine makes it."""
    return request(target, *fields, method=method, host="127.0.0.1:9090")


def test_a_drain_in_the_browser(home: Home) -> None:
    """Requests come and go in the table, sockets are stamped, the deadline counts, and at the end it says what was.

    It fits on a phone, is dark in the dark, and the browser has nothing to complain of.
    """
    with ExitStack() as stack:
        server = stack.enter_context(Server(home, *FAST, *STATUS, "--deadline", "100", "--app-version", "r42"))
        gate = stack.enter_context(Gate(home.path / "gate"))
        download = stack.enter_context(Connection(server.port, receive_buffer=4096))
        waiting = stack.enter_context(Connection(server.port))
        browser = stack.enter_context(Chromium())
        page = browser.page(f"http://127.0.0.1:{status_port(server)}/")
        page.wait("document.getElementById('state')?.textContent === 'serving'")
        assert "version r42" in page.text("who")
        assert page.evaluate("document.getElementById('drain').hidden")

        waiting.send(request(gate.target()))
        gate.wait_reached()
        download.send(request("/big?bytes=30000000"))
        page.wait("document.querySelectorAll('#exchanges tbody tr').length === 2")
        page.wait("document.querySelector('#exchanges progress:not([hidden])')?.value > 0")
        assert "of 28.6 MiB" in page.text("exchanges")
        page.evaluate("[...document.querySelectorAll('button')].find(b => b.textContent === 'GET /gate').click()")
        page.wait("document.querySelector('pre')?.textContent.includes('fifo.read()')")
        assert page.evaluate("document.querySelector('button[aria-expanded=true]').textContent") == "GET /gate"

        server.terminate()
        page.wait("document.getElementById('state').textContent === 'finishing'")
        assert page.text("sockets").lower().endswith("closed")
        assert page.text("countdown") in ("1:40", "1:39", "1:38")
        assert "Finishing what is in flight" in page.text("notice")
        page.look(width=390, height=800, dark=True)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        heard = page.accessible()
        assert [name.lower() for name in heard["table"]] == ["in flight"]
        assert len(heard["row"]) >= 2
        assert any("exchange" in name for name in heard["progressbar"])
        assert {"timer", "status", "main", "contentinfo"} <= heard.keys()
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.look()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark

        gate.open()
        assert waiting.answer().status == 200
        waiting.end()
        page.wait("document.getElementById('ended-list').innerText.includes('/gate')")
        download.reset()
        page.wait("document.getElementById('state').textContent === 'gone'")
        assert server.wait() == 0
        assert "exit status 0: 2 finished, 0 taken down, 0 threads abandoned" in page.text("notice")
        assert page.text("countdown") == "0"
        assert page.complaints() == []


HOSTILE = """<!doctype html><title>hostile</title><script>
const learned = [];
const target = new URLSearchParams(location.search).get("target");
async function attack(name, promise) {
  try { const got = await promise(); if (got) learned.push(name + ": " + got); } catch {}
}
async function all() {
  for (const path of ["/status", "/metrics", "/", "/exchanges", "/events"]) {
    await attack("fetch " + path, async () => (await fetch(target + path)).text());
    const silent = await fetch(target + path, {mode: "no-cors"}).catch(() => null);
    if (silent && silent.type !== "opaque") learned.push("no-cors " + path);
    await attack("script " + path, () => new Promise(done => {
      const script = document.createElement("script");
      script.src = target + path; script.onload = () => done("loaded"); script.onerror = () => done("");
      document.body.append(script);
    }));
  }
  await attack("frame", () => new Promise(done => {
    const frame = document.createElement("iframe");
    frame.onload = () => { try { done(frame.contentDocument?.body?.innerText ?? ""); } catch { done(""); } };
    frame.src = target + "/";
    document.body.append(frame);
    setTimeout(() => done(""), 2000);
  }));
  await attack("events", () => new Promise(done => {
    const source = new EventSource(target + "/events");
    source.addEventListener("status", event => done(event.data));
    source.onerror = () => { source.close(); done(""); };
  }));
  await attack("order", async () => (await fetch(target + "/stop", {method: "POST"})).ok);
}
window.attacked = () => all().then(() => learned);
</script><body>hostile</body>"""


@pytest.fixture
def hostile() -> Iterator[int]:
    """The port of somebody else's site."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(HOSTILE.encode())

        def log_message(self, *ignored: object) -> None:
            """Say nothing."""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    try:
        yield site.server_port
    finally:
        site.shutdown()
        site.server_close()


def test_a_hostile_page_learns_nothing(home: Home, hostile: int) -> None:
    """Another site's page in the same browser can read nothing, also not under a name that leads to us."""
    with Server(home, *FAST, *STATUS) as server:
        port = status_port(server)
        # Every name leads to this machine: somebody else's site, and the same with our port (DNS rebinding).
        with Chromium("--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
            for target in (f"http://127.0.0.1:{port}", f"http://localhost:{port}", f"http://evil.example:{port}"):
                page = browser.page(f"http://evil.example:{hostile}/?target={target}")
                page.wait("typeof window.attacked === 'function'")
                assert page.evaluate("window.attacked()") == [], target
            rebound = browser.page(f"http://evil.example:{port}/status")
            rebound.wait("document.body?.innerText")
            assert "not known by that name" in rebound.evaluate("document.body.innerText")
            assert str(server.pid) not in rebound.evaluate("document.body.innerText")
            # A link to the page, followed, shows it.
            linked = browser.page(f"http://127.0.0.1:{port}/")
            linked.wait("document.getElementById('state')?.textContent === 'serving'")


def test_who_may_ask(home: Home) -> None:
    """By address, localhost or the machine's name, and for reading only; health is for everybody."""
    with Server(home, *FAST, *STATUS) as server:
        port = status_port(server)
        for host in ("127.0.0.1", "localhost:1", "[::1]:9090", "10.1.2.3", socket.gethostname(), "LOCALHOST."):
            assert ask(port, request("/status", host=host)).status == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "1.2.3", "a@127.0.0.1"):
            answer = ask(port, request("/status", host=host))
            assert (answer.status, b"pid" in answer.body) in ((403, False), (400, False)), host
            assert ask(port, request("/+haproxy", host="evil.example")).status == 200
        for field in ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"):
            assert ask(port, own("/events", field)).status == 403
        for target in ("/stop", "/leave", "/yield", "/exchanges/1/takedown", "/status"):
            assert ask(port, own(target, method="POST")).status == 405, target
        page = ask(port, own("/"))
        policy = page.header("Content-Security-Policy") or ""
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        assert page.values("Access-Control-Allow-Origin") == []
        assert b"src=" not in page.body
        assert b"http" not in page.body.replace(b"http-equiv", b"")


def test_fifty_watchers_are_told_how_it_ended(home: Home) -> None:
    """Fifty look on, one of them reads nothing, and all the others are told how it ended."""
    with Server(home, *FAST, *STATUS, "--deadline", "30") as server, ExitStack() as stack:
        port = status_port(server)
        gate = stack.enter_context(Gate(home.path / "gate"))
        client = stack.enter_context(Connection(server.port))
        client.send(request(gate.target()))
        gate.wait_reached()
        watchers = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(CLIENTS)]
        for watcher in watchers:
            watcher.sendall(own("/events"))
            watcher.settimeout(10)
        server.terminate()
        server.wait_closed()
        gate.open()
        assert client.answer().status == 200
        client.end()
        assert server.wait() == 0
        for watcher in watchers[1:]:
            with watcher.makefile("rb") as lines:
                told = list(lines)
            assert b"event: gone\n" in told
            end = json.loads(told[told.index(b"event: gone\n") + 1].partition(b"data: ")[2])
            assert (end["exit_status"], end["finished"]) == (0, 1)
