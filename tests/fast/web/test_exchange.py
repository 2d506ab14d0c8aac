"""An answer on the wire: its framing, which never lies, and its head, into which no client smuggles anything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.response_headers import HEADS, learn_name, learn_status, reason
from tests.fast.doubles import Answer, Client, Engine, parse_answers

HOST = b"Host: a\r\n"


class Case(SynchronousTestCase):
    """A client, and one exchange of its."""

    def setUp(self) -> None:
        """Start an engine."""
        self.engine = Engine(self)

    def ask(self, method: str = "GET", version: str = "1.1", fields: bytes = b"") -> tuple[Client, Exchange]:
        """Connect, and send a request; the exchange that it becomes."""
        client = self.engine.connect()
        client.send(f"{method} /x HTTP/{version}\r\n".encode() + HOST + fields + b"\r\n")
        return client, self.engine.asked[-1]

    def read(self, client: Client, method: str = "GET") -> Answer:
        """The one answer that a client has got."""
        (answer,) = parse_answers(client.take(), method)
        return answer

    def answered(
        self,
        *pieces: bytes,
        last: bytes = b"",
        method: str = "GET",
        version: str = "1.1",
        status: str = "200 OK",
        fields: tuple[tuple[str, str], ...] = (),
    ) -> tuple[Answer, Client]:
        """What a client gets when pieces are written, and then the last one."""
        client, exchange = self.ask(method, version)
        exchange.start(status, list(fields))
        for piece in pieces:
            exchange.write(piece)
        exchange.finish(last)
        exchange.release()
        return self.read(client, method), client

    def refused(self, error: type[Exception], status: Any = "200 OK", *fields: Any) -> None:
        """Check that an application's status and fields are refused, and that a 500 can still be sent."""
        client, exchange = self.ask()

        def answer() -> None:
            exchange.start(status, list(fields))
            exchange.finish(b"")

        self.assertRaises(error, answer)
        exchange.fail(500)
        self.assertEqual(self.read(client).status, 500)


