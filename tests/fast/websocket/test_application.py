"""An ASGI application's events on a WebSocket, with a loop that runs when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from graceful.web.exchange import Exchange
from graceful.websocket.application import WebSocketEvents
from graceful.websocket.opening_handshake import Handshake
from graceful.websocket.session import UNSENT
from tests.fast.doubles import GET, Answer, Client, parse_answers
from tests.fast.websocket.case import WebSocketCase
from tests.support.frames import BINARY, TEXT, Frame, close, code_of, frame, read_frames, request

Application = Callable[[Any, Any, Any], Awaitable[object]]


class Loop:
    """An asyncio loop that runs when it is told to.

    :ivar calls: how often it was called from outside.
    """

    def __init__(self) -> None:
        self.asyncio = asyncio.new_event_loop()
        self.calls = 0

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        self.calls += 1
        self.asyncio.call_soon(function, *arguments)

    def run(self) -> None:
        """Run what is ready, and what that makes ready."""
        for _ in range(20):
            self.asyncio.call_soon(self.asyncio.stop)
            self.asyncio.run_forever()


class ApplicationCase(WebSocketCase):
    """An application and its client.

    :ivar raised: what the application has raised.
    """

    def setUp(self) -> None:
        """Make a loop."""
        self.loop = Loop()
        self.addCleanup(self.loop.asyncio.close)  # after the engine, which tells the application that it ends
        super().setUp()
        self.raised: list[BaseException] = []
        self.events: WebSocketEvents
        self._rest = b""

    def start(self, application: Application, *fields: bytes, **options: Any) -> Client:
        """Have an application answer a client that asks for a WebSocket.

        :param fields: further ones of its request.
        """
        client, exchange = self.ask(request(*fields), **options)
        self.events = WebSocketEvents(exchange, Handshake.read(exchange.headers), self.loop, self.keeper)
        exchange.handler = self.events.session
        self.task = self.loop.asyncio.create_task(self._apply(application, exchange))
        self.turn()
        return client

    async def _apply(self, application: Application, exchange: Exchange) -> None:
        owed = None
        scope: dict[str, Any] = {"extensions": {}}
        self.events.complete_scope(scope)
        try:
            await application(scope, self.events.receive, self.events.send)
            self.events.check_returned()
        except Exception as error:
            self.raised.append(error)
            owed = None if isinstance(error, OSError) else (500, "")
        self.events.returned(owed)

    def turn(self) -> None:
        """Let both loops do what is to be done."""
        for _ in range(3):
            self.loop.run()
            self.engine.turn()

    def send(self, client: Client, data: bytes) -> None:
        """Have the client send."""
        client.send(data)
        self.turn()

    def frames(self, client: Client) -> list[Frame]:
        """The frames that the client gets now, behind the head."""
        data = self._rest + client.take()
        if data.startswith(b"HTTP/1.1 101"):
            data = data.partition(b"\r\n\r\n")[2]
        frames, self._rest = read_frames(data)
        return frames

    def answers(self, client: Client) -> list[Answer]:
        """The answers of HTTP that the client gets."""
        return parse_answers(client.take())


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Send back each message, until the client closes."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


async def accept(receive: Any, send: Any, **fields: Any) -> None:
    """Open it."""
    await receive()
    await send({"type": "websocket.accept", **fields})


class OpenTests(ApplicationCase):
    """An application that opens its WebSocket."""

    def test_text_and_bytes_are_echoed(self) -> None:
        """Both come back as what they were."""
        client = self.start(echo)
        self.send(client, frame(TEXT, "ä".encode()) + frame(BINARY, b"\xff") + frame(TEXT))
        self.assertEqual(self.frames(client), [Frame(TEXT, "ä".encode()), Frame(BINARY, b"\xff"), Frame(TEXT, b"")])
        self.send(client, close(1001))
        self.assertEqual([code_of(one) for one in self.frames(client)], [1001])
        client.close()
        self.turn()
        self.nothing_left()

    def test_the_scope_says_what_the_client_speaks(self) -> None:
        """Its subprotocols, and that the server can answer in HTTP instead."""
        scopes = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            scopes.append(scope)
            await accept(receive, send, subprotocol="b", headers=[(b"x-a", b"1")])

        client = self.start(application, b"Sec-WebSocket-Protocol: a, b")
        self.assertEqual(
            scopes,
            [
                {
                    "type": "websocket",
                    "scheme": "ws",
                    "subprotocols": ["a", "b"],
                    "extensions": {"websocket.http.response": {}},
                }
            ],
        )
        head = client.take().partition(b"\r\n\r\n")[0].split(b"\r\n")
        self.assertIn(b"Sec-WebSocket-Protocol: b", head)
        self.assertIn(b"x-a: 1", head)

    def test_one_wake_up_serves_many_messages(self) -> None:
        """The loop is not called for a message that the application will find anyhow."""
        client = self.start(echo)
        before = self.loop.calls
        self.send(client, frame(TEXT, b"x") * 100)
        self.assertEqual(len(self.frames(client)), 100)
        self.assertEqual(self.loop.calls - before, 1)

    def test_two_tasks_may_receive_at_once(self) -> None:
        """Each message goes to one of them, and the end to both."""
        got: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)

            async def take() -> None:
                while (event := await receive())["type"] == "websocket.receive":
                    got.append(event["text"])

            await asyncio.gather(take(), take())

        client = self.start(application)
        for text in (b"a", b"b", b"c"):
            self.send(client, frame(TEXT, text))
        self.send(client, close())
        self.assertEqual(sorted(got), ["a", "b", "c"])
        self.assertTrue(self.task.done())

    def test_the_end_is_told_as_often_as_is_asked(self) -> None:
        """With the client's code and reason."""
        got = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            got.extend([await receive(), await receive()])

        self.send(self.start(application), close(4000, b"why"))
        self.assertEqual(got, [{"type": "websocket.disconnect", "code": 4000, "reason": "why"}] * 2)

    def test_waiting_with_a_time_limit_leaves_nothing_behind(self) -> None:
        """An application that waits again and again for a silent client costs no more memory each time."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            for _ in range(10):
                waiting = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.wait([waiting])
            await asyncio.Event().wait()

        client = self.start(application)
        self.turn()
        self.assertEqual(self.events._waiting, [])
        self.task.cancel()
        client.close()
        self.turn()

    def test_text_may_be_of_a_class_of_its_own(self) -> None:
        """Templates give safe strings, which are strings."""

        class Safe(str):
            __slots__ = ()

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            await send({"type": "websocket.send", "text": Safe("<b>")})

        self.assertEqual(self.frames(self.start(application))[0], Frame(TEXT, b"<b>"))

    def test_an_application_waits_for_a_slow_client(self) -> None:
        """It has no more than so much on its way, and goes on when the client has taken that."""
        sent: list[int] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            for number in range(40):
                await send({"type": "websocket.send", "bytes": bytes(UNSENT // 4)})
                sent.append(number)

        client = self.start(application, buffer=4096)
        self.assertLess(len(sent), 8)
        self.assertLess(client.connection.write_token.held, 2 * UNSENT)
        frames = []
        while not self.task.done():
            frames += self.frames(client)
            self.turn()
        frames += self.frames(client)
        self.assertEqual([one.opcode for one in frames], [BINARY] * 40 + [8])

    def test_an_application_that_waits_for_a_client_learns_that_it_left(self) -> None:
        """Sending raises OSError, as ASGI has it since 2.4."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            while True:
                await send({"type": "websocket.send", "bytes": bytes(UNSENT)})

        client = self.start(application, buffer=4096)
        self.assertEqual(self.raised, [])
        client.close()
        self.turn()
        self.assertIsInstance(self.raised[0], OSError)
        self.nothing_left()


