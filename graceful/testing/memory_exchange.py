"""One exchange of an ASGI application with a client in memory, and what all kinds of them have in common.

The application's side runs in the loop of its version, the client's in the thread of the test.  What the application
sends goes into a queue; what the client does is a call into the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol
from urllib.parse import unquote

from attrs import frozen

from graceful.asgi.scope import ASGI
from graceful.threads.async_exc import Hook

Message = dict[str, Any]
Application = Callable[[Message, Callable[[], Any], Callable[[Message], Any]], Awaitable[object]]

#: Seconds that a test waits for the application, unless it says otherwise.
WITHIN: Final = 5.0
#: What the scope names as the server and the client.
SERVER: Final = ("testserver", 80)
CLIENT: Final = ("127.0.0.1", 50000)


class Version(Protocol):
    """A version of the application that runs.

    :ivar going_down: whether it has been told that the server stops.
    :ivar hand_over: takes answers for the event loop, which is not there.
    """

    going_down: bool
    hand_over: None

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in its loop, from any thread."""


@frozen
class _ConnectionInMemory:
    """What `graceful.draining` asks of an exchange's connection."""

    site: Version


def fields_of(message: Message) -> dict[str, str]:
    """Returns the fields of a message's head, by their names in lower case."""
    fields = message.get("headers", ())
    return {bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1") for name, value in fields}


class ExchangeInMemory:
    """A request that a version of the application works for; `graceful.draining` and the like ask it.

    :param version: it works for the request.
    :param method: the request's.
    :param path: the request's, with its query.
    :param headers: in Python's spelling.
    :ivar released: whether the application has returned.
    """

    def __init__(self, version: Version, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.version = version
        self.method = method
        self.shown_target = path
        self.released = False
        self.connection = _ConnectionInMemory(version)
        self._fields = [(b"host", SERVER[0].encode())]
        for name, value in headers.items():
            self._fields.append((name.lower().replace("_", "-").encode(), value.encode("latin-1")))
        self._hooks: list[Hook] = []
        self._said: SimpleQueue[Any] = SimpleQueue()
        self._news = asyncio.Event()

    def remaining(self) -> float | None:
        """Returns None: nothing in memory has a deadline before the test waits for the end."""
        return None

    def on_takedown(self, function: Callable[[], object]) -> Hook:
        """Have a function called at the takedown of a thread that waits: there is none of it in memory."""
        return Hook(function, self._hooks)

    async def run(self, application: Application, extensions: Message, state: Message | None) -> None:
        """Call the application.

        :param extensions: that a scope of HTTP offers.
        :param state: what the application has set in its lifespan; None if it has none.
        :raises Exception: the application has failed, and the client knows it.
        """
        raise NotImplementedError

    def leave(self) -> None:
        """The client leaves without a word.  The loop."""
        raise NotImplementedError

    def close(self) -> None:
        """The server stops, and the application had its time to end by itself.  The loop."""

    def lose(self, why: str) -> None:
        """Tell the client that nothing more comes.  The loop."""
        raise NotImplementedError

    def _scope(self, kind: str, scheme: str, extensions: Message, state: Message | None) -> Message:
        path, _, query = self.shown_target.partition("?")
        scope: Message = {
            "type": kind,
            "asgi": ASGI,
            "http_version": "1.1",
            "scheme": scheme,
            "path": unquote(path, errors="replace"),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": self._fields.copy(),
            "client": CLIENT,
            "server": SERVER,
            "extensions": extensions,
        }
        if state is not None:
            scope["state"] = state.copy()
        return scope

    async def _until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so that the client brings about."""
        while not condition():
            self._news.clear()
            await self._news.wait()

    def said(self, within: float) -> Any:
        """Returns what the application has sent next.  The test's thread.

        :raises TimeoutError: it sends nothing in time.
        """
        try:
            return self._said.get(timeout=within)
        except Empty:
            raise TimeoutError(
                f"{self.method} {self.shown_target}: the application sends nothing in {within:g} s"
            ) from None