class FramingTests(Case):
    """How the length of a body is said (RFC 9112 §6)."""

    def test_a_body_in_one_piece_gets_a_content_length(self) -> None:
        """A body in one piece gets its Content-Length, also an empty one, and the connection goes on."""
        for body in (b"hello", b"", b"x" * 100_000):
            answer, client = self.answered(last=body)
            self.assertEqual(answer.fields["content-length"], str(len(body)))
            self.assertEqual((answer.body, answer.whole, client.eof), (body, True, False))

    def test_a_body_of_unknown_length_is_chunked(self) -> None:
        """A body of unknown length is chunked; empty pieces do not end it."""
        answer, client = self.answered(b"one", b"", b"two" * 10_000, last=b"three")
        self.assertEqual(answer.fields["transfer-encoding"], "chunked")
        self.assertEqual((answer.body, answer.whole, client.eof), (b"one" + b"two" * 10_000 + b"three", True, False))

    def test_a_body_with_an_announced_length_is_sent_as_it_is(self) -> None:
        """A body whose length the application says is sent as it is."""
        answer, client = self.answered(b"he", b"llo", fields=(("content-length", "5"),))
        self.assertEqual((answer.fields["content-length"], answer.body, client.eof), ("5", b"hello", False))
        self.assertNotIn("transfer-encoding", answer.fields)

    def test_http_1_0(self) -> None:
        """To HTTP/1.0 a body of unknown length ends with the connection; a known one is announced."""
        answer, client = self.answered(b"one", last=b"two", version="1.0")
        self.assertEqual((answer.body, answer.whole, client.eof), (b"onetwo", None, True))
        self.assertNotIn("transfer-encoding", answer.fields)
        answer, client = self.answered(last=b"hello", version="1.0")
        self.assertEqual((answer.fields["content-length"], answer.body), ("5", b"hello"))

    def test_http_1_0_keep_alive(self) -> None:
        """To HTTP/1.0 with keep-alive the connection goes on after an announced body, and ends after another."""
        for pieces, goes_on in (((), True), ((b"a",), False)):
            client, exchange = self.ask(version="1.0", fields=b"Connection: keep-alive\r\n")
            exchange.start("200 OK", [])
            for piece in pieces:
                exchange.write(piece)
            exchange.finish(b"b")
            answer = self.read(client)
            self.assertEqual(client.eof, not goes_on)
            self.assertEqual(answer.fields["connection"], "keep-alive" if goes_on else "close")

    def test_head_gets_the_fields_of_get_and_no_body(self) -> None:
        """HEAD gets the fields of GET where they are known, and never a body."""
        for fields, pieces, last, length in (
            ((), (), b"hello", "5"),
            ((("Content-Length", "7"),), (), b"", "7"),
            ((("Content-Length", "7"),), (b"abc", b"defg"), b"", "7"),
            ((), (b"abc",), b"defg", None),
            ((), (), b"", None),
        ):
            answer, client = self.answered(*pieces, last=last, method="HEAD", fields=fields)
            self.assertEqual(answer.fields.get("content-length"), length)
            self.assertNotIn("transfer-encoding", answer.fields)
            self.assertFalse(client.eof)

    def test_204_and_304_have_no_body(self) -> None:
        """204 and 304 never have a body; 204 no length either, 304 the one that is said (RFC 9110 §8.6)."""
        for status, fields, length in (
            ("204 No Content", (("Content-Length", "5"),), None),
            ("204 No Content", (), None),
            ("304 Not Modified", (("Content-Length", "5"),), "5"),
            ("304 Not Modified", (), None),
        ):
            for pieces in ((), (b"hel", b"lo")):
                answer, client = self.answered(*pieces, last=b"hello", status=status, fields=fields)
                self.assertEqual(answer.fields.get("content-length"), length)
                self.assertFalse(client.eof)

    def test_205_has_no_content_and_says_so(self) -> None:
        """205 has no content (RFC 9110 §15.3.6), but is framed as other answers are: its length is 0."""
        for fields in ((), (("Content-Length", "5"),)):
            for pieces in ((), (b"hel", b"lo")):
                for method in ("GET", "HEAD"):
                    answer, client = self.answered(
                        *pieces, last=b"hello", status="205 Reset Content", method=method, fields=fields
                    )
                    self.assertEqual((answer.fields["content-length"], answer.body), ("0", b""))
                    self.assertNotIn("transfer-encoding", answer.fields)
                    client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
                    self.engine.answer(self.engine.asked[-1], b"next")
                    self.assertEqual(self.read(client).body, b"next")

    def test_more_than_announced(self) -> None:
        """What is behind the announced length is dropped, and the connection goes on: the framing is whole."""
        for pieces, last in (((), b"hello, world"), ((b"hel",), b"lo, world"), ((b"hello", b", "), b"world")):
            with capturedLogs() as events:
                answer, client = self.answered(*pieces, last=last, fields=(("Content-Length", "5"),))
            self.assertEqual(
                {formatEvent(event) for event in events},
                {"GET /x: the application sends more than its Content-Length of 5 bytes; the rest is dropped"},
            )
            self.assertEqual((answer.body, answer.whole), (b"hello", True))
            self.assertEqual(client.send(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n").eof, False)
            self.engine.answer(self.engine.asked[-1], b"next")
            self.assertEqual(self.read(client).body, b"next")

    def test_fewer_than_announced(self) -> None:
        """A body shorter than announced is visibly short, and the connection ends; told before, if that is known."""
        answer, client = self.answered(last=b"hell", fields=(("Content-Length", "5"),))
        self.assertEqual((answer.body, answer.whole, client.eof), (b"hell", False, True))
        self.assertEqual(answer.fields["connection"], "close")
        answer, client = self.answered(b"he", last=b"ll", fields=(("Content-Length", "5"),))
        self.assertEqual((answer.body, answer.whole, client.eof), (b"hell", False, True))

    def test_pieces_that_are_no_bytes_are_refused(self) -> None:
        """Pieces that are no bytes are refused, whatever the framing."""
        client, exchange = self.ask()
        exchange.start("200 OK", [])
        for piece in ("text", bytearray(b"b"), memoryview(b"b"), None):
            self.assertRaises(TypeError, exchange.write, piece)
            self.assertRaises(TypeError, exchange.finish, piece)
        self.assertEqual(client.take(), b"")

    def test_before_the_head(self) -> None:
        """Nothing can be sent before the status is known."""
        client, exchange = self.ask()
        self.assertRaises(AssertionError, exchange.write, b"a")
        self.assertRaises(AssertionError, exchange.finish, b"a")
        self.assertEqual(client.take(), b"")

    def test_after_the_end(self) -> None:
        """An application that writes after the end of its answer harms no client, even one that is behind."""
        client, exchange = self.ask()
        client.socket.script.append(BlockingIOError())
        exchange.start("200 OK", [])
        exchange.write(b"one")
        exchange.finish()
        self.assertRaises(Disconnected, exchange.write, b"two")
        answer = self.read(client)
        self.assertEqual((answer.body, answer.whole, client.eof), (b"one", True, False))
        self.assertRaises(Disconnected, exchange.write, b"three")
        self.assertEqual(client.take(), b"")

    def test_the_bytes_of_the_body_are_counted_without_framing(self) -> None:
        """The exchange counts the bytes of the body, not those of its framing."""
        for version, method, expected in (("1.1", "GET", 8), ("1.0", "GET", 8), ("1.1", "HEAD", 0)):
            exchange = self.ask(method, version)[1]
            exchange.start("200 OK", [])
            exchange.write(b"hello")
            exchange.finish(b"you")
            self.assertEqual(exchange.sent, expected)


class HeadTests(Case):
    """The head of an answer."""

    def test_fields_are_sent_in_order_and_as_often_as_given(self) -> None:
        """Fields are sent as they are, in order and as often as they are said; ours follow."""
        client, exchange = self.ask()
        exchange.start(
            "404 Nicht da: \xe4", [("X-A", "1"), ("set-cookie", "a"), ("Set-Cookie", "\xe4 \t"), ("X-E", "")]
        )
        exchange.finish(b"")
        head = client.take().split(b"\r\n")
        self.assertEqual(head[0], b"HTTP/1.1 404 Nicht da: \xe4")
        self.assertEqual(head[1:5], [b"X-A: 1", b"set-cookie: a", b"Set-Cookie: \xe4 \t", b"X-E: "])
        self.assertEqual(
            [line.partition(b":")[0] for line in head[5:-2]],
            [b"Content-Length", b"Server", b"Date", b"Connection", b"Keep-Alive"],
        )

    def test_a_status_without_a_reason_keeps_its_space(self) -> None:
        """A status without a reason still gets the space that the status line needs (RFC 9112 §4)."""
        client, exchange = self.ask()
        exchange.start("299", [])
        exchange.finish(b"")
        self.assertTrue(client.take().startswith(b"HTTP/1.1 299 \r\n"))

    def test_a_line_break_or_nul_in_the_head_is_refused(self) -> None:
        """A line break or NUL in a name, a value or the status is refused."""
        for evil in ("\r", "\n", "\r\n", "\0", "\r\nX: y", "\n\n<html>", "\r\n\r\nHTTP/1.1 200 OK"):
            for place in (evil, "a" + evil, evil + "a", "a" + evil + "a"):
                self.refused(ValueError, "200 OK", ("X-A", place))
                self.refused(ValueError, "200 OK", ("X" + place, "v"))
                self.refused(ValueError, "200 " + place)
                self.refused(ValueError, "200 OK", ("X-A", "good"), ("X-B", place), ("X-C", "good"))

    def test_every_control_in_a_value_is_refused_but_the_tab(self) -> None:
        """BEL, VT, ESC or DEL in a value would reach terminals, logs and other programs behind the client."""
        for control in (*range(9), *range(10, 32), 127):
            self.refused(ValueError, "200 OK", ("X-A", f"a{chr(control)}b"))
        client, exchange = self.ask()
        exchange.start("200 OK", [("X-A", "a\tb"), ("X-B", "\x80\xff")])
        exchange.finish(b"")
        self.assertIn(b"X-A: a\tb\r\nX-B: \x80\xff\r\n", client.take())

    def test_a_break_in_one_field_is_not_hidden_by_a_missing_one_elsewhere(self) -> None:
        """A break in one field is not hidden by one that is missing elsewhere."""
        self.refused(ValueError, "200 OK", ("X-A", "v\r"), ("X-B", "\nv"))
        self.refused(ValueError, "200 OK", ("X-A", "v\r\n"), ("Connection", "keep-alive"))

    def test_a_field_name_that_is_no_token_is_refused(self) -> None:
        """A name that is no token is refused, however often (RFC 9110 §5.1)."""
        for name in ("", "a b", "a:", "a\t", "\xe4", "a(b", "a/b", "[", "a\x7f"):
            for _ in range(2):
                self.refused(ValueError, "200 OK", (name, "v"))

    def test_only_str_is_accepted_in_the_head(self) -> None:
        """Only str will do, as PEP 3333 has it."""
        for status, fields in (
            (b"200 OK", []),
            (200, []),
            ("200 OK", [(b"X", "v")]),
            ("200 OK", [("X", b"v")]),
            ("200 OK", [("X", 5)]),
            ("200 OK", [("X", None)]),
            ("200 OK", [(5, "v")]),
            ("200 OK", [("Content-Length", 5)]),
        ):
            self.refused(TypeError, status, *fields)

    def test_beyond_latin_1(self) -> None:
        """Characters that no byte stands for are refused, in a field at once."""
        self.assertRaises(ValueError, self.ask()[1].start, "200 OK", [("X-A", "\u20ac")])
        self.refused(ValueError, "200 OK", ("X-A", "\u20ac"))
        self.refused(ValueError, "200 \u20ac")

    def test_a_status_is_three_digits_and_a_reason(self) -> None:
        """A status is three digits, no interim one, and a reason."""
        for status in (
            "",
            "20",
            "2000 OK",
            "abc",
            "100 Continue",
            "199 Early",
            "0200 OK",
            "200OK",
            " 200 OK",
            "200\tOK",
            "200 OK\x7f",
            "\u0662\u0660\u0660 OK",
            "-20 OK",
        ):
            self.refused(ValueError, status)
        for status, code in (("200 OK", 200), ("299 ", 299), ("999 \xe4", 999), ("418 I'm a teapot", 418)):
            self.assertEqual(learn_status(status)[0], code)

    def test_a_bad_or_contradictory_content_length_is_refused(self) -> None:
        """A Content-Length that is none, or two that differ, are refused; the same twice is said once."""
        for value in ("", "-1", "+5", "5 ", " 5", "0x5", "5,5", "five", "\u0665", "\xb2", "1_0"):
            self.refused(ValueError, "200 OK", ("Content-Length", value))
        self.refused(ValueError, "200 OK", ("Content-Length", "5"), ("content-length", "6"))
        answer, _ = self.answered(last=b"hello", fields=(("Content-Length", "5"), ("content-length", "5")))
        self.assertEqual(answer.fields["content-length"], "5")

    def test_hop_by_hop(self) -> None:
        """Fields about the connection are the server's: the application's are dropped (PEP 3333)."""
        dropped = ("Transfer-Encoding", "Keep-Alive", "TE", "Trailer", "Upgrade", "Proxy-Connection")
        fields = tuple((name.upper(), "chunked") for name in dropped)
        answer, client = self.answered(last=b"hello", fields=fields)
        self.assertEqual(set(answer.fields), {"content-length", "server", "date", "connection", "keep-alive"})
        self.assertEqual((answer.fields["keep-alive"], answer.body, client.eof), ("timeout=5", b"hello", False))

    def test_connection_close_of_the_application_is_obeyed(self) -> None:
        """`Connection: close` of the application is heeded; `keep-alive` is not its to say."""
        answer, client = self.answered(last=b"", fields=(("Connection", "Close"),))
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))
        answer, client = self.answered(b"a", last=b"", version="1.0", fields=(("connection", "keep-alive"),))
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))

    def test_own_date_and_server(self) -> None:
        """Date and Server of the application replace ours."""
        for keep in (b"", b"Connection: close\r\n"):
            client, exchange = self.ask(fields=keep)
            exchange.start("200 OK", [("DATE", "then"), ("server", "mine")])
            exchange.finish(b"")
            answer = self.read(client)
            self.assertEqual((answer.fields["date"], answer.fields["server"]), ("then", "mine"))
            self.assertEqual(answer.fields["connection"], "close" if keep else "keep-alive")
        answer, _ = self.answered(last=b"", fields=(("Server", "mine"),))
        self.assertEqual((answer.fields["server"], answer.fields["date"] != "then"), ("mine", True))

    def test_the_keep_alive_time_is_announced_in_whole_seconds(self) -> None:
        """The keep-alive time is announced in whole seconds, and not at all if it is shorter than one."""
        self.engine = Engine(self, keep_alive=3.5)
        answer, _ = self.answered(last=b"")
        self.assertEqual(answer.fields["keep-alive"], "timeout=3")
        self.engine = Engine(self, keep_alive=0.5)
        answer, _ = self.answered(last=b"")
        self.assertEqual((answer.fields["connection"], "keep-alive" in answer.fields), ("keep-alive", False))

    def test_few_names_are_remembered_and_all_are_checked(self) -> None:
        """However many names and statuses an application makes up, all are still checked, and few remembered."""
        for number in range(3000):
            learn_name(f"X-{number}")
            learn_status(f"200 {number}")
        for evil in ("a b", "a\r\n"):
            self.assertRaises(ValueError, learn_name, evil)
            self.assertRaises(ValueError, learn_status, f"200 {evil}\n")
        self.assertEqual(learn_status("201 x"), (201, "HTTP/1.1 201 x\r\n"))
        self.refused(ValueError, "200 OK", ("X Y", "v"))
        self.assertTrue(self.answered(last=b"", fields=(("cOnNeCtIoN", "close"),))[1].eof)

    def test_the_servers_own_statuses_have_the_reasons_of_rfc_9110(self) -> None:
        """The server's own statuses are worded as RFC 9110 has them, and an unknown one does no harm."""
        self.assertEqual(
            [reason(code) for code in (413, 414, 416, 507)],
            ["Content Too Large", "URI Too Long", "Range Not Satisfiable", "Insufficient Storage"],
        )
        self.assertEqual(reason(299), "Unknown")


