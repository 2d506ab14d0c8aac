"""HTTP exchanges as an ASGI application sees them: messages in, messages out, and every way in which they fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from graceful.application.deadlines import Takedown
from graceful.asgi.asgi_host import AsgiHost
from graceful.asgi.blocked_code import application_frame
from graceful.web.body_stream import HIGH
from graceful.web.received_bodies import READ, READ_OF_BODY
from graceful.web.sending_half import ROOM
from tests.fast.asgi.doubles import AsgiCase, Message, Receive, Send, answer, answering
from tests.fast.doubles import CONTINUE, EXPECT, GET, HOST, MIB, get, parse_answers, post

CHUNKED = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
STREAM = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}


class ClientDisconnect(Exception):
    """What frameworks raise when a client has left."""


def piece(body: bytes, more: bool = True) -> Message:
    """A message with a piece of an answer."""
    return {"type": "http.response.body", "body": body, "more_body": more}


class AnswerTests(AsgiCase):
    """What an application sends."""

    def test_an_answer_in_one_piece_has_its_length(self) -> None:
        """An answer in one piece has its length, and the connection can be used again."""
        self.serve(answering(b"hello", headers=[(b"x-one", b"1")]))
        client = self.connect(get(1) + get(2))
        answers = parse_answers(client.take())
        self.assertEqual([one.body for one in answers], [b"hello", b"hello"])
        self.assertEqual((answers[0].fields["x-one"], answers[0].fields["content-length"]), ("1", "5"))

    def test_a_streamed_answer_arrives_piece_by_piece(self) -> None:
        """Each piece of a stream is at the client before the next one is made."""
        gates = [asyncio.Event(), asyncio.Event()]

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            await send(piece(b""))
            await gates[0].wait()
            await send(piece(b"one"))
            await gates[1].wait()
            await send(piece(b"two", False))

        self.serve(application)
        client = self.connect(GET)
        self.assertTrue(client.take().endswith(b"\r\n\r\n"))
        gates[0].set()
        self.turn()
        self.assertEqual(client.take(), b"3\r\none\r\n")
        gates[1].set()
        self.turn()
        self.assertEqual(client.take(), b"3\r\ntwo\r\n0\r\n\r\n")
        self.assertEqual(self.engine.site.register.exchanges, {})

    def test_answers_without_a_body_have_none(self) -> None:
        """HEAD, 204 and 304 have no body, whatever the application sends."""
        self.serve(answering(b"hello"))
        head = self.get(GET.replace(b"GET", b"HEAD"), "HEAD")
        self.assertEqual((head.body, head.fields["content-length"]), (b"", "5"))
        for status in (204, 304):
            self.serve(answering(b"hello", status=status))
            self.assertEqual(self.get().body, b"")

    def test_trailers_are_sent_to_clients_that_take_them(self) -> None:
        """Trailers come behind a chunked body, for a client that has asked for them; else they are dropped."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send({**STREAM, "headers": [(b"trailer", b"x-sum")], "trailers": True})
            await send(piece(b"one"))
            await send(piece(b"", False))
            await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"5")]})

        self.serve(application)
        client = self.connect(b"GET / HTTP/1.1\r\n" + HOST + b"TE: trailers\r\n\r\n")
        data = client.take()
        self.assertTrue(data.endswith(b"3\r\none\r\n0\r\nx-sum: 5\r\n\r\n"), data)
        self.assertIn(b"Trailer: x-sum\r\n", data)
        self.assertTrue(self.connect(GET).take().endswith(b"3\r\none\r\n0\r\n\r\n"))
        self.assertEqual(self.reports.kept, [])

    def test_a_trailer_that_would_frame_the_answer_is_refused(self) -> None:
        """A length among the trailers is an error of the application's, and the answer is cut."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send({**STREAM, "trailers": True})
            await send(piece(b"one", False))
            await send({"type": "http.response.trailers", "headers": [(b"content-length", b"5")]})

        self.serve(application)
        client = self.connect(b"GET / HTTP/1.1\r\n" + HOST + b"TE: trailers\r\n\r\n")
        self.assertEqual([one.whole for one in parse_answers(client.take())], [False])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_a_slow_client_holds_its_sender_back(self) -> None:
        """`send` returns only when the client has taken what waits, so memory is bounded, and then it goes on."""
        sent = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            for number in range(64):
                await send(piece(b"x" * (MIB // 4), number < 63))
                sent.append(number)

        self.serve(application)
        client = self.connect(GET, buffer=4096)
        held = client.connection.write_token.held
        self.assertLess(len(sent), 4)
        self.assertLess(held, ROOM + MIB // 2)
        total = 0
        for _ in range(10_000):
            total += len(client.take(65536))
            self.assertLess(client.connection.write_token.held, ROOM + MIB // 2)
            self.turn()
            if len(sent) == 64 and not client.connection.write_token.held:
                break
        total += len(client.take())
        self.assertGreater(total, 16 * MIB)

    def test_the_scope_tells_of_the_request(self) -> None:
        """The scope has path, query and header names as the specification wants them."""
        seen: list[Message] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            seen.append(scope)
            await answer(send)

        self.serve(application)
        self.get(b"GET /a%20b/%C3%A9?x=%20 HTTP/1.1\r\nX-Upper: V\r\n" + HOST + b"\r\n")
        scope = seen[0]
        self.assertEqual((scope["path"], scope["raw_path"]), ("/a b/é", b"/a%20b/%C3%A9"))
        self.assertEqual((scope["query_string"], scope["root_path"], scope["scheme"]), (b"x=%20", "", "http"))
        self.assertEqual(scope["headers"], [(b"x-upper", b"V"), (b"host", b"a")])
        self.assertEqual((scope["client"], scope["server"]), (("192.0.2.1", 50000), ("198.51.100.1", 8080)))
        self.assertNotIn("state", scope)


class RequestTests(AsgiCase):
    """What an application receives."""

    def setUp(self) -> None:
        """Serve an application that notes what it gets."""
        super().setUp()
        self.got: list[Message] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.serve(self.note)

    async def note(self, scope: Message, receive: Receive, send: Send) -> None:
        """Note each message up to the end of the body, and answer with the number of bytes."""
        more, size = True, 0
        while more:
            await self.reads.wait()
            message = await receive()
            self.got.append(message)
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await answer(send, b"%d" % size)

    def test_a_request_without_a_body_has_one_message(self) -> None:
        """A request without a body is one message."""
        self.assertEqual(self.get().body, b"0")
        self.assertEqual(self.got, [{"type": "http.request", "body": b"", "more_body": False}])

    def test_a_body_is_read_while_it_arrives(self) -> None:
        """The application has the first piece before the client has sent the last."""
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        self.assertEqual([(one["body"], one["more_body"]) for one in self.got], [(b"one", True)])
        client.send(b"3\r\ntwo\r\n0\r\n\r\n")
        self.turn()
        self.assertEqual(b"".join(one["body"] for one in self.got), b"onetwo")
        self.assertEqual(parse_answers(client.take())[0].body, b"6")

    def test_a_body_below_a_tree_comes_whole(self) -> None:
        """Where the body is complete before the handler is known, small and spooled bodies are read as well."""
        self.serve(self.note, streams=False)
        self.assertEqual(self.get(post(5)).body, b"5")
        client = self.engine.connect()
        client.send(post(200_000))
        self.engine.disk.work()
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].body, b"200000")
        self.assertGreater(len(self.got), 3)

    def test_a_slow_application_stops_the_client(self) -> None:
        """What the application does not read stays in the kernel, and memory is bounded."""
        self.reads.clear()
        client = self.engine.connect()
        data, body = post(4 * MIB), 0
        while data:
            try:
                sent = client.end.send(data)
            except BlockingIOError:
                if not self.engine.turn():
                    break
                continue
            data, body = data[sent:], body + sent
            self.turn()
        self.assertTrue(data, "the server has taken the whole body")
        exchange = client.connection.write_token.current
        assert exchange is not None
        self.assertLessEqual(exchange.received, HIGH + READ_OF_BODY)
        self.reads.set()
        while data:
            self.turn()
            try:
                data = data[client.end.send(data) :]
            except BlockingIOError:
                pass
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].body, b"%d" % (4 * MIB))

    def test_only_a_body_under_way_is_read_in_large_pieces(self) -> None:
        """Its end, and a client that leaves in it, end that."""
        for ends in (True, False):
            client = self.connect(CHUNKED + b"3\r\none\r\n")
            self.assertEqual(client.connection.read_size, READ_OF_BODY)
            if ends:
                client.send(b"0\r\n\r\n")
            else:
                client.end.close()
            self.turn()
            self.assertEqual(client.connection.read_size, READ)

    def test_continue_is_said_at_the_first_receive(self) -> None:
        """A client that waits for 100 Continue gets it when the application begins to read, and not before."""
        self.reads.clear()
        client = self.connect(EXPECT)
        self.assertEqual(client.take(), b"")
        self.reads.set()
        self.turn()
        self.assertEqual(client.take(), CONTINUE)
        client.send(b"hello")
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].body, b"5")

    def test_continue_is_not_said_by_an_application_that_does_not_read(self) -> None:
        """An answer without a look at the body comes without 100 Continue, and ends the connection."""
        self.serve(answering(b"no", status=403))
        client = self.connect(EXPECT)
        (said,) = parse_answers(client.take())
        self.assertEqual((said.status, said.fields["connection"]), (403, "close"))

    def test_two_receives_at_once_each_get_a_message(self) -> None:
        """Two that wait for messages are both served, and no message is lost or told twice."""
        got: list[Message] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            got.extend(await asyncio.gather(receive(), receive()))
            await answer(send)

        self.serve(application)
        client = self.connect(CHUNKED)
        client.send(b"3\r\none\r\n")
        self.turn()
        client.send(b"3\r\ntwo\r\n0\r\n\r\n")
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].status, 200)
        self.assertEqual(sorted(one["body"] for one in got), [b"one", b"two"])

    def test_a_pipelined_request_waits_for_its_turn(self) -> None:
        """A request behind one whose body is read while it arrives is answered second."""
        client = self.connect(post(5) + post(7) + GET)
        self.assertEqual([one.body for one in parse_answers(client.take())], [b"5", b"7", b"0"])

    def test_a_request_that_the_application_reads_does_not_move(self) -> None:
        """A request whose body the application has begun to read stays in this process, and so does one behind it."""
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        self.assertFalse(client.connection.receiver.settled())
        client.send(b"0\r\n\r\n")
        self.turn()
        self.assertTrue(client.connection.receiver.settled())

    def test_a_request_that_may_move_is_complete_first(self) -> None:
        """While connections move to a successor, a request comes to the application with its whole body."""
        self.patch(self.engine.site, "mover", SimpleNamespace(takes=lambda one: False, holds=lambda one: False))
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        self.assertEqual(self.got, [])
        client.send(b"0\r\n\r\n")
        self.turn()
        self.assertEqual([one["body"] for one in self.got], [b"one"])

    def test_a_body_that_is_none_is_refused(self) -> None:
        """A broken chunk is answered with 400, and the application is told that the rest will not come."""
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        client.send(b"zz\r\n")
        self.turn()
        (said,) = parse_answers(client.take())
        self.assertEqual((said.status, said.fields["connection"]), (400, "close"))
        client.close()
        self.assertEqual(self.got[-1]["type"], "http.disconnect")
        self.assertEqual(self.engine.site.register.exchanges, {})

    def test_a_client_that_stops_in_its_body_is_gone(self) -> None:
        """An end of input in a body ends the connection, and the application is told."""
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        client.finish()
        self.turn()
        self.assertEqual(self.got[-1]["type"], "http.disconnect")
        self.assertEqual((client.take(), client.eof), (b"", True))
        self.assertEqual(self.engine.site.register.exchanges, {})

    def test_a_connection_that_breaks_in_its_body_is_told(self) -> None:
        """A connection that is closed in the middle of a body tells the application, and leaves nothing behind."""
        client = self.connect(CHUNKED + b"3\r\none\r\n")
        client.connection.close(reset=True)
        self.turn()
        self.assertEqual(self.got[-1]["type"], "http.disconnect")
        self.assertEqual((self.engine.site.register.exchanges, len(self.host.tasks)), ({}, 0))

    def test_an_unread_body_does_not_meet_the_next_request(self) -> None:
        """An answer whose head went out before the body had come: the rest is thrown away, the next is answered."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            await send(piece(b"early"))
            await send(piece(b"", False))

        self.serve(application)
        client = self.connect(post(500_000)[:-400_000])
        self.assertTrue(client.take().endswith(b"0\r\n\r\n"))
        client.send(b"u" * 400_000 + GET)
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].body, b"early")


