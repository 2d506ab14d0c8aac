"""Litestar, sse-starlette and Django's Channels, unchanged: event streams and WebSockets through a stop."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.support.clients import Connection, get, request
from tests.support.frames import close, code_of
from tests.support.home import Home
from tests.support.server import Server
from tests.support.websocket import WebSocket

SHORT = ("--idle-grace", "0.2", "--close-spread", "0.2")


@pytest.mark.parametrize("application", ["asgi_litestar:app", "asgi_sse:app"])
def test_an_event_stream_ends_itself_in_a_stop(home: Home, application: str) -> None:
    """It says its last word, and is whole; nothing was taken down."""
    with Server(home, *SHORT, application=application) as server, Connection(server.port) as stream:
        said: list[bytes] = []

        def take(piece: bytes) -> None:
            if not said:
                server.terminate()
            said.append(bytes(piece))

        stream.send(request("/events"))
        stream.answer(consume=take)
        words = [line for line in b"".join(said).split() if not line.startswith(b"data:")]
        assert words == [b"first", b"bye"]
        assert server.wait() == 0
        assert server.drained() == (1, 0, 0)


@pytest.mark.parametrize(
    ("application", "hello"),
    [("asgi_litestar:app", b"Hello from Litestar"), ("asgi_channels:app", b"Hello from Django")],
)
def test_a_websocket_is_closed_in_a_stop(home: Home, stack: ExitStack, application: str, hello: bytes) -> None:
    """It echoes until then; its end is no failure of the application's."""
    with Server(home, *SHORT, application=application) as server:
        assert get(server.port, "/").body == hello
        client = stack.enter_context(WebSocket(server.port))
        client.say("<b>ä</b>")
        assert client.hear() == "<b>ä</b>"
        server.terminate()
        assert code_of(client.next()) == 1012
        client.send(close(1012))
        client.nothing_more()
        assert server.wait() == 0
        assert server.drained()[1:] == (0, 0)
