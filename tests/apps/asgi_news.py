"""A Starlette application for a browser: a page with an event stream and a WebSocket, and news that outlive a deploy.

The news are the lines of a file, as they are rows of a database elsewhere: every process reads the same ones.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import graceful

NEWS = Path("news.txt")
PAGE = """<!DOCTYPE html><title>News</title><script>
const news = [], opened = [], codes = [], lost = [], sockets = [], extensions = [];
const source = new EventSource('/events');
source.addEventListener('begin', event => opened.push(event.data));
source.onmessage = event => news.push([event.lastEventId, event.data]);
source.onerror = () => { if (source.readyState === EventSource.CLOSED) lost.push('the event stream is given up'); };
function connect() {
    const socket = new WebSocket(`ws://${location.host}/socket`);
    socket.onmessage = event => sockets.push(event.data);
    socket.onopen = () => extensions.push(socket.extensions);
    socket.onclose = event => { codes.push([event.code, event.wasClean]); setTimeout(connect, 0); };
}
connect();
</script>"""


async def page(request: Request) -> HTMLResponse:
    """Both in one page."""
    return HTMLResponse(PAGE)


async def events(request: Request) -> StreamingResponse:
    """The news behind the last that the client has, and an end when the server begins to stop."""
    last = request.headers.get("last-event-id", "")

    async def lines() -> AsyncIterator[str]:
        # An event without an ID leaves the client's last one as it is.
        yield f"retry: 50\nevent: begin\ndata: {os.getpid()} {last}\n\n"
        told, stop = int(last or 0), asyncio.ensure_future(graceful.drain_begins())
        while not stop.done():
            for line in NEWS.read_text().splitlines()[told:]:
                told += 1
                yield f"id: {told}\ndata: {line}\n\n"
            await asyncio.wait([stop], timeout=0.01)

    return StreamingResponse(lines(), media_type="text/event-stream")


async def socket(websocket: WebSocket) -> None:
    """Which process it is."""
    await websocket.accept()
    await websocket.send_text(str(os.getpid()))
    await websocket.receive()


app = Starlette(routes=[Route("/", page), Route("/events", events), WebSocketRoute("/socket", socket)])