class RememberedHeadTests(Case):
    """A head that comes again is not put together again."""

    FIELDS = (
        [],
        [("Content-Type", "text/plain")],
        [("Content-Type", "text/plain"), ("Content-Length", "5")],
        [("Content-Length", "5"), ("Content-Length", "5")],
        [("Content-Length", "7"), ("X-A", "1")],
        [("Content-Length", "3"), ("X-A", "1")],
        [("Date", "today"), ("Content-Length", "5")],
        [("Server", "mine"), ("Content-Length", "5")],
        [("Connection", "close"), ("Content-Length", "5")],
        [("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
        [("X-A", "1"), ("X-A", "2"), ("Content-Length", "5")],
    )

    def test_the_same_head_is_the_same_bytes(self) -> None:
        """Whatever an application says, the client gets the same the first time and the third."""
        for method in ("GET", "HEAD", "POST"):
            for version in ("1.1", "1.0"):
                for status in ("200 OK", "404 Not Found", "204 No Content", "304 Not Modified", "205 Reset Content"):
                    for fields in self.FIELDS:
                        for pieces in ((), (b"he", b"llo")):
                            answers = []
                            for clear in (True, False, False):
                                if clear:
                                    HEADS.clear()
                                client, exchange = self.ask(method, version)
                                exchange.start(status, fields)
                                for piece in pieces:
                                    exchange.write(piece)
                                exchange.finish(b"" if pieces else b"hello")
                                exchange.release()
                                answers.append((client.take(), client.eof))
                            self.flushLoggedErrors()
                            self.assertEqual(answers[0], answers[1], (method, version, status, fields, pieces))
                            self.assertEqual(answers[0], answers[2], (method, version, status, fields, pieces))

    def test_a_remembered_head_says_close_in_a_drain(self) -> None:
        """What was remembered before a drain is not sent with `Connection: keep-alive` in it."""
        fields = (("Content-Type", "text/plain"), ("Content-Length", "5"))
        for draining in (False, False, False, True):
            self.engine.site.draining = draining
            answer, client = self.answered(last=b"hello", fields=fields)
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))

    def test_heads_of_lists_are_sent_like_those_of_tuples(self) -> None:
        """PEP 3333 asks for tuples; an application that has lists is served."""
        for _ in range(3):
            answer, _client = self.answered(last=b"hello", fields=(["X-A", "1"], ["Content-Length", "5"]))  # type: ignore[arg-type]
            self.assertEqual((answer.fields["x-a"], answer.body), ("1", b"hello"))

    def test_a_bounded_number_of_heads_is_remembered(self) -> None:
        """However many different heads an application says."""
        for number in range(2500):
            for _ in range(2):
                self.answered(last=b"hello", fields=(("X-Number", str(number)), ("Content-Length", "5")))
        self.assertLessEqual(len(HEADS), 1024)