class LeavingTests(AsgiCase):
    """Clients that leave."""

    def test_a_client_that_leaves_is_told_to_the_application(self) -> None:
        """`receive` returns `http.disconnect`, and `send` raises an OSError."""
        seen: list[Any] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            seen.append(await receive())
            try:
                await answer(send)
            except OSError as error:
                seen.append(error)
                raise

        self.serve(application)
        client = self.connect(GET)
        client.close()
        self.turn()
        self.assertEqual(seen[0], {"type": "http.disconnect"})
        self.assertIsInstance(seen[1], OSError)
        self.assertEqual((self.reports.kept, self.engine.site.register.exchanges), ([], {}))

    def test_a_reader_that_leaves_frees_its_sender(self) -> None:
        """A sender that waits for a slow client gets an OSError when the client leaves."""
        seen: list[Any] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            try:
                while True:
                    await send(piece(b"x" * MIB))
            except OSError as error:
                seen.append(error)
                raise

        self.serve(application)
        client = self.connect(GET, buffer=4096)
        self.assertEqual(seen, [])
        client.close()
        self.turn()
        self.assertEqual((len(seen), len(self.host.tasks)), (1, 0))

    def test_a_half_closed_client_gets_its_answer(self) -> None:
        """A client that will send nothing more is answered."""
        gate = asyncio.Event()

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await gate.wait()
            await answer(send, b"late")

        self.serve(application)
        client = self.connect(GET)
        client.finish()
        gate.set()
        self.turn()
        self.assertEqual(parse_answers(client.take())[0].body, b"late")

    def test_the_end_of_input_in_a_stream_means_gone(self) -> None:
        """A closed browser tab says only that it will send nothing more: a stream between two pieces ends."""
        seen: list[Message] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            await send(piece(b"one"))
            await receive()
            seen.append(await receive())

        self.serve(application)
        client = self.connect(GET)
        client.finish()
        self.turn()
        self.assertEqual(seen, [{"type": "http.disconnect"}])

    def test_an_application_need_not_answer_a_client_that_has_left(self) -> None:
        """Told that the client sends nothing more, it returns or raises: its answer ends, without a report."""
        for begins in (False, True):
            for left in (None, ClientDisconnect()):

                async def application(
                    scope: Message, receive: Receive, send: Send, begins: bool = begins, left: Any = left
                ) -> None:
                    if begins:
                        await send({**STREAM, "headers": [(b"content-length", b"9")]})
                        await send(piece(b"one"))
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    if left is not None:
                        raise left

                self.serve(application)
                client = self.connect(GET)
                client.connection.write_token.end_of_input()  # seen while bytes waited: the connection stays
                for session in self.host.tasks.working().values():
                    session.job.wake()  # type: ignore[attr-defined]
                self.turn()
                self.assertNotIn(b"500", client.take())
                self.assertEqual((self.reports.kept, client.eof), ([], True))
                self.assertEqual((self.engine.site.register.exchanges, len(self.host.tasks)), ({}, 0))


