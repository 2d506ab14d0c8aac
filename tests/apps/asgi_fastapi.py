"""A FastAPI application, with a dependency, a model, a sync endpoint in a thread, and a streamed answer."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, File, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import graceful

app = FastAPI()


class Item(BaseModel):
    """A thing."""

    name: str
    size: int = 1


async def limit() -> float | None:
    """How much time the request has."""
    return graceful.remaining()


@app.get("/")
async def home() -> dict[str, str]:
    """Answer with JSON."""
    return {"hello": "world"}


@app.post("/items/")
async def create(item: Item) -> Item:
    """Check a body, and send it back."""
    return Item(name=item.name.upper(), size=item.size + 1)


@app.get("/sync/{number}")
def in_a_thread(number: int, left: Annotated[float | None, Depends(limit)]) -> dict[str, object]:
    """Answer from a thread of the framework's, which has the request's context."""
    return {"number": number, "limited": left is not None and graceful.remaining() is not None}


@app.post("/upload/")
async def upload(file: Annotated[UploadFile, File()]) -> dict[str, object]:
    """Take a form with a file."""
    data = await file.read()
    return {"name": file.filename, "sha256": hashlib.sha256(data).hexdigest()}


@app.get("/lines/")
async def lines() -> StreamingResponse:
    """Stream lines."""

    async def pieces() -> AsyncIterator[str]:
        for number in range(1000):
            yield f"line {number}\n"

    return StreamingResponse(pieces())
