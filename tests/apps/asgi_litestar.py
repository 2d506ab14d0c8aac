"""A Litestar application: a route, an event stream and a WebSocket."""

import asyncio
from collections.abc import AsyncIterator

from litestar import Litestar, get, websocket_listener
from litestar.response import ServerSentEvent

import graceful


@get("/")
async def hello() -> str:
    """Answer in one piece."""
    return "Hello from Litestar"


@get("/events")
async def events() -> ServerSentEvent:
    """Say something, and more when the server begins to stop."""

    async def said() -> AsyncIterator[str]:
        yield "first"
        await graceful.drain_begins()
        yield "bye"

    return ServerSentEvent(said())


@websocket_listener("/echo")
async def echo(data: str) -> str:
    """Send back what comes."""
    await asyncio.sleep(0)
    return data


app = Litestar(route_handlers=[hello, events, echo])
