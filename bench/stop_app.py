"""The ASGI application of `asgi_stop.py`: each path keeps the server from ending in another way."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from asgi_types import Receive, Scope, Send, lifespan

#: Seconds that `/slow` takes.
SLOW: Final = 3.0
#: Seconds between two pieces of `/stream`.
PACE: Final = 0.2


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Serve lifespan, WebSockets and HTTP."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    else:
        await _answer(scope, send)


async def _websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def _answer(scope: Scope, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    path = scope["path"]
    if path == "/stream":
        await _stream(scope, send)
    elif path == "/block":
        time.sleep(3600)
    elif path == "/swallow":
        await _swallow()
    elif path == "/slow":
        await asyncio.sleep(SLOW)
    await send({"type": "http.response.body", "body": b"done"})


async def _stream(scope: Scope, send: Send) -> None:
    """Send without an end; where the server tells of its drain, end then."""
    offered = scope.get("extensions", {}).get("graceful")
    while offered is None or not offered["draining"]():
        await send({"type": "http.response.body", "body": b"data: news\n\n", "more_body": True})
        await asyncio.sleep(PACE)


async def _swallow() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
