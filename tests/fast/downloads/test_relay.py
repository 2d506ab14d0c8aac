"""A URL on its way to a client: back-pressure, every way to break off, and every way to go on after it."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import ConnectionRefusedError, TCPTimedOutError
from twisted.python.failure import Failure
from twisted.web._newclient import ResponseFailed, ResponseNeverReceived
from zope.interface.verify import verifyObject

from graceful.downloads.headers import ApplicationHead
from graceful.downloads.relay import PAUSE_ABOVE, Relay
from graceful.downloads.rest_of_file import PROGRESS, RETRY_DELAYS
from graceful.takedown.last_answer import take_down
from graceful.web.exchange import DOWNLOADING, Exchange
from graceful.web.interfaces import IAnswerer, IHandler
from graceful.web.sending_half import UNSENT
from tests.fast.doubles import GET, HOST, Client, get, parse_answers
from tests.fast.downloads.downloading import DownloadCase, Question, Response

URL = "http://librarian/x"
SILENCE = 60.0
STRONG = (("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
OLD = b"GET / HTTP/1.0\r\n" + HOST + b"\r\n"
PIECE = b"0123456789" * 1000


class Case(DownloadCase):
    """Clients that get what an upstream has."""

    def begin(
        self, data: bytes = GET, answer: ApplicationHead | None = None, **options: Any
    ) -> tuple[Client, Exchange]:
        """A client that asks for it; the upstream has been asked."""
        client, exchange = self.ask(data, **options)
        self.start_relay(exchange, URL, answer)
        self.engine.turn()
        return client, exchange

    @property
    def question(self) -> Question:
        """The last request to the upstream."""
        return self.upstream.asked[-1]

    def got(self, client: Client, method: str = "GET") -> Any:
        """The one answer that a client has got."""
        self.engine.turn()
        (answer,) = parse_answers(client.take(), method)
        return answer

    def flowing(
        self, *fields: tuple[str, str], length: Any = 100_000, data: bytes = GET, **options: Any
    ) -> tuple[Client, Response]:
        """A client, and a response whose head it has."""
        client, _ = self.begin(data, **options)
        return client, self.question.answer(200, *(fields or STRONG), length=length)

    def fill(self, response: Response) -> int:
        """Send until there is too much; how many bytes that is."""
        for number in range(100):
            if response.paused:
                return number * len(PIECE)
            response.data(PIECE)
        raise AssertionError("it is never paused")

    def relay(self) -> Relay:
        """The one that there is."""
        (relay,) = self.relays._running
        return relay

    def tick(self, seconds: float) -> None:
        """Let time go by, second by second."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            self.relays.tick(self.clock.seconds())
            self.engine.turn()


