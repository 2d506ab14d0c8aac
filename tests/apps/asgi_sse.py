"""A Starlette application with an event stream of sse-starlette."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

import graceful


async def events(request: Request) -> EventSourceResponse:
    """Say something, and more when the server begins to stop."""

    async def said() -> AsyncIterator[dict[str, str]]:
        yield {"data": "first"}
        await graceful.drain_begins()
        yield {"data": "bye"}

    return EventSourceResponse(said())


app = Starlette(routes=[Route("/events", events)])
