"""A Starlette application with WebSockets: an echo, rooms that send, and what goes wrong in some of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

import graceful


async def echo(websocket: WebSocket) -> None:
    """Send back what comes, and say how it ended."""
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    try:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                print(f"echo ended: {message['code']} {message['reason']}", flush=True)
                return
            if message.get("text") is not None:
                await websocket.send_text(message["text"])
            else:
                await websocket.send_bytes(message["bytes"])
    except WebSocketDisconnect:
        print("echo ended while it sent", flush=True)


async def deaf(websocket: WebSocket) -> None:
    """Take nothing for a while."""
    await websocket.accept()
    await asyncio.sleep(4)


async def flood(websocket: WebSocket) -> None:
    """Send as fast as the server lets it, and say how much that was."""
    await websocket.accept()
    sent = 0
    try:
        while True:
            await websocket.send_bytes(bytes(65536))
            sent += 1
            if sent % 8 == 0:
                print(f"flood sent {sent}", flush=True)
    except WebSocketDisconnect:
        print("flood ended", flush=True)


async def leaves_first(websocket: WebSocket) -> None:
    """Close by itself when the server begins to stop."""
    await websocket.accept()
    await graceful.drain_begins()
    await websocket.close(4001, "moving")


async def fails(websocket: WebSocket) -> None:
    """Raise, when it is open."""
    await websocket.accept()
    raise ZeroDivisionError("in a WebSocket")


async def stubborn(websocket: WebSocket) -> None:
    """Go on after the end."""
    await websocket.accept()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            print("stubborn: cancelled", flush=True)
            raise


async def blocks(websocket: WebSocket) -> None:
    """Hold up the loop."""
    await websocket.accept()
    print("blocks: now", flush=True)
    while True:
        time.sleep(0.01)


async def denied(websocket: WebSocket) -> None:
    """Answer in HTTP."""
    await websocket.send_denial_response(PlainTextResponse("not you", 401))


async def version(request: Request) -> PlainTextResponse:
    """Which code it is."""
    return PlainTextResponse(os.environ.get("RELEASE", "1"))


async def version_of(websocket: WebSocket) -> None:
    """Which code it is."""
    await websocket.accept()
    await websocket.send_text(f"{os.environ.get('RELEASE', '1')} {os.getpid()}")
    await websocket.receive()


async def events(request: Request) -> StreamingResponse:
    """Which code it is, and a word at the end, which comes when the server begins to stop."""

    async def lines() -> AsyncIterator[str]:
        yield f"data: {os.getpid()}\n\n"
        await graceful.drain_begins()
        yield "event: bye\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


app = Starlette(
    routes=[
        Route("/events", events),
        Route("/", version),
        WebSocketRoute("/echo", echo),
        WebSocketRoute("/deaf", deaf),
        WebSocketRoute("/flood", flood),
        WebSocketRoute("/leaves-first", leaves_first),
        WebSocketRoute("/fails", fails),
        WebSocketRoute("/stubborn", stubborn),
        WebSocketRoute("/blocks", blocks),
        WebSocketRoute("/denied", denied),
        WebSocketRoute("/version", version_of),
    ]
)