class EndTests(ApplicationCase):
    """How it ends."""

    def test_an_applications_close_goes_to_the_client(self) -> None:
        """With its code and reason; nothing may be sent behind it."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            await send({"type": "websocket.close", "code": 4001, "reason": "moved"})
            await send({"type": "websocket.send", "text": "late"})

        client = self.start(application)
        (last,) = self.frames(client)
        self.assertEqual((code_of(last), last.payload[2:]), (4001, b"moved"))
        self.assertIsInstance(self.raised[0], OSError)

    def test_an_application_that_returns_closes_with_1000(self) -> None:
        """It has no more to say."""
        client = self.start(lambda scope, receive, send: accept(receive, send))
        self.assertEqual([code_of(one) for one in self.frames(client)], [1000])

    def test_an_application_that_fails_closes_with_1011(self) -> None:
        """The client is not told why."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            raise ZeroDivisionError

        client = self.start(application)
        self.assertEqual(self.frames(client), [Frame(8, b"\x03\xf3")])
        self.assertEqual([type(error) for error in self.raised], [ZeroDivisionError])

    def test_a_stop_is_told_to_the_application_with_1012(self) -> None:
        """As a disconnect, behind the messages that have come."""
        got = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send)
            while not got or got[-1]["type"] != "websocket.disconnect":
                got.append(await receive())

        client = self.start(application)
        self.send(client, frame(TEXT, b"x"))
        self.keeper.drain()
        self.pass_time(1.1, 0.1)
        self.turn()
        self.assertEqual(got[-1], {"type": "websocket.disconnect", "code": 1012, "reason": "service restart"})
        self.assertEqual([code_of(one) for one in self.frames(client)], [1012])

    def test_what_may_not_be_sent_is_refused(self) -> None:
        """The application gets an error that says what and when, and the client nothing of it."""
        errors: list[Exception] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            async def attempt(**event: Any) -> None:
                try:
                    await send(event)
                except Exception as error:
                    errors.append(error)

            await attempt(type="websocket.send", text="early")
            await attempt(type="http.response.start", status=200)
            await accept(receive, send)
            await attempt(type="websocket.accept")
            await attempt(type="websocket.send")
            await attempt(type="websocket.send", text=b"bytes")
            await attempt(type="websocket.close", code=1006)
            await send({"type": "websocket.send", "text": "fine"})

        client = self.start(application)
        kinds = [RuntimeError, RuntimeError, RuntimeError, TypeError, TypeError, ValueError]
        self.assertEqual([type(error) for error in errors], kinds)
        self.assertEqual(str(errors[0]), "websocket.send may not be sent before websocket.accept")
        self.assertEqual([one.opcode for one in self.frames(client)], [TEXT, 8])


