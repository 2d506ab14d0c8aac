"""A Starlette application whose answers are sent by the event loop: downloads and event streams, by their tokens."""

from __future__ import annotations

import os

from event_tickets import send_event, tickets
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graceful import Parked
from graceful.contrib import starlette as graceful


def fail() -> None:
    """Fail, when the answer is on its way."""
    raise RuntimeError("failed behind its answer, on purpose")


async def download(request: Request) -> Response:
    """Answer with the `target`, a path or a URL; with `fail`, fail behind that."""
    response = graceful.download(request.query_params["target"], content_type="text/x-own", filename="ä.bin")
    if "fail" in request.query_params:
        response.background = BackgroundTask(fail)
    return response


async def wait(request: Request) -> Response:
    """Wait for news under a `name`."""
    ticket = tickets[request.query_params["name"]] = Parked(float(request.query_params.get("timeout", "60")))
    return graceful.park(ticket)


async def tell(request: Request) -> Response:
    """Answer who waits under a `name`."""
    ticket = tickets.get(request.query_params["name"])
    return PlainTextResponse(str(ticket is not None and ticket.answer(200, [("X-News", "yes")], b"news")))


async def feed(request: Request) -> Response:
    """Wait for events under a `name`, also in the next process; tell at once what that is, and what it was asked."""
    ticket = tickets[request.query_params["name"]] = Parked(60, move=True)
    ticket.send(f"data: {os.getpid()} {request.headers.get('last-event-id')}\n\n".encode())
    return graceful.event_stream(ticket)


async def send(request: Request) -> Response:
    """Send an event to who waits under a `name`; without a `body`, finish."""
    return PlainTextResponse(str(send_event(request.query_params)))


async def pid(request: Request) -> Response:
    """Which process it is."""
    return PlainTextResponse(str(os.getpid()))


class Named(BaseHTTPMiddleware):
    """Adds a field, and passes each message on in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """Answer."""
        response = await call_next(request)
        response.headers["X-By"] = "middleware"
        return response


class Late:
    """Keeps a head until its body begins, as middlewares do that look at both.

    :param app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        kept: list[Message] = []

        async def later(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept.append(message)
                return
            while kept:
                await send(kept.pop())
            await send(message)

        await self._app(scope, receive, later)


app = Starlette(
    middleware=[Middleware(Named), Middleware(GZipMiddleware), Middleware(Late)],
    routes=[
        Route("/download", download),
        Route("/wait", wait),
        Route("/tell", tell),
        Route("/feed", feed),
        Route("/send", send),
        Route("/pid", pid),
    ],
)
