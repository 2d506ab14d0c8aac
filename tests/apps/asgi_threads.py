"""ASGI applications that do their work in threads, by each of the ways that frameworks have."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from asgiref.sync import sync_to_async
from fastapi import Depends, FastAPI
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import Response

app = FastAPI()
queue: asyncio.Queue[tuple[str, asyncio.Future[None]]] = asyncio.Queue()
consumers: list[asyncio.Task[None]] = []


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
    time.sleep(0.01)


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
    here, there = socket.socketpair()
    with told("c"), here, there:
        await asyncio.to_thread(here.recv, 1)
    return {}


@app.get("/two")
async def in_two() -> dict[str, Any]:
    """In two threads at once."""
    await asyncio.gather(asyncio.to_thread(sleeps, "first"), asyncio.to_thread(receives, "second"))
    return {}


@app.get("/gathered")
async def gathered() -> dict[str, Any]:
    """In two threads, of which one goes on when the task has ended by the other one's exception."""
    await asyncio.gather(asyncio.to_thread(receives, "first"), asyncio.to_thread(insists, "second"))
    return {}


@app.get("/left")
async def left() -> dict[str, Any]:
    """In a task of its own, for which the request waits without owning it."""
    consumers.append(asyncio.create_task(asyncio.to_thread(sleeps, "left")))
    await asyncio.wait(consumers)
    return {}


def session() -> Iterator[None]:
    """A dependency with an end that takes a while, in a thread of its own."""
    try:
        yield
    finally:
        with told("cleanup"):
            time.sleep(0.3)
        print("cleanup: done", flush=True)


@app.get("/dependency/{work}")
def with_session(work: str, used: Annotated[None, Depends(session)]) -> dict[str, str]:
    """What it has begun to use is to be cleaned up, in order."""
    WORK[work]("dependency")
    return {}


@app.get("/cleans")
async def cleans() -> dict[str, str]:
    """A task that cleans up by itself when its thread was interrupted."""
    try:
        await asyncio.to_thread(sleeps, "cleans")
    finally:
        with told("task"):
            await asyncio.sleep(0.3)
        print("task: done", flush=True)
    return {}


async def consume() -> None:
    """Work for all requests, in the context of the first one."""
    while True:
        work, done = await queue.get()
        await asyncio.to_thread(WORK[work], "consumer")
        if not done.done():
            done.set_result(None)


@app.get("/shared/{work}")
async def shared(work: str, hang: bool = False) -> dict[str, str]:
    """Begin the consumer with the first request."""
    if not consumers:
        consumers.append(asyncio.create_task(consume()))
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    await queue.put((work, done))
    await done
    if hang:
        await asyncio.sleep(3600)
    return {}


async def unchanged(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """A middleware, which has what is behind it run in tasks of its own."""
    return await call_next(request)


wrapped = FastAPI(middleware=[Middleware(BaseHTTPMiddleware, dispatch=unchanged)] * 2)
wrapped.include_router(app.router)