class DenialTests(ApplicationCase):
    """An application that does not open its WebSocket."""

    def test_a_close_before_accept_is_403(self) -> None:
        """The connection goes on with HTTP."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.close"})

        client = self.start(application)
        self.assertEqual([answer.status for answer in self.answers(client)], [403])
        client.send(GET)
        self.assertEqual(len(self.engine.asked), 2)

    def test_an_application_may_answer_in_http(self) -> None:
        """With status, fields and a body in pieces."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Basic")]
            await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b"you"})

        client = self.start(application)
        (answer,) = self.answers(client)
        self.assertEqual((answer.status, answer.reason, answer.body), (401, "Unauthorized", b"not you"))
        self.assertEqual(answer.fields["www-authenticate"], "Basic")
        client.send(GET)
        self.assertEqual(len(self.engine.asked), 2)

    def test_a_slow_client_gets_a_long_answer_whole(self) -> None:
        """The application waits until the client has taken enough of it, and goes on then."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": 401})
            await send({"type": "websocket.http.response.body", "body": bytes(3 * UNSENT), "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b"end"})

        client = self.start(application, buffer=4096)
        self.assertFalse(self.task.done())
        data = b""
        for _ in range(1000):
            data += client.take()
            self.turn()
            if self.task.done():
                break
        self.assertTrue(self.task.done())
        (answer,) = parse_answers(data + client.take())
        self.assertEqual((answer.whole, len(answer.body)), (True, 3 * UNSENT + 3))

    def test_an_answer_that_does_not_end_is_cut(self) -> None:
        """It looks as it is."""

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.http.response.start", "status": 200, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"part", "more_body": True})

        (answer,) = self.answers(self.start(application))
        self.assertFalse(answer.whole)

    def test_an_application_that_does_neither_is_500(self) -> None:
        """Whether it returns, or fails."""

        async def returns(scope: Any, receive: Any, send: Any) -> None:
            await receive()

        async def fails(scope: Any, receive: Any, send: Any) -> None:
            raise ZeroDivisionError

        async def begins(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "websocket.http.response.start", "status": 200})

        async def injects(scope: Any, receive: Any, send: Any) -> None:
            await accept(receive, send, headers=[(b"x", b"a\r\nb: c")])

        for application in (returns, fails, begins, injects):
            client = self.start(application)
            self.assertEqual([answer.status for answer in self.answers(client)], [500])
            client.close()
            self.turn()
            self.nothing_left()

    def test_a_client_that_left_cannot_be_accepted(self) -> None:
        """The application is told so."""
        got = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            got.append(await receive())
            await send({"type": "websocket.accept"})

        client = self.start(application)
        client.connection.close()
        self.turn()
        self.assertEqual([event["code"] for event in got], [1006])
        self.assertIsInstance(self.raised[0], OSError)
        self.nothing_left()
