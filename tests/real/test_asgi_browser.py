"""A browser's own EventSource and WebSocket, through three deploys: they come back by themselves, on new code."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.real.test_moving import pid_in
from tests.support.chromium import Chromium, Page
from tests.support.home import Home
from tests.support.server import Server, become_subreaper
from tests.support.waiting import wait_for

APPLICATION = "asgi_news:app"
OPTIONS = ("--close-spread", "0.5", "--idle-grace", "0.5", "--websocket-compression", "deflate")


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Have news written all the time, a line each."""
    stopping = threading.Event()

    def write() -> None:
        with path.open("a", buffering=1) as file:
            number = 1
            while not stopping.wait(0.005):
                file.write(f"news {number}\n")
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stopping.set()
        writer.join()


def wait_back(page: Page, deploys: int, pid: int) -> None:
    """Wait until the page has both from a process, the event stream behind the last event that it has."""
    page.wait(f"sockets.length === {deploys + 1} && opened.length === {deploys + 1}", timeout=30)
    assert page.evaluate("sockets.at(-1)") == str(pid)
    said = page.evaluate("opened.at(-1)").split(" ")
    assert said[0] == str(pid)
    assert said[1].isdigit() == (deploys > 0), said


def test_a_browser_is_back_on_new_code_and_misses_no_event(home: Home) -> None:
    """SIGHUP, a takeover, and SIGHUP again: every event once and in order, each WebSocket ended with 1012."""
    news = home.run / "news.txt"
    news.touch()
    become_subreaper()
    with written(news), Server(home, *OPTIONS, application=APPLICATION) as first, Chromium() as browser:
        page = browser.page(f"http://127.0.0.1:{first.port}/")
        page.wait("document.readyState === 'complete'")
        wait_back(page, 0, first.pid)
        os.kill(first.pid, signal.SIGHUP)
        wait_for(lambda: pid_in(home) not in (0, first.pid), timeout=30)
        second = pid_in(home)
        wait_back(page, 1, second)
        assert first.wait() == 0
        with Server(home, "--takeover", *OPTIONS, application=APPLICATION, port=first.port) as third:
            wait_back(page, 2, third.pid)
            assert ended(second) == 0
            os.kill(third.pid, signal.SIGHUP)
            wait_for(lambda: pid_in(home) not in (0, third.pid), timeout=30)
            fourth = pid_in(home)
            wait_back(page, 3, fourth)
            assert third.wait() == 0
        agreed = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
        assert page.evaluate("extensions") == [agreed] * 4
        assert page.evaluate("codes") == [[1012, True]] * 3
        assert page.evaluate("lost") == []
        page.wait("news.length > 100")
        seen = page.evaluate("news")
        assert seen == [[str(number), f"news {number}"] for number in range(1, len(seen) + 1)]
        os.kill(fourth, signal.SIGTERM)
        assert ended(fourth) == 0
    news.unlink()


def ended(pid: int) -> int:
    """Wait for the end of a child that no `Server` has started; returns its exit status."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
