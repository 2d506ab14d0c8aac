"""The ASGI application of the throughput benchmark; only `/json` goes through a framework."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app import BIG, SMALL
from asgi_types import Receive, Scope, Send, lifespan

#: About 1 KiB as JSON.
RECORD: Final = {f"field{number:02}": "x" * 36 for number in range(20)}


async def _json(request: Request) -> JSONResponse:
    return JSONResponse(RECORD)


_starlette = Starlette(routes=[Route("/json", _json)])


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo WebSockets; answer `/`, `/big`, `/json`, `/upload` with the body's length, `/events` once a second."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["path"] == "/json":
        await _starlette(scope, receive, send)
    elif scope["path"] == "/events":
        await _events(send)
    else:
        body = SMALL
        if scope["path"] == "/big":
            body = BIG
        elif scope["path"] == "/upload":
            body = await _length(receive)
        fields = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def _length(receive: Receive) -> bytes:
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            return str(length).encode()


async def _events(send: Send) -> None:
    fields = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    while True:
        line = f"data: {time.monotonic():.6f}\n\n".encode()
        await send({"type": "http.response.body", "body": line, "more_body": True})
        await asyncio.sleep(1)
