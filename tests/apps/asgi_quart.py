"""A Quart application: a form, a stream, a context that a background task has as well."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from quart import Quart, Response, request

app = Quart(__name__)


@app.before_serving
async def started() -> None:
    """Say that the lifespan works."""
    print("quart: started", flush=True)


@app.after_serving
async def stopped() -> None:
    """Say that the lifespan ends."""
    print("quart: stopped", flush=True)


@app.get("/")
async def home() -> str:
    """Answer with text."""
    return "Hello from Quart"


@app.post("/upload/")
async def upload() -> str:
    """Hash a body while it arrives."""
    digest = hashlib.sha256()
    async for piece in request.body:
        digest.update(piece)
    return digest.hexdigest()


@app.get("/lines/")
async def lines() -> Response:
    """Stream lines."""

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(1000):
            yield b"line %d\n" % number

    return Response(pieces(), content_type="text/plain")
