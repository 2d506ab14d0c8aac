"""A library's tests by pytest with pytest-twisted: functions, and the fixture `deferred_app_server`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, gatherResults

from graceful.testing.trial import DeferredServer
from tests.integration.shelf import Shelf

LIBRARY = "tests.integration.library:application"

Start = Callable[..., Deferred[DeferredServer]]


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Find no connection and no timer in the reactor when a test's servers have ended; trial looks by itself."""
    yield
    watched = [*reactor.getReaders(), *reactor.getWriters()]
    assert [each for each in watched if isinstance(each, FileDescriptor)] == []
    assert reactor.getDelayedCalls() == []


@pytest.fixture
def library(deferred_app_server: Start, shelf: Shelf) -> Start:
    """Start the library of the shelf; keywords are for its environment."""

    def start(*options: str, **environment: str) -> Deferred[DeferredServer]:
        environment = {**shelf.environment, **environment}
        return deferred_app_server(LIBRARY, "--deadline", "60", *options, environment=environment)

    return start


@pytest_twisted.ensureDeferred
async def test_get_takes_a_path_and_a_missing_one_is_404(library: Start) -> None:
    """A path is enough of a URL; what is not there is a 404."""
    server = await library()
    response = await server.treq.get("/", params={"any": "thing"})
    assert (response.code, await response.text()) == (200, "1")
    missing = await server.treq.get(f"{server.url}/nowhere")
    assert (missing.code, await missing.content()) == (404, b"")


@pytest_twisted.ensureDeferred
async def test_a_form_is_answered_with_text_and_json_with_json(library: Start) -> None:
    """A form is answered with text, JSON with JSON."""
    server = await library()
    greeted = await server.treq.post("/greet", data={"name": "Ada"})
    assert await greeted.text() == "Hello, Ada!"
    ordered = await server.treq.post("/order", json={"title": "Emma"})
    assert await ordered.json() == {"ordered": "Emma", "release": "1"}


@pytest_twisted.ensureDeferred
async def test_redeploy_loses_nothing(library: Start, shelf: Shelf) -> None:
    """Eight readers ask on, over a redeploy; each request is answered, and each reader sees both releases."""
    server = await library()

    async def reader(first: Deferred[None]) -> list[str]:
        seen: list[str] = []
        while seen.count("2") < 20:
            response = await server.treq.get("/")
            assert response.code == 200
            seen.append(await response.text())
            if len(seen) == 1:
                first.callback(None)
        return seen

    begun: list[Deferred[None]] = [Deferred() for _ in range(8)]
    readers = gatherResults([Deferred.fromCoroutine(reader(first)) for first in begun], consumeErrors=True)
    await gatherResults(begun)
    shelf.release("2")
    await server.redeploy()
    for seen in await readers.addTimeout(40, reactor):
        assert set(seen) == {"1", "2"}


@pytest_twisted.inlineCallbacks
def test_report_in_flight_is_answered(library: Start, shelf: Shelf) -> Generator[Any, Any, None]:
    """A report that is being made at the redeploy is answered by the process that makes it."""
    server = yield library()
    answered: list[Any] = []
    report = server.treq.get(shelf.gate.target("/report")).addCallback(
        lambda answer: answered.append(answer) or answer
    )
    yield server.arrived("/report")
    shelf.release("2")
    yield server.redeploy()
    response = yield server.treq.get("/")
    assert (yield response.text()) == "2"
    assert not answered
    shelf.gate.wait_reached()
    shelf.gate.open()
    response = yield report
    assert (response.code, (yield response.text())) == (200, "1")


@pytest_twisted.ensureDeferred
async def test_takedown_is_503(library: Start, shelf: Shelf) -> None:
    """A report that is still being made at the deadline of a stop is answered with 503."""
    server = await library("--deadline", "0")
    report = server.treq.get(shelf.gate.target("/report"))
    await server.arrived("/report")
    shelf.gate.wait_reached()
    server.sigterm()
    response = await report
    assert response.code == 503
    assert response.headers.hasHeader("Retry-After")
    shelf.gate.open()
    assert await server.gone() != 0


@pytest.mark.parametrize("path", ["/books/big", "/store/big"])
@pytest_twisted.ensureDeferred
async def test_download_arrives_whole(library: Start, shelf: Shelf, path: str) -> None:
    """What is being sent at the redeploy arrives whole: a file, and what the library itself gets by URL."""
    wanted, got = shelf.big_book(), hashlib.sha256()
    store = await library()
    server = await library(STORE=store.url)
    response = await server.treq.get(path, unbuffered=True)
    shelf.release("2")
    await server.redeploy()
    assert await (await server.treq.get("/")).text() == "2"
    await server.arrived(path)  # in either process: it may just be on its way from one to the other
    await treq.collect(response, got.update)
    assert response.headers.getRawHeaders("X-Release") == ["1"]
    assert got.hexdigest() == wanted


@pytest_twisted.ensureDeferred
async def test_what_is_not_read_is_closed(library: Start, shelf: Shelf) -> None:
    """A test may leave an answer unread: its connection is closed all the same."""
    shelf.big_book()
    server = await library()
    response = await server.treq.get("/books/big", unbuffered=True)
    assert response.code == 200
