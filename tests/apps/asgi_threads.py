"""ASGI applications that do their work in threads, by each of the ways that frameworks have."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from fastapi import FastAPI

app = FastAPI()


@contextmanager
def told(where: str) -> Iterator[None]:
    """Log when the work begins, and what it ends by."""
    print(f"{where}: working", flush=True)
    try:
        yield
    except BaseException as error:
        print(f"{where}: {type(error).__name__}", flush=True)
        raise


def sleeps(where: str) -> None:
    """Work for an hour."""
    with told(where):
        for _ in range(36_000):
            time.sleep(0.1)


def receives(where: str) -> None:
    """Wait for what never comes."""
    here, there = socket.socketpair()
    with told(where), here, there:
        here.recv(1)


def insists(where: str) -> None:
    """Work on, whatever is raised."""
    until = time.monotonic() + 3600
    with told(where):
        while time.monotonic() < until:
            try:
                time.sleep(0.1)
            except BaseException:
                print(f"{where}: goes on", flush=True)


def returns(where: str) -> None:
    """Work for a moment."""
    for _ in range(100):
        sum(range(100))


WORK: dict[str, Callable[[str], None]] = {
    "sleeps": sleeps,
    "receives": receives,
    "insists": insists,
    "returns": returns,
}


@app.get("/endpoint/{work}")
def endpoint(work: str) -> dict[str, str]:
    """In a thread of anyio's."""
    WORK[work]("endpoint")
    return {}


@app.get("/asyncio/{work}")
async def in_executor(work: str) -> dict[str, str]:
    """In a thread of the loop's executor."""
    await asyncio.to_thread(WORK[work], "asyncio")
    return {}


@app.get("/asgiref/{work}")
async def in_asgiref(work: str) -> dict[str, str]:
    """In the thread that Django has for synchronous views."""
    await sync_to_async(WORK[work])("asgiref")
    return {}


@app.get("/c")
async def in_c() -> dict[str, str]:
    """In a function that has no Python frame."""
    await asyncio.to_thread(time.sleep, 3600)
    return {}


@app.get("/two")
async def in_two() -> dict[str, Any]:
    """In two threads at once."""
    await asyncio.gather(asyncio.to_thread(sleeps, "first"), asyncio.to_thread(receives, "second"))
    return {}
