"""An ASGI application with the paths of `basic` that the mixed load asks for, and an echo for WebSockets."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
PATTERN = bytes(range(256)) * 256


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer `/`, `/echo?WORD`, `/sleep?seconds=S`, `/upload` and `/big?bytes=N`; echo WebSockets."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(receive, send)
    elif scope["path"] == "/big":
        await _big(int(_query(scope)["bytes"]), send)
    else:
        await _short(await _body(scope, receive), send)


async def _body(scope: Scope, receive: Receive) -> bytes:
    if scope["path"] == "/echo":
        return bytes(scope["query_string"])
    if scope["path"] == "/sleep":
        await asyncio.sleep(float(_query(scope)["seconds"]))
        return b"slept"
    if scope["path"] == "/upload":
        return await _upload(receive)
    return b"Hello, world!"


def _query(scope: Scope) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}


async def _short(body: bytes, send: Send) -> None:
    fields = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _big(size: int, send: Send) -> None:
    fields = [(b"content-type", b"application/octet-stream"), (b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    while size:
        piece = PATTERN[:size]
        size -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": size > 0})


async def _upload(receive: Receive) -> bytes:
    size, digest = 0, hashlib.sha256()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left in the middle of its body")
        piece = message.get("body", b"")
        size += len(piece)
        digest.update(piece)
        if not message.get("more_body"):
            return f"{size} {digest.hexdigest()}".encode()


async def _websocket(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