class AnswerTests(Case):
    """Upstreams that answer well."""

    def test_passes_status_fields_and_body(self) -> None:
        """Status, fields, length and bytes are the upstream's; the connections go on."""
        client, exchange = self.begin()
        self.assertEqual((self.question.method, self.question.url), ("GET", URL))
        self.assertEqual((exchange.phase, exchange.download), (DOWNLOADING, True))
        response = self.question.answer(200, *STRONG, ("Content-Type", "a/b"), length=6)
        for piece in (b"one", b"two"):
            response.data(piece)
        response.end()
        answer = self.got(client)
        self.assertEqual((answer.status, answer.body, answer.whole, client.eof), (200, b"onetwo", True, False))
        self.assertEqual((answer.fields["content-type"], answer.fields["etag"]), ("a/b", '"v1"'))
        self.assertEqual((answer.fields["content-length"], answer.fields["accept-ranges"]), ("6", "bytes"))
        self.assertEqual((exchange.sent, response.closed), (6, False))
        self.leave(client)

    def test_sends_head_before_the_body(self) -> None:
        """The head goes out when it is there, not with the first byte of the body."""
        client, _ = self.flowing()
        self.engine.turn()
        self.assertTrue(client.take().startswith(b"HTTP/1.1 200 OK\r\n"))
        self.leave(client)

    def test_passes_every_status(self) -> None:
        """Every status passes through, with its body."""
        for code in (203, 301, 403, 404, 500, 503):
            client, _ = self.begin()
            response = self.question.answer(code, length=4)
            response.data(b"text")
            response.end()
            self.assertEqual(self.got(client)[::3], (code, b"text"))
            self.leave(client)

    def test_passes_answers_without_body(self) -> None:
        """Answers without a body, or with an empty one, pass, and the upstream's connection can be used again."""
        for code, length in ((204, None), (304, None), (200, "0"), (404, "0")):
            client, _ = self.begin()
            response = self.question.answer(code, ("ETag", '"v1"'), length=0)
            answer = self.got(client)
            self.assertEqual((answer.status, answer.body, answer.whole), (code, b"", True))
            self.assertEqual((answer.fields.get("content-length"), response.closed), (length, False))
            self.assertFalse(client.eof)
            self.leave(client)

    def test_asks_head_for_head(self) -> None:
        """HEAD asks for the head; its length is that of the body that it is about."""
        for length in ("1234", None):
            client, _ = self.begin(self.request(method="HEAD"))
            self.assertEqual(self.question.method, "HEAD")
            fields = [("Content-Length", length)] if length is not None else []
            response = self.question.answer(200, *fields, length=0)
            answer = self.got(client, "HEAD")
            self.assertEqual((answer.status, answer.fields.get("content-length")), (200, length))
            self.assertEqual((client.eof, response.closed), (False, False))
            self.leave(client)

    def test_asks_get_for_post(self) -> None:
        """The upstream is asked by GET, also if the client's method was POST."""
        client, _ = self.begin(self.request(method="POST"))
        self.assertEqual(self.question.method, "GET")
        self.leave(client)

    def test_body_of_unknown_length_is_chunked(self) -> None:
        """A body of unknown length is chunked; to HTTP/1.0 it ends with the connection."""
        for data, eof, whole in ((GET, False, True), (OLD, True, None)):
            client, response = self.flowing(("X-A", "b"), length=None, data=data)
            response.data(b"one")
            response.end_of_connection()
            answer = self.got(client)
            self.assertEqual((answer.body, answer.whole, client.eof), (b"one", whole, eof))
            self.assertEqual("transfer-encoding" in answer.fields, not eof)
            self.leave(client)

    def test_passes_a_range(self) -> None:
        """A range is asked for and answered."""
        client, _ = self.begin(self.request(range="bytes=5-9"))
        self.assertEqual(self.question.fields["range"], "bytes=5-9")
        response = self.question.answer(206, *STRONG, ("Content-Range", "bytes 5-9/100"), length=5)
        response.data(b"56789")
        response.end()
        answer = self.got(client)
        self.assertEqual((answer.status, answer.body), (206, b"56789"))
        self.assertEqual(answer.fields["content-range"], "bytes 5-9/100")
        self.leave(client)

    def test_unrequested_part_is_502(self) -> None:
        """A part in place of the whole is 502: a client would take it for the whole."""
        client, _ = self.begin()
        response = self.question.answer(206, ("Content-Range", "bytes 5-9/100"), length=5)
        self.assertEqual((self.got(client).status, response.closed), (502, True))
        self.leave(client)

    def test_passes_whole_file_for_a_range(self) -> None:
        """The whole in place of a part is the upstream's right."""
        client, _ = self.begin(self.request(range="bytes=5-9"))
        self.question.answer(200, length=3).data(b"abc")
        self.assertEqual(self.got(client).status, 200)
        self.leave(client)

    def test_application_fields_win(self) -> None:
        """The application's fields and status win over the upstream's."""
        client, _ = self.begin(answer=ApplicationHead(201, (("Content-Type", "own/own"), ("Set-Cookie", "a=1"))))
        self.question.answer(200, ("Content-Type", "a/b"), ("X-B", "c"), length=0)
        answer = self.got(client)
        self.assertEqual((answer.status, answer.fields["content-type"]), (201, "own/own"))
        self.assertEqual((answer.fields["set-cookie"], answer.fields["x-b"]), ("a=1", "c"))
        self.leave(client)

    def test_answers_pipelined_requests_behind_it(self) -> None:
        """Pipelined requests are answered behind it, and the client's connection is theirs by then."""
        client, _ = self.begin(get(0) + get(1) + get(2))
        response = self.question.answer(200, length=3)
        response.data(b"abc")

        def producer() -> None:
            """Return the rest that the next answer waits behind."""

        def answer(exchange: Exchange) -> None:
            exchange.connection.drained = producer

        self.engine.handler.answer = answer
        response.end()
        self.engine.turn()
        self.assertEqual(len(self.engine.asked), 2)
        self.assertIs(client.connection.drained, producer)
        self.engine.handler.answer = None
        self.answer(self.engine.asked[1])
        self.answer(self.engine.asked[2])
        self.leave(client)

    def test_relays_in_order(self) -> None:
        """Several, one behind the other."""
        client, _ = self.begin(get(0) + get(1))
        self.question.answer(200, length=3).data(b"one")
        data = b""
        self.upstream.asked.clear()
        (relay,) = self.relays._running
        assert relay._body is not None
        relay._body.transport.end()  # type: ignore[union-attr]
        data += client.take()
        self.start_relay(self.engine.asked[1], URL)
        self.engine.turn()
        response = self.question.answer(200, length=3)
        response.data(b"two")
        response.end()
        self.engine.turn()
        self.assertEqual([answer.body for answer in parse_answers(data + client.take())], [b"one", b"two"])
        self.leave(client)


