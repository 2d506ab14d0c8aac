"""A library's tests by trial: `trial tests.integration.test_trial`."""

from __future__ import annotations

import hashlib

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from graceful.testing import AppServerMixin
from graceful.testing.trial import DeferredServer
from tests.integration.shelf import Shelf

LIBRARY = "tests.integration.library:application"


class LibraryTests(AppServerMixin, TestCase):
    """The library answers, also while it is redeployed."""

    timeout = 60

    def setUp(self) -> None:
        """Have a shelf."""
        self.shelf = Shelf()
        self.addCleanup(self.shelf.remove)

    async def library(self, *options: str, **environment: str) -> DeferredServer:
        """Start the library."""
        environment = {**self.shelf.environment, **environment}
        return await self.serve(LIBRARY, "--deadline", "60", *options, environment=environment)

    async def test_get_takes_a_path_and_a_missing_one_is_404(self) -> None:
        """A path is enough of a URL; what is not there is a 404."""
        server = await self.library()
        response = await server.treq.get("/", params={"any": "thing"})
        self.assertEqual((response.code, await response.text()), (200, "1"))
        missing = await server.treq.get(f"{server.url}/nowhere")
        self.assertEqual((missing.code, await missing.content()), (404, b""))

    async def test_a_form_is_answered_with_text_and_json_with_json(self) -> None:
        """A form is answered with text, JSON with JSON."""
        server = await self.library()
        greeted = await server.treq.post("/greet", data={"name": "Ada"})
        self.assertEqual(await greeted.text(), "Hello, Ada!")
        ordered = await server.treq.post("/order", json={"title": "Emma"})
        self.assertEqual(await ordered.json(), {"ordered": "Emma", "release": "1"})

    async def test_redeploy_loses_nothing(self) -> None:
        """Eight readers ask on, over a redeploy; each request is answered, and each reader sees both releases."""
        server = await self.library()

        async def reader(first: Deferred[None]) -> list[str]:
            seen: list[str] = []
            while seen.count("2") < 20:
                response = await server.treq.get("/")
                self.assertEqual(response.code, 200)
                seen.append(await response.text())
                if len(seen) == 1:
                    first.callback(None)
            return seen

        begun: list[Deferred[None]] = [Deferred() for _ in range(8)]
        readers = gatherResults([Deferred.fromCoroutine(reader(first)) for first in begun], consumeErrors=True)
        await gatherResults(begun)
        self.shelf.release("2")
        await server.redeploy()
        for seen in await readers.addTimeout(40, reactor):
            self.assertEqual(set(seen), {"1", "2"})

    async def test_kept_connection_moves_to_the_new_process(self) -> None:
        """A connection that was kept is kept on: the next request on it is answered by the new process."""
        server = await self.library("--idle-grace", "60")
        seen = [await (await server.treq.get("/")).text()]
        self.shelf.release("2")
        await server.redeploy()
        seen += [await (await server.treq.get("/")).text() for _ in range(2)]
        self.assertEqual(seen, ["1", "2", "2"])

    async def test_report_in_flight_is_answered(self) -> None:
        """A report that is being made at the redeploy is answered by the process that makes it."""
        server = await self.library()
        report = server.treq.get(self.shelf.gate.target("/report"))
        await server.arrived("/report")
        self.shelf.release("2")
        await server.redeploy()
        self.assertEqual(await (await server.treq.get("/")).text(), "2")
        self.assertNoResult(report)
        self.shelf.gate.wait_reached()
        self.shelf.gate.open()
        response = await report
        self.assertEqual((response.code, await response.text()), (200, "1"))

    async def test_takedown_is_503(self) -> None:
        """A report that is still being made at the deadline of a stop is answered with 503."""
        server = await self.library("--deadline", "0")
        report = server.treq.get(self.shelf.gate.target("/report"))
        await server.arrived("/report")
        self.shelf.gate.wait_reached()
        server.sigterm()
        response = await report
        self.assertEqual(response.code, 503)
        self.assertTrue(response.headers.hasHeader("Retry-After"))
        self.shelf.gate.open()
        self.assertNotEqual(await server.gone(), 0)

    async def test_download_arrives_whole(self) -> None:
        """A file that is being sent at the redeploy arrives whole."""
        await self.check_download(await self.library(), "/books/big")

    async def test_download_from_a_store_arrives_whole(self) -> None:
        """So does one that the library itself gets by URL."""
        store = await self.library()
        await self.check_download(await self.library(STORE=store.url), "/store/big")

    async def check_download(self, server: DeferredServer, path: str) -> None:
        """Begin a download, redeploy, and read the rest."""
        wanted, got = self.shelf.big_book(), hashlib.sha256()
        response = await server.treq.get(path, unbuffered=True)
        self.shelf.release("2")
        await server.redeploy()
        self.assertEqual(await (await server.treq.get("/")).text(), "2")
        self.assertIn(path, [exchange["path"] for exchange in await server.in_flight()])
        await treq.collect(response, got.update)
        self.assertEqual(response.headers.getRawHeaders("X-Release"), ["1"])
        self.assertEqual(got.hexdigest(), wanted)

    async def test_what_is_not_read_is_closed(self) -> None:
        """A test may leave an answer unread: its connection is closed all the same, and trial finds nothing."""
        self.shelf.big_book()
        server = await self.library()
        response = await server.treq.get("/books/big", unbuffered=True)
        self.assertEqual(response.code, 200)
