"""What waits too long is refused, and how long requests wait is in the log and in the metrics."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from urllib.request import urlopen

from tests.real.test_workers import application
from tests.support.clients import Connection, get, request
from tests.support.gate import Gate
from tests.support.home import Home
from tests.support.ports import free_port
from tests.support.server import Server

SITE = """
from basic import application as basic

def application(environ, start_response):
    if environ["PATH_INFO"] != "/trace":
        return basic(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["HTTP_TRACEPARENT"].encode()]
"""


def test_requests_that_wait_too_long_are_refused_and_logged(home: Home) -> None:
    """With all threads busy a request gets 503 after --max-wait; so does one that a proxy has kept for longer."""
    log, status = home.logs / "access.log", free_port()
    options = ["--threads", "1", "--max-wait", "0.5", "--trusted-proxy", "127.0.0.1"]
    options += ["--access-log", str(log), "--access-log-format", "json"]
    options += ["--status-listen", f"tcp:{status}:interface=127.0.0.1"]
    with ExitStack() as stack:
        gate = stack.enter_context(Gate(home.path / "gate"))
        server = stack.enter_context(Server(home, *options, **application(home, SITE)))
        held = stack.enter_context(Connection(server.port))
        held.send(request(gate.target()))
        gate.wait_reached()
        late = stack.enter_context(Connection(server.port))
        late.send(request("/late", 'User-Agent: "x\\y'))
        assert late.answer().status == 503
        gate.open()
        assert held.answer().status == 200
        long_ago = f"X-Request-Start: t={time.time() - 61:.3f}"  # more than 60, however it is rounded
        with Connection(server.port) as kept:
            kept.send(request("/kept", long_ago))
            assert kept.answer().status == 503
        assert get(server.port, "/echo?in-time").status == 200
        trace = get(server.port, "/trace").body.decode()
        with urlopen(f"http://127.0.0.1:{status}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        assert 'graceful_queue_seconds_bucket{le="60.0",where="proxy"} 0.0' in text
        assert 'graceful_queue_seconds_bucket{le="300.0",where="proxy"} 1.0' in text
        server.terminate()
        assert server.wait() == 0
    lines = {line["target"]: line for line in map(json.loads, log.read_text().splitlines())}
    assert (lines["/late"]["status"], lines["/late"]["user_agent"]) == (503, '"x\\y')
    assert lines["/late"]["queue_seconds"] > 0.5
    assert 59 < lines["/kept"]["proxy_queue_seconds"] < 90
    assert lines["/echo?in-time"]["queue_seconds"] < 0.5
    assert lines["/echo?in-time"]["proxy_queue_seconds"] is None
    assert lines["/trace"]["trace_id"] == trace.split("-")[1]