class PressureTests(Case):
    """A slow client pauses the upstream."""

    def test_slow_client_pauses_the_upstream(self) -> None:
        """More than so much is never held, however fast the upstream is, and all of it arrives."""
        total = 3_000_000
        client, response = self.flowing(length=total, buffer=5000)
        left, most, pauses, data = total, 0, 0, b""
        while left:
            while left and not response.paused:
                count = min(left, 65536)
                response.data(b"x" * count)
                left -= count
                most = max(most, client.connection.write_token.held)
            pauses += response.paused
            while response.paused:
                data += client.take(50_000)
                self.engine.turn()
        self.assertLess(most, PAUSE_ABOVE + 65536 + 100)
        self.assertGreater(pauses, 5)
        response.end()
        self.engine.turn()
        data += client.take()
        self.assertEqual(parse_answers(data)[0].body, b"x" * total)
        self.leave(client)

    def test_kernel_holds_little_during_the_relay(self) -> None:
        """While it lasts the kernel takes little ahead; afterwards as much as ever."""
        client, _ = self.begin()
        client.socket.family = socket.AF_INET
        response = self.question.answer(200, length=3)
        self.assertEqual(client.socket.low, [UNSENT])
        response.data(b"abc")
        response.end()
        self.assertEqual(client.socket.low, [UNSENT, 0])
        self.leave(client)

    def test_paused_upstream_may_be_silent(self) -> None:
        """An upstream that is paused does not time out."""
        client, response = self.flowing(length=1_000_000, buffer=5000)
        self.fill(response)
        self.tick(SILENCE * 2)
        self.assertFalse(response.closed)
        client.take()
        self.engine.turn()
        self.assertFalse(response.paused)
        self.tick(SILENCE - 1)
        self.assertFalse(response.closed)
        client.close()
        self.nothing_left()

    def test_client_that_takes_nothing_is_cut(self) -> None:
        """A client that takes nothing for too long is cut, and the upstream's request ended."""
        client, response = self.flowing(length=1_000_000, buffer=5000)
        self.fill(response)
        self.clock.advance(self.engine.site.settings.send_timeout + 1)
        self.engine.sweep(self.clock.seconds())
        self.assertTrue(client.socket.reset and response.closed)
        self.nothing_left()

    def test_break_during_a_pause_is_resumed(self) -> None:
        """A resumed upstream is heard again, and timed again, though the client was behind when it broke."""
        client, response = self.flowing(length=1_000_000, buffer=5000)
        self.fill(response)
        response.end(whole=False)
        self.clock.advance(RETRY_DELAYS[0])
        client.take()
        self.engine.turn()
        self.assertEqual(len(self.upstream.asked), 2)
        self.tick(SILENCE + 1)
        self.assertTrue(self.question.cancelled)
        client.close()
        self.nothing_left()


