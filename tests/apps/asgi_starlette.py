"""A Starlette application: what ordinary ones do, and what goes wrong in some of them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

import graceful


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Start, and stop."""
    if "ASGI_HANGS" in os.environ:
        print("hanging in start-up", flush=True)
        await asyncio.sleep(1000)
    if "ASGI_FAILS" in os.environ:
        raise RuntimeError("the database is not there")
    print("lifespan: started", flush=True)
    yield {"greeting": "hello"}
    if "ASGI_HANGS_AT_THE_END" in os.environ:
        print("hanging in shutdown", flush=True)
        await asyncio.sleep(1000)
    print("lifespan: stopped", flush=True)


@graceful.on_drain
def told() -> None:
    """Say that a hook was called."""
    print("on_drain: called", flush=True)


@graceful.on_drain
async def told_in_the_loop() -> None:
    """Say that a coroutine was called."""
    await asyncio.sleep(0)
    print("on_drain: ran in the loop", flush=True)


async def home(request: Request) -> Response:
    """Answer in one piece."""
    return PlainTextResponse("Hello, world!")


async def state(request: Request) -> Response:
    """Answer with what the lifespan has set."""
    return PlainTextResponse(request.state.greeting)


async def upload(request: Request) -> Response:
    """Hash a body piece by piece."""
    size, digest = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        digest.update(piece)
    return PlainTextResponse(f"{size} {digest.hexdigest()}")


async def echo(request: Request) -> Response:
    """Send the body back while it arrives."""
    return StreamingResponse(request.stream(), media_type="application/octet-stream")


async def scope(request: Request) -> Response:
    """Show what a scope has."""
    names = ("client", "server", "scheme", "root_path", "path", "http_version")
    shown = {name: request.scope[name] for name in names}
    shown["extensions"] = {name: what for name, what in request.scope["extensions"].items() if name == "tls"}
    return JSONResponse(shown)


async def big(request: Request) -> Response:
    """Stream so many MiB."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(int(request.query_params["mib"]) * 16):
            yield b"x" * 65536

    return StreamingResponse(pieces(), media_type="application/octet-stream")


async def file(request: Request) -> Response:
    """Send a file."""
    return FileResponse(os.environ["ASGI_FILE"])


async def events(request: Request) -> Response:
    """An event stream that ends itself when the server begins to stop."""

    async def lines() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await graceful.drain_begins()
        yield f"data: draining {graceful.draining()} {graceful.remaining() is not None}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def scope_events(request: Request) -> Response:
    """The same with nothing but the scope, as a framework would do it."""
    offered = request.scope["extensions"]["graceful"]

    async def lines() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await offered["drain_begins"]()
        yield f"data: {offered['draining']()}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")


async def endless(request: Request) -> Response:
    """An event stream that knows of no end."""

    async def lines() -> AsyncIterator[str]:
        yield "data: first\n\n"
        await asyncio.sleep(1000)

    return StreamingResponse(lines(), media_type="text/event-stream")


async def inner() -> None:
    """Wait where a report should say so."""
    await asyncio.Event().wait()


async def hang(request: Request) -> Response:
    """Wait for what never comes."""
    await inner()
    return Response()


async def swallow(request: Request) -> Response:
    """Refuse to be cancelled."""
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass


async def block(request: Request) -> Response:
    """Block the loop, in many small sleeps."""
    print("blocking", flush=True)
    for _ in range(int(request.query_params["seconds"]) * 20):
        time.sleep(0.05)
    return PlainTextResponse("blocked")


async def slow(request: Request) -> Response:
    """Take a second."""
    await asyncio.sleep(1)
    return PlainTextResponse("slow")


def _pass(path: str) -> None:
    with open(path, "rb") as fifo:
        fifo.read()


async def gate(request: Request) -> Response:
    """Wait until the test opens the gate: see `tests.support.gate`."""
    await asyncio.to_thread(_pass, request.query_params["path"])
    return PlainTextResponse("passed")


async def background(request: Request) -> Response:
    """Work on behind the answer."""

    async def work() -> None:
        await asyncio.sleep(1)
        print("background: done", flush=True)

    return PlainTextResponse("answered", background=BackgroundTask(work))


async def gone(request: Request) -> Response:
    """Wait for the client's leaving, and say so."""
    print("gone: waiting", flush=True)
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)
    print("gone: left", flush=True)
    return Response()


async def fail(request: Request) -> Response:
    """Raise."""
    raise ZeroDivisionError("a fault of the application's")


async def fail_late(request: Request) -> Response:
    """Raise in the middle of a body."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError("a late fault")

    return StreamingResponse(pieces())


def _routes() -> list[Route]:
    names = (
        home, state, upload, echo, scope, big, file, events, scope_events, endless, hang, swallow, block, slow,
        background, gate, gone, fail, fail_late,
    )  # fmt: skip
    paths = {name: "/" + name.__name__.replace("_", "-") for name in names}
    paths[home] = "/"
    return [Route(path, name, methods=["GET", "POST"]) for name, path in paths.items()]


app = Starlette(routes=[*_routes(), Mount("/sub", routes=[Route("/scope", scope)])], lifespan=lifespan)


def make() -> Starlette:
    """A factory."""
    return app
