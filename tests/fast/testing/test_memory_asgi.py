"""The server in memory for ASGI applications, for tests of sites."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.application.current import current_exchange
from graceful.testing import (
    AsgiMemoryServer,
    LostRequest,
    MemoryServer,
    Refused,
    StartFailed,
    WebSocketEnded,
)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def head(send: Send, status: int = 200, *fields: tuple[bytes, bytes]) -> None:
    """Begin an answer."""
    await send({"type": "http.response.start", "status": status, "headers": fields})


async def piece(send: Send, body: bytes, more: bool = True) -> None:
    """Send a piece of an answer."""
    await send({"type": "http.response.body", "body": body, "more_body": more})


class Site:
    """A version of an application, which notes what happens to it."""

    happened: ClassVar[list[str]] = []

    def __init__(self, name: str = "1") -> None:
        self.name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as the path says."""
        if scope["type"] == "lifespan":
            await self.lifespan(scope, receive, send)
        else:
            await getattr(self, scope["path"][1:] or "root")(scope, receive, send)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have one that is told of a stop."""
        await receive()
        scope["state"]["name"] = self.name
        self.happened.append(f"{self.name} starts")
        await send({"type": "lifespan.startup.complete", "shutdown_notice": True})
        assert (await receive())["type"] == "lifespan.shutdown.notice"
        self.happened.append(f"{self.name} is told")
        assert (await receive())["type"] == "lifespan.shutdown"
        self.happened.append(f"{self.name} ends")
        await send({"type": "lifespan.shutdown.complete"})

    async def root(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what was asked."""
        body = (await receive())["body"]
        fields = dict(scope["headers"])
        await head(send, 201, (b"X-Version", scope["state"]["name"].encode()))
        await piece(send, b"%s %s %s " % (scope["method"].encode(), scope["query_string"], fields.get(b"x-a", b"")))
        await piece(send, body, False)

    async def events(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the stop."""
        await head(send)
        await piece(send, self.name.encode())
        await graceful.drain_begins()
        await piece(send, b"bye" if graceful.draining() else b"?", False)

    async def waits(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Never answer, and note how that ends."""
        await head(send)
        await piece(send, b"begun")
        await receive()
        try:
            self.happened.append((await receive())["type"])
            await piece(send, b"more")
        except BaseException as error:
            self.happened.append(type(error).__name__)
            raise

    async def floods(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send without an end."""
        await head(send)
        for number in range(1 << 20):
            self.happened[:] = [f"sent {number}"]
            await piece(send, bytes(1 << 16))

    async def fails(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise in the middle of the answer."""
        await head(send)
        await piece(send, b"begun")
        raise ValueError("oops")

    async def short(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Break its promise."""
        await head(send, 200, (b"content-length", b"5"))
        await piece(send, b"four", False)

    async def unchanged(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say how long the body is that the client has."""
        await head(send, 304, (b"content-length", b"5"))
        await piece(send, b"", False)

    async def returns(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Do nothing."""

    async def file(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file of the query."""
        assert "http.response.pathsend" in scope["extensions"]
        await head(send)
        await send({"type": "http.response.pathsend", "path": scope["query_string"].decode()})

    async def echo(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send back what comes."""
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        while (event := await receive())["type"] == "websocket.receive":
            await send({**event, "type": "websocket.send"})
            if event.get("text") == "fail":
                raise ValueError("oops")
            if event.get("text") == "end":
                return
        self.happened.append(f"{event['code']} {event['reason']}")

    async def leaves(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close a WebSocket at a stop."""
        await receive()
        await send({"type": "websocket.accept"})
        await scope["extensions"]["graceful"]["drain_begins"]()
        await send({"type": "websocket.close", "code": 4000, "reason": "moving"})

    async def denies(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a WebSocket in HTTP."""
        assert "websocket.http.response" in scope["extensions"]
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"X-Why", b"not you")]})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async def refuses(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close a WebSocket before it is open."""
        await send({"type": "websocket.close"})


class AsgiMemoryServerTests(SynchronousTestCase):
    """A server in memory for an application that notes what happens to it."""

    def setUp(self) -> None:
        """Serve it."""
        Site.happened.clear()
        self.server = AsgiMemoryServer(Site(), lambda: Site("2"))
        self.addCleanup(self.server.close)

    def test_answers_as_the_application_does(self) -> None:
        """Status, fields, body and state are the application's."""
        answer = self.server.request("POST", "/?a=b", b"body", x_a="yes")
        self.assertEqual((answer.status, answer.headers["x-version"]), (201, "1"))
        self.assertEqual(answer.body, b"POST a=b yes body")
        self.assertEqual(self.server.request("HEAD", "/").body, b"")
        self.assertEqual(self.server.get("/unchanged").status, 304)
        self.assertEqual(self.server.begin("GET", "/").answer(5).body, b"GET   ")
        self.assertEqual(self.server.lost, [])

    def test_a_file_is_sent_as_the_servers_extension_does(self) -> None:
        """The body is the file's."""
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(b"on disk")
            self.assertEqual(self.server.get(f"/file?{file.name}").body, b"on disk")

    def test_a_stream_is_told_of_a_redeploy_and_the_next_one_is_the_new_versions(self) -> None:
        """The old version's stream ends itself; the lifespan ends behind it; the new version is not going down."""
        with self.server.stream("GET", "/events") as old:
            self.assertEqual((old.status, old.read()), (200, b"1"))
            self.assertEqual([one["path"] for one in self.server.in_flight()], ["/events"])
            self.server.redeploy()
            with self.server.stream("GET", "/events") as new:
                self.assertEqual(new.read(), b"2")
                self.assertEqual(old.rest(), b"bye")
                self.assertRaises(TimeoutError, new.read, 0.05)
                self.server.sigterm()
                self.assertEqual(new.rest(), b"bye")
        self.assertEqual((self.server.gone(), self.server.lost), (0, []))
        ones, twos = ([one for one in Site.happened if one.startswith(name)] for name in ("1", "2"))
        self.assertEqual(ones, ["1 starts", "1 is told", "1 ends"])
        self.assertEqual(twos, ["2 starts", "2 is told", "2 ends"])

    def test_a_stopped_server_refuses_and_finishes(self) -> None:
        """A stopped server refuses new requests, and finishes what is in flight."""
        stream = self.server.stream("GET", "/events")
        self.server.arrived("/events")
        self.server.sigterm()
        self.server.closed()
        self.assertRaises(Refused, self.server.get, "/")
        self.assertEqual((self.server.gone(), stream.answer().body, self.server.lost), (0, b"1bye", []))

    def test_an_application_sees_that_its_client_has_left(self) -> None:
        """It receives `http.disconnect`, and may not send; that is no loss."""
        with self.server.stream("GET", "/waits") as stream:
            self.assertEqual(stream.read(), b"begun")
        self.server.sigterm()
        self.assertEqual(self.server.gone(), 0)
        self.assertEqual((Site.happened[1:3], self.server.lost), (["http.disconnect", "Disconnected"], []))

    def test_what_outlives_the_deadline_is_cancelled_and_lost(self) -> None:
        """As at the takedown of the real server."""
        stream = self.server.stream("GET", "/waits")
        self.assertEqual(stream.read(), b"begun")
        self.server.sigterm()
        self.assertEqual(self.server.gone(0.01), 70)
        self.assertRaises(LostRequest, stream.read)
        self.assertIn("CancelledError", Site.happened)
        self.assertEqual([(lost.path, lost.why) for lost in self.server.lost], [("/waits", "taken down")])

    def test_an_application_waits_for_a_client_that_does_not_read(self) -> None:
        """What is sent and not read is bounded, and goes on when it is read."""
        with self.server.stream("GET", "/floods") as stream:
            stream.read()
            for _ in range(20):
                self.assertEqual(len(stream.read()), 1 << 16)
        self.server.sigterm()
        self.assertEqual(self.server.gone(), 0)
        self.assertLess(int(Site.happened[0].split()[1]), 21 + 8)

    def test_a_request_whose_application_fails_is_lost(self) -> None:
        """Each way to fail is told, to the client and in `lost`."""
        for path, why in (
            ("/fails", "ValueError: oops"),
            ("/short", "RuntimeError: the body does not have the 5 bytes of its Content-Length"),
            ("/returns", "RuntimeError: the ASGI application has returned without completing its answer"),
        ):
            self.assertRaises(LostRequest, self.server.get, path)
            self.server.sigterm()
            self.assertEqual(self.server.gone(), 0)
            self.assertEqual([lost.why for lost in self.server.lost], [why])
            self.server = AsgiMemoryServer(Site())
            self.addCleanup(self.server.close)

    def test_a_start_that_fails_is_told(self) -> None:
        """With what the application says."""

        async def broken(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})

        with self.assertRaisesRegex(StartFailed, "no database"):
            AsgiMemoryServer(broken)

    def test_an_application_without_a_lifespan_is_served(self) -> None:
        """Its scope has no state."""

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http", scope["type"]
            await head(send, 200 if "state" not in scope else 500)
            await piece(send, b"plain", False)

        with AsgiMemoryServer(plain) as server:
            self.assertEqual(server.get("/").status, 200)

    def test_tokens_and_hooks_of_an_exchange_are_as_on_another_server(self) -> None:
        """A download is the application's to send, and a call that waits for a database may have itself ended."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] == "http", scope["type"]
            exchange = current_exchange()
            assert exchange is not None
            with exchange.on_takedown(self.fail), tempfile.NamedTemporaryFile() as file:
                Path(file.name).write_bytes(b"on disk")
                with closing(graceful.Download(file.name)) as download:
                    await head(send, 200, *[(name.encode(), value.encode()) for name, value in download.headers])
                    await piece(send, b"".join(download), False)

        with AsgiMemoryServer(application) as server:
            answer = server.get("/")
        self.assertEqual((answer.headers, answer.body), ({}, b"on disk"))

    def test_each_kind_of_application_has_its_server(self) -> None:
        """The one for WSGI says which one serves an ASGI application."""
        with self.assertRaisesRegex(TypeError, "AsgiMemoryServer"):
            MemoryServer(Site())  # type: ignore[arg-type]


class WebSocketTests(SynchronousTestCase):
    """WebSockets in memory."""

    def setUp(self) -> None:
        """Serve an application that has some."""
        Site.happened.clear()
        self.server = AsgiMemoryServer(Site(), lambda: Site("2"))
        self.addCleanup(self.server.close)

    def over(self, *lost: str) -> None:
        """Stop the server, and see what was lost."""
        self.server.sigterm()
        self.assertEqual((self.server.gone(), [one.why for one in self.server.lost]), (0, list(lost)))

    def test_messages_go_both_ways(self) -> None:
        """Texts and bytes; the client's close has its code."""
        with self.server.websocket("/echo", "chat", "other") as client:
            self.assertEqual((client.status, client.subprotocol), (101, "chat"))
            client.send("text")
            client.send(b"bytes")
            self.assertEqual([client.receive(), client.receive()], ["text", b"bytes"])
            client.close(4001, "enough")
            self.assertEqual(client.ended(), 4001)
        self.over()
        self.assertIn("4001 enough", Site.happened)

    def test_a_redeploy_closes_with_1012(self) -> None:
        """And the next one is the new version's; an application that closes first is left alone."""
        first, second = self.server.websocket("/echo"), self.server.websocket("/leaves")
        self.server.redeploy()
        self.assertEqual((first.ended(), second.ended()), (1012, 4000))
        with self.server.websocket("/echo") as client:
            client.send("again")
            self.assertEqual(client.receive(), "again")
        self.over()
        self.assertIn("1012 ", Site.happened)

    def test_the_end_of_the_application_closes_it(self) -> None:
        """With 1000, and with 1011 if it has failed, which is a loss."""
        for text, code in (("end", 1000), ("fail", 1011)):
            client = self.server.websocket("/echo")
            client.send(text)
            self.assertEqual((client.receive(), client.ended()), (text, code))
            self.assertRaises(WebSocketEnded, client.receive)
        self.over("ValueError: oops")

    def test_a_denial_is_an_answer(self) -> None:
        """With the application's status and body, or 403."""
        client = self.server.websocket("/denies")
        assert client.answer is not None
        self.assertEqual(
            (client.status, client.answer.headers, client.answer.body), (401, {"x-why": "not you"}, b"no")
        )
        self.assertEqual(self.server.websocket("/refuses").status, 403)
        self.assertRaises(LostRequest, self.server.websocket, "/returns")
        self.over("RuntimeError: the ASGI application has returned without accepting its WebSocket or answering")