class LeaveTests(Case):
    """Clients that leave: the upstream's request ends at once."""

    def test_client_leaves_while_the_upstream_is_asked(self) -> None:
        """While the upstream is asked."""
        client, _ = self.begin()
        client.connection.close()
        self.assertTrue(self.question.cancelled)
        self.nothing_left()

    def test_client_leaves_while_the_body_comes(self) -> None:
        """While the body comes; noticed by the connection, or by the next piece."""
        client, response = self.flowing()
        response.data(PIECE)
        client.connection.close()
        self.assertTrue(response.closed)
        self.nothing_left()
        client, response = self.flowing()
        client.socket.script.append(BrokenPipeError())
        response.data(PIECE)
        self.assertTrue(response.closed)
        response.data(PIECE)  # what was on its way already
        response.end(whole=False)
        self.nothing_left()

    def test_client_leaves_before_the_retry(self) -> None:
        """While the upstream has time to come back: it is not asked again."""
        client, response = self.flowing()
        response.data(PIECE)
        response.end(whole=False)
        client.connection.close()
        self.nothing_left()
        self.clock.advance(100)
        self.assertEqual(len(self.upstream.asked), 1)

    def test_client_leaves_while_the_rest_is_asked_for(self) -> None:
        """While it is asked for the rest."""
        client, response = self.flowing()
        response.data(PIECE)
        response.end(whole=False)
        self.clock.advance(RETRY_DELAYS[0])
        client.connection.close()
        self.assertTrue(self.question.cancelled)
        self.nothing_left()

    def test_client_leaves_while_the_head_is_sent(self) -> None:
        """In the moment in which the head goes out."""
        for length in (0, 100):
            client, _ = self.begin()
            client.socket.script.append(BrokenPipeError())
            response = self.question.answer(200, length=length)
            self.assertEqual(response.closed, length > 0)
            self.nothing_left()

    def test_client_leaves_while_the_body_ends(self) -> None:
        """In the moment in which the body ends."""
        client, response = self.flowing(("X-A", "b"), length=None)
        client.socket.script.append(BrokenPipeError())
        response.end()
        self.nothing_left()

    def test_takedown_ends_the_upstream_request(self) -> None:
        """The deadline: 503 before the head, a visible cut after it; and the upstream is let go in both."""
        client, exchange = self.begin()
        self.assertEqual(take_down(client.connection), [exchange])
        self.assertTrue(self.question.cancelled)
        self.assertEqual(self.got(client).status, 503)
        self.leave(client)
        client, response = self.flowing()
        response.data(PIECE)
        take_down(client.connection)
        self.assertTrue(response.closed)
        self.assertFalse(self.got(client).whole)
        self.nothing_left()


class HalfClosedTests(Case):
    """Clients that say that they will send nothing more; a closed browser tab says no more than that."""

    def test_half_closed_client_gets_the_rest(self) -> None:
        """While bytes flow it is only half a close: the rest is sent, and then the connection ends."""
        client, response = self.flowing(length=20_000)
        response.data(PIECE)
        client.finish()
        self.assertFalse(response.closed)
        response.data(PIECE)
        response.end()
        self.assertEqual((self.got(client).body, client.eof), (PIECE * 2, True))
        self.nothing_left()

    def test_half_closed_client_gets_its_answer(self) -> None:
        """A client that half-closes before the upstream has answered gets the whole answer."""
        for before in (True, False):
            client, exchange = self.ask()
            if before:
                client.finish()
            self.start_relay(exchange, URL)
            self.engine.turn()
            if not before:
                client.finish()
            self.tick(2)
            response = self.question.answer(200, length=len(PIECE))
            response.data(PIECE)
            response.end()
            self.assertEqual((self.got(client).body, client.eof), (PIECE, True))
            self.nothing_left()

    def test_half_closed_client_gets_the_rest_of_a_broken_upstream(self) -> None:
        """A client that half-closes while the upstream is to be asked for the rest gets the rest."""
        client, response = self.flowing(length=2 * len(PIECE))
        response.data(PIECE)
        response.end(whole=False)
        client.finish()
        self.clock.advance(RETRY_DELAYS[0])
        place = ("Content-Range", f"bytes {len(PIECE)}-{2 * len(PIECE) - 1}/{2 * len(PIECE)}")
        rest = self.question.answer(206, *STRONG, place, length=len(PIECE))
        rest.data(PIECE)
        rest.end()
        self.assertEqual((self.got(client).body, client.eof), (PIECE * 2, True))
        self.nothing_left()

    def test_half_closed_client_waits_for_a_silent_upstream_as_long_as_others(self) -> None:
        """An upstream that falls silent ends the answer after its limit, also if it is for a half-closed client."""
        client, response = self.flowing()
        response.data(PIECE)
        client.finish()
        self.tick(SILENCE - 1)
        self.assertFalse(response.closed)
        self.tick(2)
        self.assertTrue(response.closed)

    def test_half_closed_client_that_has_left_ends_the_upstream(self) -> None:
        """Sending shows that a client which has half-closed has in fact left."""
        client, response = self.flowing()
        client.finish()
        client.close()
        response.data(PIECE)
        self.engine.turn()
        self.assertTrue(response.closed)
        self.nothing_left()

    def test_half_closed_slow_client_is_kept(self) -> None:
        """A half-closed client that still has something to take is not closed."""
        client, response = self.flowing(length=1_000_000, buffer=5000)
        self.fill(response)
        client.finish()
        self.tick(5)
        self.assertFalse(response.closed)
        client.close()
        self.nothing_left()


