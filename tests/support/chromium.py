"""A real browser without a window, driven over its debugging pipe.

A page under a strict policy, fed by server-sent events, in the middle of a drain: only a browser can say whether it
works.  Chromium speaks its DevTools protocol over two descriptors, one JSON message after the other with a zero byte
in between, so nothing has to be installed beside it and no port has to be guessed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.waiting import PATIENCE

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Chromium:
    """A Chromium process.

    :param flags: more of its options.
    """

    def __init__(self, *flags: str) -> None:
        program = shutil.which("chromium")
        assert program, "chromium is not installed"
        self._home = tempfile.mkdtemp(prefix="graceful-chromium-")
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [program, *FLAGS, *flags, f"--user-data-dir={self._home}", "about:blank"]
        # It reads from descriptor 3 and writes to 4; and it gets a process group, since it has many children.
        shell = ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "chromium", *command]
        self._process = subprocess.Popen(
            shell,
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": self._home},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number = 0
        self._buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *ignored: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._home, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(30.0)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _next(self, timeout: float) -> dict[str, Any]:
        until = time.monotonic() + timeout
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], max(0.0, until - time.monotonic()))[0], "chromium is silent"
            piece = os.read(self._in, 1 << 20)
            assert piece, "chromium has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def page(self, url: str, *, width: int = 1200, height: int = 900, dark: bool = False) -> Page:
        """Open a page in a tab of its own."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        page.look(width=width, height=height, dark=dark)
        for domain in ("Page", "Log", "Runtime"):
            page.call(f"{domain}.enable")
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol for this tab."""
        return self._browser.call(method, self._session, **parameters)

    def look(self, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Have another screen."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression: str) -> Any:
        """Return what JavaScript makes of an expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, timeout: float = PATIENCE) -> Any:
        """Wait until an expression is true, and return its value."""
        until = time.monotonic() + timeout
        while not (value := self.evaluate(expression)):
            text = self.evaluate("document.body?.innerText")
            assert time.monotonic() < until, f"not in {timeout} s: {expression}\n{text}"
            time.sleep(0.05)
        return value

    def text(self, element: str) -> str:
        """The text of an element, by its id."""
        found = self.evaluate(f"document.getElementById({json.dumps(element)})?.innerText ?? ''")
        assert isinstance(found, str)
        return found

    def accessible(self) -> dict[str, list[str]]:
        """What a screen reader is given: the names of everything, by role."""
        found: dict[str, list[str]] = {}
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                found.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
        return found

    def complaints(self) -> list[str]:
        """What the browser has written to its console: errors, and violations of the page's policy."""
        self.evaluate("0")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(event["params"]["exceptionDetails"]))
        return found

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a picture of the page as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