class FailTests(Case):
    """Answers of the server's own, and answers that cannot be completed."""

    def test_a_failure_replaces_the_answer_and_closes(self) -> None:
        """A failure is a short text with its status, in place of what the application had said, and a close."""
        client, exchange = self.ask()
        exchange.start("200 OK", [("Content-Length", "7"), ("X-A", "b"), ("Date", "then")])
        exchange.fail(500)
        answer = self.read(client)
        self.assertEqual(
            (answer.status, answer.reason, answer.body),
            (500, "Internal Server Error", b"500 Internal Server Error\n"),
        )
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))
        self.assertNotIn("x-a", answer.fields)
        self.assertNotEqual(answer.fields["date"], "then")

    def test_503_says_when_to_come_again(self) -> None:
        """503 says when to come again, and need not end the connection."""
        client, exchange = self.ask()
        self.engine.site.answer(exchange, 503)
        answer = self.read(client)
        self.assertEqual((answer.status, answer.fields["retry-after"], client.eof), (503, "5", False))

    def test_a_failure_answers_head_without_a_body(self) -> None:
        """A failure answers HEAD without a body."""
        client, exchange = self.ask("HEAD")
        exchange.fail(500)
        answer = self.read(client, "HEAD")
        self.assertEqual((answer.status, client.eof), (500, True))

    def test_never_a_second_status(self) -> None:
        """Once a byte of the answer is sent, a failure only cuts it, visibly, and sends nothing more."""
        for fields in ((), (("Content-Length", "100"),)):
            client, exchange = self.ask()
            exchange.start("200 OK", list(fields))
            exchange.write(b"some")
            exchange.fail(500)
            answer = self.read(client)
            self.assertEqual((answer.status, answer.body, answer.whole, client.eof), (200, b"some", False, True))
            self.assertEqual((exchange.status, exchange.keep), (200, False))
            self.assertFalse(client.socket.reset)

    def test_cut_by_reset(self) -> None:
        """A body that would have ended with the connection is cut by a reset: an end would make it look whole."""
        client, exchange = self.ask(version="1.0")
        exchange.start("200 OK", [])
        exchange.write(b"some")
        exchange.fail(500)
        self.engine.turn()
        self.assertTrue(client.socket.reset and client.socket.closed)

    def test_cut_of_nothing(self) -> None:
        """An answer without a body that cannot be completed ends with its head, in order."""
        client, exchange = self.ask("HEAD", "1.0")
        exchange.start("200 OK", [])
        exchange.write(b"")
        exchange.cut()
        self.assertEqual((self.read(client, "HEAD").status, client.eof, client.socket.reset), (200, True, False))

    def test_sending_to_a_gone_client_raises_disconnected(self) -> None:
        """To a client that has left nothing can be sent, and the caller that tries is told."""
        client, exchange = self.ask()
        client.close()
        exchange.start("200 OK", [])
        self.assertRaises(Disconnected, exchange.write, b"a")
        self.assertRaises(Disconnected, exchange.finish, b"a")
        exchange.cut()