class FaultTests(AsgiCase):
    """Applications that fail, or do not keep to the protocol."""

    def check(self, application: Any, error: type[BaseException], status: int = 500) -> None:
        """An application is answered for with a status, and its error is reported."""
        self.serve(application)
        client = self.connect(GET)
        self.assertEqual(parse_answers(client.take())[0].status, status)
        client.close()
        self.assertEqual([type(one) for _, one in self.reports.kept], [error])
        self.flushLoggedErrors(error)
        self.assertEqual((self.engine.site.register.exchanges, len(self.host.tasks)), ({}, 0))

    def test_an_application_that_raises_is_answered_for_with_500(self) -> None:
        """An exception is 500, with a report."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            raise KeyError("a")

        self.check(application, KeyError)

    def test_an_application_that_does_not_answer_is_answered_for_with_500(self) -> None:
        """Returning without an answer, or with its start alone, is 500."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)

        self.check(application, RuntimeError)

    def test_a_body_that_is_not_ended_is_cut(self) -> None:
        """An application that raises or returns in the middle of a body leaves it visibly short."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send(STREAM)
            await send(piece(b"one"))
            if scope["path"] == "/1":
                raise KeyError("a")

        self.serve(application)
        for number, error in ((1, KeyError), (2, RuntimeError)):
            client = self.connect(get(number))
            (said,) = parse_answers(client.take())
            self.assertEqual((said.body, said.whole, client.eof), (b"one", False, True))
            self.flushLoggedErrors(error)

    def test_messages_out_of_order_are_refused(self) -> None:
        """A body before its start, a second start, and anything behind the end raise in the application."""
        errors: list[str] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            start = {"type": "http.response.start", "status": 200}
            for message in (
                piece(b"early"),
                start,
                start,
                piece(b"all", False),
                piece(b"late"),
                {"type": "nonsense"},
            ):
                try:
                    await send(message)
                except RuntimeError as error:
                    errors.append(str(error))

        self.serve(application)
        self.assertEqual(self.get().body, b"all")
        self.assertEqual(len(errors), 4)
        self.assertIn("expected http.response.start", errors[0])
        self.assertIn("the answer is complete", errors[2])

    def test_a_header_that_could_split_the_answer_is_refused(self) -> None:
        """A line break in a header is an error of the application's."""
        self.check(answering(headers=[(b"x", b"a\r\nb: c")]), ValueError)

    def test_text_for_bytes_is_refused(self) -> None:
        """Headers and bodies are bytes."""
        self.check(answering(headers=[("x", "y")]), TypeError)  # type: ignore[list-item]
        self.reports.kept.clear()
        self.check(answering("text"), TypeError)  # type: ignore[arg-type]

    def test_what_fails_behind_the_answer_is_reported(self) -> None:
        """An exception behind a complete answer is reported, and the client keeps its answer."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await answer(send, b"all")
            raise KeyError("late")

        self.check(application, KeyError, 200)


class HostTests(AsgiCase):
    """What the server knows of its tasks."""

    def test_code_of_the_application_is_told_from_the_servers(self) -> None:
        """So a takedown knows whether it may raise an exception in a loop that is blocked."""
        found = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            ident = threading.get_ident()
            watch = threading.Thread(target=lambda: found.append(application_frame(ident) is not None))
            watch.start()
            watch.join()
            await answer(send)

        self.serve(application)
        self.get()
        self.assertEqual(found, [True])

    def test_an_exchange_is_known_while_its_task_works(self) -> None:
        """A task works for its exchange from the beginning until the application returns, also behind the answer."""
        gate = asyncio.Event()

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await answer(send, b"all")
            await gate.wait()

        resource = self.serve(application)
        client = self.connect(GET)
        self.assertEqual(parse_answers(client.take())[0].body, b"all")
        (exchange,) = self.host.working()
        self.assertTrue(resource.works_for(exchange))
        self.assertIn("await gate.wait()", self.host.working()[exchange].stack())
        self.assertIn(exchange.id, self.engine.site.register.exchanges)
        gate.set()
        self.turn()
        self.assertEqual((self.host.working(), self.engine.site.register.exchanges), ({}, {}))

    def test_an_exception_that_comes_late_leaves_no_exchange_behind(self) -> None:
        """One of a takedown that meets the end of a task does not keep a drain from its end."""

        class Late(dict[Any, Any]):
            def copy(self) -> Any:
                raise Takedown

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            (exchange,) = self.host.working()
            exchange.hooks = Late()  # type: ignore[assignment]
            await answer(send, b"all")

        self.serve(application)
        self.assertEqual(self.get().body, b"all")
        self.turn()
        self.assertEqual((self.host.working(), self.engine.site.register.exchanges), ({}, {}))

    def test_a_request_whose_client_left_early_does_not_begin(self) -> None:
        """An exchange whose client has left before the loop came round is not given to the application."""
        asked: list[Message] = []

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            asked.append(scope)

        self.serve(application)
        client = self.engine.connect()
        client.send(GET)
        client.close()
        self.turn()
        self.assertEqual([one for one in asked if one["type"] == "http"], [])
        self.assertEqual((len(self.host.tasks), self.engine.site.register.exchanges), (0, {}))

    def test_a_hook_of_the_application_runs_in_the_loop(self) -> None:
        """A coroutine function is run, and what it raises is logged."""
        ran: list[int] = []

        async def hook() -> None:
            ran.append(1)
            raise KeyError("a")

        self.serve(answering(b"a"))
        self.get()
        self.host.tell(hook)
        self.turn()
        self.assertEqual((ran, len(self.flushLoggedErrors(KeyError))), ([1], 1))

    def test_a_blocked_loop_is_logged_once(self) -> None:
        """A loop that does not come round is named in the log once, and so is its going on."""
        host: AsgiHost = self.host
        self.serve(answering(b"a"))
        self.get()
        now = [100.0]
        self.patch(self.loop, "_clock", lambda: now[0])
        host.look(0)
        now[0] += 6
        host.look(0)
        self.assertTrue(host._blocked)
        self.loop.turn()
        host.look(0)
        self.assertFalse(host._blocked)


class HandOver:
    """Takes what an answer's head offers, and does with it what the test says.

    :param take: is given the exchange; returns what begins the answer, or None.
    """

    def __init__(self, take: Callable[[Any], Callable[[], object] | None]) -> None:
        self.take = take

    def takes(self, name: str) -> bool:
        return name.lower() == "x-accel-redirect"

    def __call__(self, exchange: Any, result: Any) -> Callable[[], object] | None:
        exchange.offer = None
        return self.take(exchange)


class HandOverTests(AsgiCase):
    """Answers whose head offers them to the event loop."""

    def offering(self, *behind: Message, fails: bool = False) -> None:
        """Serve an application that sends such a head, and more behind it."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-accel-redirect", b"/x")]})
            for message in behind:
                await send(message)
            if fails:
                raise ValueError("behind the answer")

        self.serve(application)

    def test_the_event_loop_gives_the_answer(self) -> None:
        """With the head, before any body, which is thrown away; and it releases the exchange."""
        waiting: list[Any] = []
        self.engine.site.hand_over = HandOver(lambda exchange: lambda: waiting.append(exchange))
        self.offering(piece(b"for nobody"), piece(b"", False))
        client = self.connect(GET)
        (exchange,) = waiting
        self.assertEqual((client.take(), exchange.released), (b"", False))
        exchange.start("200 OK", [])
        exchange.finish(b"of the loop")
        exchange.release()
        self.turn()
        (got,) = parse_answers(client.take(), "GET")
        self.assertEqual((got.body, "x-accel-redirect" in got.fields), (b"of the loop", False))

    def test_what_fails_behind_it_cuts_nothing(self) -> None:
        """It is reported, and the exchange is left to the event loop."""
        waiting: list[Any] = []
        self.engine.site.hand_over = HandOver(lambda exchange: lambda: waiting.append(exchange))
        self.offering(fails=True)
        client = self.connect(GET)
        (exchange,) = waiting
        self.assertEqual((client.take(), exchange.released, exchange.ended), (b"", False, 0.0))
        self.assertEqual([kind for kind, _ in self.reports.kept], ["error"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        exchange.start("200 OK", [])
        exchange.finish(b"of the loop")
        exchange.release()
        self.assertEqual(parse_answers(client.take(), "GET")[0].body, b"of the loop")

    def test_a_short_answer_that_is_sent_at_once_is_complete(self) -> None:
        """The task releases the exchange, and the connection goes on."""

        def send(exchange: Any) -> Callable[[], object]:
            exchange.start("200 OK", [])
            exchange.finish(b"short")
            return self.fail

        self.engine.site.hand_over = HandOver(send)
        self.offering(piece(b"for nobody", False))
        client = self.connect(GET + GET)
        self.assertEqual([one.body for one in parse_answers(client.take())], [b"short", b"short"])
        self.assertEqual(self.engine.site.register.in_flight(), [])

    def test_what_is_not_taken_the_application_sends(self) -> None:
        """As on a server that has no event loop for it."""
        self.engine.site.hand_over = HandOver(lambda exchange: None)
        self.offering(piece(b"its own", False))
        self.assertEqual(self.get().body, b"its own")