class RefusedTests(Case):
    """Upstreams that cannot be used, before the first byte."""

    def refused(self, status: int, *words: str) -> None:
        """Check what the client and the log are told of the one download."""
        client = self.client
        self.assertEqual(self.got(client).status, status)
        self.assertTrue(client.eof)
        self.leave(client)
        (line,) = (line for line in self.lines if "graceful" in line or "exchange" in line)
        for word in words:
            self.assertIn(word, line)
        self.assertNotIn("Traceback", line)
        self.assertEqual(self.flushLoggedErrors(), [])

    def fails(self, error: Exception) -> None:
        """Begin one whose upstream fails so."""
        self.client, _ = self.begin()
        self.lines = self.logged(lambda: self.question.fail(error))

    def test_refused_or_broken_connection_is_502(self) -> None:
        """An upstream that refuses, or ends without an answer, is 502, and the log says which and why."""
        self.fails(ConnectionRefusedError("Connection refused"))
        self.refused(502, URL, "ConnectionRefusedError")
        self.fails(ResponseNeverReceived([Failure(ConnectionResetError("by peer"))]))
        self.refused(502, "ConnectionResetError: by peer")
        self.fails(ResponseFailed([Failure(ResponseNeverReceived([Failure(ValueError("deep"))]))]))
        self.refused(502, "ValueError: deep")

    def test_slow_connection_is_504(self) -> None:
        """An upstream that does not connect in time is 504."""
        for error in (TimeoutError("it does not connect within 5 s"), TCPTimedOutError()):
            self.fails(error)
            self.refused(504)

    def test_silent_upstream_is_504(self) -> None:
        """An upstream that takes the request, and says nothing for too long, is 504."""
        self.client, _ = self.begin()
        self.tick(SILENCE)
        self.assertFalse(self.question.cancelled)
        self.lines = self.logged(lambda: self.tick(1))
        self.assertTrue(self.question.cancelled)
        self.refused(504, "does not answer in time")

    def test_bad_url_is_502(self) -> None:
        """An invalid URL is 502."""
        self.upstream.trouble = ValueError("Invalid URI")
        clients: list[Client] = []
        self.lines = self.logged(lambda: clients.append(self.begin()[0]))
        (self.client,) = clients
        self.refused(502, "Invalid URI")

    def test_evil_fields_are_502(self) -> None:
        """Fields that must not be passed on are 502, with no traceback, and the connection is closed."""
        for fields in (
            (("X-A", "a\0b"),),
            (("Content-Length", "\xb2"),),
        ):
            head = fields[0][0] == "Content-Length"
            self.client, _ = self.begin(self.request(method="HEAD") if head else GET)
            responses: list[Response] = []
            self.lines = self.logged(lambda r=responses, f=fields: r.append(self.question.answer(200, *f, length=5)))
            self.assertTrue(responses[0].closed)
            if head:
                self.assertIn(b" 502 ", self.client.take())
                self.leave(self.client)
            else:
                self.refused(502, "must not be passed on")

    def test_evil_statuses_are_502(self) -> None:
        """Invalid statuses are 502."""
        for code in (99, 199, 1000, 0, -200):
            self.client, _ = self.begin()
            self.lines = self.logged(lambda code=code: self.question.answer(code, length=5))
            self.refused(502, "must not be passed on")

    def test_own_error_is_500_with_traceback(self) -> None:
        """A mistake of ours is a 500 with a traceback, and not a client that waits for ever."""
        client, _ = self.begin()

        def fail(*arguments: Any) -> None:
            raise ZeroDivisionError

        self.patch(Exchange, "start", fail)
        self.question.answer(200, length=5)
        self.assertEqual(self.got(client).status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.leave(client)


class ResumeTests(Case):
    """Upstreams that break off, and come back."""

    TOTAL = 100_000

    def broken(
        self, *fields: tuple[str, str], code: int = 200, length: Any = TOTAL, data: bytes = GET, size: int = 10_000
    ) -> Client:
        """A client whose upstream has broken off after this number of bytes."""
        client, _ = self.begin(data)
        response = self.question.answer(code, *(fields or STRONG), length=length)
        response.data(PIECE[:size])
        response.end(whole=False)
        return client

    def resumed(self, pause: float = RETRY_DELAYS[0]) -> Question:
        """Return what the upstream is asked after the delay."""
        before = len(self.upstream.asked)
        self.clock.advance(pause - 0.01)
        self.assertEqual(len(self.upstream.asked), before)
        self.clock.advance(0.02)
        self.assertEqual(len(self.upstream.asked), before + 1)
        return self.question

    def rest(self, first: int = 10_000, last: int = 99_999, total: int = TOTAL, tag: str = '"v1"') -> Any:
        """The fields of an answer with the rest."""
        return ("ETag", tag), ("Content-Range", f"bytes {first}-{last}/{total}")

    def cut(self, client: Client) -> None:
        """Check that the client's answer is cut, visibly."""
        answer = self.got(client)
        self.assertEqual((answer.status, answer.whole, client.eof), (200, False, True))
        self.leave(client)

    def test_asks_for_the_rest_of_the_same_file(self) -> None:
        """The upstream is asked for the rest of the same file; the client notices only a pause."""
        client = self.broken()
        question = self.resumed()
        self.assertEqual((question.method, question.url), ("GET", URL))
        self.assertEqual((question.fields["range"], question.fields["if-range"]), ("bytes=10000-99999", '"v1"'))
        response = question.answer(206, *self.rest(), length=90_000)
        for _ in range(9):
            response.data(PIECE)
        response.end()
        answer = self.got(client)
        self.assertEqual((answer.status, answer.body, answer.whole, client.eof), (200, PIECE * 10, True, False))
        self.leave(client)

    def test_resumes_a_part_to_its_end(self) -> None:
        """A part is resumed to its own end."""
        fields = (("ETag", '"v1"'), ("Content-Range", "bytes 500-29999/100000"))
        client = self.broken(*fields, code=206, length=29_500, data=self.request(range="bytes=500-29999"))
        question = self.resumed()
        self.assertEqual(question.fields["range"], "bytes=10500-29999")
        response = question.answer(206, *self.rest(10_500, 29_999), length=19_500)
        response.data(b"x" * 19_500)
        response.end()
        answer = self.got(client)
        self.assertEqual((answer.status, answer.body, answer.whole), (206, PIECE + b"x" * 19_500, True))
        self.leave(client)

    def test_does_not_repeat_the_clients_conditions(self) -> None:
        """The client's conditions were answered with the first byte: they are not asked again."""
        conditions = {"if-none-match": '"x"', "if-modified-since": "then", "accept": "a/b", "if-range": '"v1"'}
        self.broken(data=self.request(range="bytes=0-", **conditions))
        fields = self.resumed().fields
        self.assertEqual(
            {name: fields.get(name) for name in ("if-none-match", "if-modified-since", "accept", "if-range")},
            {"if-none-match": None, "if-modified-since": None, "accept": "a/b", "if-range": '"v1"'},
        )

    def test_retries_with_growing_delays_then_cuts(self) -> None:
        """A few tries, with growing pauses; then it is cut, and the log has said each step."""
        lines: list[str] = []
        clients: list[Client] = []
        lines += self.logged(lambda: clients.append(self.broken()))
        for pause in RETRY_DELAYS:
            question = self.resumed(pause)
            lines += self.logged(lambda q=question: q.fail(ConnectionRefusedError("Connection refused")))
        self.assertEqual(len(self.upstream.asked), 1 + len(RETRY_DELAYS))
        self.cut(clients[0])
        self.assertEqual(
            len([line for line in lines if "asked for the rest from byte 10000" in line]), len(RETRY_DELAYS)
        )
        self.assertIn("cut after 10000 bytes", lines[-1])
        self.assertEqual(sorted(RETRY_DELAYS), list(RETRY_DELAYS))

    def test_retries_after_upstream_errors(self) -> None:
        """An upstream that is back, but not well, gets another try; so does one that breaks off once more."""
        client = self.broken()
        self.assertTrue(self.resumed().answer(503, length=5).closed)
        response = self.resumed(RETRY_DELAYS[1]).answer(206, *self.rest(), length=90_000)
        response.data(PIECE)
        response.end(whole=False)
        question = self.resumed(RETRY_DELAYS[2])
        self.assertEqual(question.fields["range"], "bytes=20000-99999")
        response = question.answer(206, *self.rest(20_000), length=80_000)
        response.data(PIECE * 8)
        response.end()
        self.assertEqual(self.got(client).body, PIECE * 10)
        self.leave(client)

    def test_progress_resets_the_retries(self) -> None:
        """An upstream that has sent enough between two breaks has all its tries again."""
        total = 100 * PROGRESS
        client, _ = self.begin()
        response = self.question.answer(200, *STRONG, length=total)
        place = 0
        for _ in range(len(RETRY_DELAYS) + 3):
            for _ in range(17):
                response.data(b"x" * 65536)
                place += 65536
                client.take()
            response.end(whole=False)
            response = self.resumed().answer(206, *self.rest(place, total - 1, total), length=total - place)
        client.close()
        self.nothing_left()

    def test_cuts_when_the_file_has_changed(self) -> None:
        """A response that is not all the rest of the same file is never appended to the beginning."""
        for code, fields, length in (
            (200, STRONG, 100_000),
            (200, (("ETag", '"v2"'),), 100_000),
            (206, self.rest(tag='"v2"'), 90_000),
            (206, self.rest(tag='W/"v1"'), 90_000),
            (206, self.rest(tag=""), 90_000),
            (206, self.rest(first=9_999), 90_001),
            (206, self.rest(first=10_001), 89_999),
            (206, self.rest(first=0), 100_000),
            (206, self.rest(last=99_998), 89_999),
            (206, self.rest(last=100_000, total=100_001), 90_001),
            (206, self.rest(total=100_001), 90_000),
            (206, self.rest(), 89_999),
            (206, self.rest(), 90_001),
            (206, (("ETag", '"v1"'), ("Content-Range", "bytes 10000-99999/*")), 90_000),
            (206, (("ETag", '"v1"'), ("Content-Range", "pages 10000-99999/100000")), 90_000),
            (206, (("ETag", '"v1"'),), 90_000),
            (416, (("Content-Range", "bytes */5000"),), 0),
            (404, (), 9),
            (302, (("Location", "/"),), 0),
            (304, (), 0),
        ):
            client = self.broken()
            response = self.resumed().answer(code, *fields, length=length)
            self.assertTrue(response.closed, (code, fields))
            self.cut(client)

    def test_rest_may_have_unknown_length(self) -> None:
        """The rest may have no length besides its Content-Range."""
        client = self.broken()
        response = self.resumed().answer(206, *self.rest())
        response.data(PIECE * 9)
        response.end()
        self.assertEqual(self.got(client).body, PIECE * 10)
        self.leave(client)

    def test_rest_that_is_too_short_is_cut(self) -> None:
        """A rest that ends too early is cut visibly."""
        client = self.broken()
        response = self.resumed().answer(206, *self.rest())
        response.data(PIECE * 8)
        response.end()
        self.cut(client)

    def test_cuts_without_strong_validator_ranges_or_length(self) -> None:
        """Without a strong validator, without ranges, without a length: it is cut, visibly, and asked for nothing."""
        ranges = ("Accept-Ranges", "bytes")
        for fields, length in (
            ((ranges,), 100_000),
            ((("ETag", 'W/"v1"'), ranges), 100_000),
            ((("ETag", "v1"), ranges), 100_000),
            ((("ETag", '"v1"'),), 100_000),
            ((("ETag", '"v1"'), ("Accept-Ranges", "none")), 100_000),
            (STRONG, None),
        ):
            before = len(self.upstream.asked)
            client = self.broken(*fields, length=length)
            self.cut(client)
            self.clock.advance(100)
            self.assertEqual(len(self.upstream.asked), before + 1)

    def test_cuts_a_part_of_unclear_place(self) -> None:
        """A part whose place is unclear cannot be resumed, either."""
        for value in ("bytes 0-29999/*", "bytes 0-29998/100000", "bytes x", ""):
            client = self.broken(
                ("ETag", '"v1"'),
                ("Content-Range", value),
                code=206,
                length=30_000,
                data=self.request(range="bytes=0-29999"),
            )
            answer = self.got(client)
            self.assertEqual((answer.whole, client.eof), (False, True))
            self.leave(client)

    def test_cut_body_never_looks_whole(self) -> None:
        """A body that is cut never looks whole: not chunked, and not to HTTP/1.0, where the end would be its end."""
        client = self.broken(("X-A", "b"), length=None)
        self.assertEqual((self.got(client).whole, client.socket.reset), (False, False))
        self.leave(client)
        client = self.broken(("X-A", "b"), length=None, data=OLD)
        self.engine.turn()
        self.assertTrue(client.socket.reset)
        self.nothing_left()

    def test_sends_what_was_held_before_the_cut(self) -> None:
        """Bytes that were held at the cut still reach the client before the end."""
        client, response = self.flowing(("X-A", "b"), length=1_000_000, buffer=5000)
        sent = self.fill(response)
        response.end(whole=False)
        answer = self.got(client)
        self.assertEqual((len(answer.body), answer.whole, client.eof), (sent, False, True))
        self.leave(client)

    def test_silent_upstream_is_closed_and_asked_again(self) -> None:
        """An upstream that falls silent in the middle has broken off: its connection is closed, it is asked again."""
        client, response = self.flowing()
        response.data(PIECE)
        self.tick(SILENCE)
        self.assertFalse(response.closed)
        self.tick(2)
        self.assertTrue(response.closed)
        self.assertEqual(self.question.fields["range"], "bytes=10000-99999")
        response.data(PIECE)  # what was on its way already is not taken twice
        self.tick(SILENCE + 2)
        self.assertEqual(len(self.upstream.asked), 3)
        response = self.question.answer(206, *self.rest(), length=90_000)
        response.data(PIECE * 9)
        response.end()
        self.assertEqual(self.got(client).body, PIECE * 10)
        self.leave(client)

    def test_cuts_when_the_upstream_cannot_be_asked(self) -> None:
        """An upstream that cannot even be asked any more."""
        client = self.broken()
        self.upstream.trouble = ValueError("no")
        for pause in RETRY_DELAYS:
            self.clock.advance(pause)
        self.cut(client)


class HandlerTests(Case):
    """Calls that a relay ignores."""

    def test_is_an_answerer_but_no_handler(self) -> None:
        """A relay is made for one exchange, and takes no other."""
        client, _ = self.begin()
        relay = self.relay()
        verifyObject(IAnswerer, relay)
        self.assertFalse(IHandler.providedBy(relay))
        self.assertEqual(len(self.upstream.asked), 1)
        self.leave(client)

    def test_disconnected_twice_is_harmless(self) -> None:
        """A relay may be told twice that its client has left."""
        client, exchange = self.begin()
        relay = self.relay()
        client.connection.close()
        relay.disconnected(exchange)
        self.nothing_left()
