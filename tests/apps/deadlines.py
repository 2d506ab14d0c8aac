"""An application that asks how much time it has, and does what it should about it: see `PATHS`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import basic

import graceful

DSN = os.environ.get("POSTGRES", "")
if DSN or TYPE_CHECKING:  # at the start, since a request has not the time for it
    import psycopg
    import psycopg_pool
    import sqlalchemy

    from graceful.contrib.psycopg import Connection
    from graceful.contrib.sqlalchemy import obey

done: list[str] = []


def say(text: str) -> None:
    """Write a line to the log, in one piece."""
    os.write(2, f"{text}\n".encode())


@graceful.on_drain
def drain_begins() -> None:
    """Say so, and who has called."""
    say(f"on_drain in {threading.current_thread().name}, draining: {graceful.draining()}")


@graceful.on_exit
def exit_comes() -> None:
    """Likewise."""
    say(f"on_exit in {threading.current_thread().name}")
    if os.environ.get("STUCK_AT_EXIT"):
        time.sleep(1000)


def remaining(environ: basic.Environ) -> str:
    """What is left, twice, and whether the server is about to stop."""
    exchange = environ["graceful.exchange"]
    return f"{graceful.remaining()} {exchange.remaining()} {graceful.draining()}"


def until_over(environ: basic.Environ) -> str:
    """Work in small pieces, until there is no time left."""
    say("works until it is over")
    while True:
        graceful.check()
        time.sleep(0.01)


def until_drain(environ: basic.Environ) -> str:
    """Wait for the drain, and tell how much is left then."""
    say("waits for the drain")
    while not graceful.draining():
        time.sleep(0.01)
    left = graceful.remaining()
    assert left is not None
    return f"{left:.2f}"


def hook(environ: basic.Environ) -> str:
    """Wait in a way that only the application knows how to end."""
    lock = threading.Lock()
    lock.acquire()

    def end() -> None:
        say(f"hook in {threading.current_thread().name}")
        lock.release()

    with environ["graceful.exchange"].on_takedown(end):
        say("waits for its hook")
        lock.acquire()
    return "not taken down"


@cache
def pool() -> psycopg_pool.ConnectionPool[Any]:
    """One connection, which every query uses again."""
    return psycopg_pool.ConnectionPool(DSN, connection_class=Connection, min_size=1, max_size=1, open=True)


@cache
def engine() -> sqlalchemy.Engine:
    """The same by SQLAlchemy."""
    made = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(DSN), pool_size=1)
    obey(made)
    return made


def query(environ: basic.Environ) -> str:
    """A query that takes too long, by the bridge to psycopg."""
    with pool().connection() as connection:
        say("queries")
        connection.execute("select pg_sleep(1000)")
    return "slept"


def alchemy(environ: basic.Environ) -> str:
    """The same by SQLAlchemy."""
    with engine().connect() as connection:
        say("queries")
        connection.execute(sqlalchemy.text("select pg_sleep(1000)"))
    return "slept"


def fails(environ: basic.Environ) -> str:
    """Raise something."""
    raise ZeroDivisionError("a deliberate failure")


def slow(environ: basic.Environ) -> str:
    """Take a while, but come to an end."""
    time.sleep(0.8)
    return "slow"


def timeline(environ: basic.Environ) -> str:
    """Keep a timeline, and get stuck in the middle of it."""
    from timeline.timeline import Timeline

    kept = environ["timeline.timeline"] = Timeline(format_stack=None)
    kept.start("sql", "select 1").finish()
    kept.start("sql", "select pg_sleep(1000)")
    say("works until it is over")
    threading.Event().wait()
    return "never"


PATHS: dict[str, Callable[[basic.Environ], str]] = {
    "/remaining": remaining,
    "/until-over": until_over,
    "/until-drain": until_drain,
    "/hook": hook,
    "/query": query,
    "/alchemy": alchemy,
    "/fails": fails,
    "/slow": slow,
    "/timeline": timeline,
}


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Do what the path says."""
    body = PATHS[environ["PATH_INFO"]](environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