class DescribeTests(Case):
    """What people read of an exchange."""

    def test_an_exchange_is_described_in_one_line(self) -> None:
        """One line says what it is, from whom, how far and how old; no target can break it."""
        client, exchange = self.ask()
        exchange.target = b"/\xff\r\n<x>"
        line = exchange.describe(exchange.started + 1.25)
        self.assertEqual(line, f"exchange {exchange.id} GET /\\xff\\r\\n<x> from 192.0.2.1: queued for 1.2 s")
        exchange.start("200 OK", [])
        exchange.write(b"hello")
        self.assertTrue(exchange.describe(exchange.started).endswith(" s, 5 bytes sent"))
        client.close()

    def test_describe_without_descriptors(self) -> None:
        """What is needed for that is there when no file can be opened any more."""
        code = (
            "import resource\n"
            "from graceful.web.exchange import Exchange\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\n"
            "exchange = object.__new__(Exchange)\n"
            "exchange.target = b'/x'\n"
            "assert exchange.shown_target == '/x'\n"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=30)

    def test_the_request_id_is_unique_or_the_proxys(self) -> None:
        """An exchange has an id that no other one has, unless a proxy has given it one."""
        ids = {self.ask()[1].request_id for _ in range(3)}
        self.engine = Engine(self)
        ids.add(self.ask()[1].request_id)
        self.assertEqual(len(ids), 4)
        exchange = self.ask()[1]
        exchange.own_id = "proxy-1"
        self.assertEqual(exchange.request_id, "proxy-1")
