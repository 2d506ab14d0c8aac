"""Each way in which an answer leaves its thread for the event loop, and all that stays with the thread."""

from __future__ import annotations

import gzip
import io
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from graceful.config.values import parse_mapping
from graceful.downloads import files as files_module
from graceful.downloads import handover as handover_module
from graceful.downloads.file_sender import FileSender
from graceful.downloads.handover import SMALL
from graceful.downloads.parked import Parked
from graceful.downloads.token import HEADER, Download
from graceful.takedown.last_answer import take_down
from graceful.web.exchange import DOWNLOADING, PARKED, Exchange
from tests.fast.doubles import GET, Answer, Engine, parse_answers
from tests.fast.downloads.downloading import Closing, DownloadCase

STREAM = ("Content-Type", "text/event-stream")
BIG = bytes(range(256)) * 1024
"""More than a thread sends."""


class Case(DownloadCase):
    """Applications that offer their answers."""

    def setUp(self) -> None:
        """Write down who calls the reactor."""
        super().setUp()
        self.log: list[str] = []

    def offering(
        self, make: Any, *fields: tuple[str, str], status: str = "200 OK", wrap: Any = Closing, keep: bool = False
    ) -> list[Any]:
        """Serve an application that makes a token in each exchange, and returns it wrapped; the wrapped ones."""
        wrapped: list[Any] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            token = make()
            start_response(status, [*fields, *token.headers])
            wrapped.append(wrap(token))
            return wrapped[-1]

        self.serve(application)
        return wrapped

    def log_of(self, wrapped: list[Any]) -> list[str]:
        """Return what happened to the only answer."""
        (one,) = wrapped
        log: list[str] = one.log
        return log


class DownloadTests(Case):
    """`graceful.Download`."""

    def test_event_loop_sends_big_file(self) -> None:
        """A big file is the event loop's; the application's answer is closed, never iterated over."""
        path = self.file(BIG)
        wrapped = self.offering(lambda: Download(path), ("Content-Type", "a/b"), ("Content-Length", "5"))
        client = self.engine.connect()
        answer = self.read(client, GET)
        self.assertEqual((answer.body, answer.whole, answer.fields["content-type"]), (BIG, True, "a/b"))
        self.assertEqual(answer.fields["content-length"], str(len(BIG)))
        self.assertNotIn(HEADER.lower(), answer.fields)
        self.assertEqual(self.log_of(wrapped), ["closed"])
        self.assertFalse(client.eof)
        self.leave(client)

    def read(self, client: Any, data: bytes, method: str = "GET") -> Answer:
        """Return the answer that a client gets for a request."""
        (answer,) = parse_answers(client.send(data).take(), method)
        return answer

    def test_thread_sends_small_file(self) -> None:
        """A small file, and a small part of a big one, is sent by the thread at once."""
        for content, data, body in (
            (BIG[:SMALL], GET, BIG[:SMALL]),
            (b"", GET, b""),
            (BIG, self.request(range="bytes=1000-1009"), BIG[1000:1010]),
            (BIG, self.request(if_none_match="*"), b""),
        ):
            path = self.file(content)
            self.offering(lambda path=path: Download(path))
            seen: list[Exchange] = []
            self.patch(handover_module, "FileSender", lambda exchange, *rest, seen=seen: seen.append(exchange))
            client = self.engine.connect()
            self.assertEqual(self.read(client, data).body, body)
            self.assertEqual((seen, self.descriptors()), ([], []))
            self.assertFalse(self.engine.asked[-1].download)

    def test_event_loop_sends_big_part(self) -> None:
        """A big part is the event loop's."""
        path = self.file(BIG)
        self.offering(lambda: Download(path))
        client = self.engine.connect()
        answer = self.read(client, self.request(range="bytes=1000-"))
        self.assertEqual((answer.status, answer.body), (206, BIG[1000:]))
        self.assertTrue(self.engine.asked[-1].download)
        self.leave(client)

    def test_head_gets_the_length(self) -> None:
        """HEAD gets the length, whatever the size, and the connection goes on."""
        for content in (BIG, b"small"):
            path = self.file(content)
            self.offering(lambda path=path: Download(path))
            client = self.engine.connect()
            answer = self.read(client, self.request(method="HEAD"), "HEAD")
            self.assertEqual((answer.status, answer.fields["content-length"]), (200, str(len(content))))
            self.assertEqual((client.eof, self.descriptors()), (False, []))
            self.leave(client)

    def test_closes_the_answer_before_the_event_loop_begins(self) -> None:
        """The answer is closed in the thread, once, before the event loop begins; only then is it a download's."""
        path = self.file(BIG)
        order: list[str] = []

        class Noted(Closing):
            def close(noted) -> None:
                order.append("closed")
                super().close()

        self.offering(lambda: Download(path), wrap=Noted)
        self.before_starts(lambda answer: order.append("soon"))
        client = self.engine.connect(buffer=5000)
        client.send(GET)
        self.assertEqual(order, ["closed", "soon"])
        (exchange,) = self.engine.in_flight
        self.assertEqual((exchange.phase, exchange.download), (DOWNLOADING, True))
        client.close()
        self.nothing_left()
        self.assertEqual(order, ["closed", "soon"])

    def test_hands_over_as_wsgi_application(self) -> None:
        """As a WSGI application by itself it is handed over, with its fields."""
        path = self.file(BIG)
        self.serve(lambda environ, start_response: Download(path, [("X-A", "b")])(environ, start_response))
        answer = self.get()
        self.assertEqual((answer.body, answer.fields["x-a"], answer.fields["content-type"]), (BIG, "b", "text/plain"))

    def test_event_loop_asks_upstream(self) -> None:
        """A URL is asked for by the event loop; the application's fields win."""
        wrapped = self.offering(lambda: Download("http://librarian/x"), ("Content-Type", "a/b"))
        client = self.engine.connect().send(self.request(range="bytes=0-9"))
        self.assertEqual(self.log_of(wrapped), ["closed"])
        (question,) = self.upstream.asked
        self.assertEqual((question.method, question.url), ("GET", "http://librarian/x"))
        self.assertEqual(question.fields["range"], "bytes=0-9")
        response = question.answer(200, ("Content-Type", "x/y"), ("X-B", "c"), length=3)
        response.data(b"abc")
        response.end()
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.body, answer.fields["content-type"], answer.fields["x-b"]), (b"abc", "a/b", "c"))
        self.leave(client)

    def test_thread_keeps_errors_empty_and_changed_bodies(self) -> None:
        """Errors, empty answers, and bodies that a middleware has changed stay with the thread."""
        path = self.file(BIG)
        for status, fields, body in (
            ("404 Not Found", (), BIG),
            ("500 Oops", (), BIG),
            ("302 Found", (), BIG),
            ("204 No Content", (), b""),
            ("200 OK", (("content-ENCODING", "gzip"),), BIG),
        ):
            wrapped = self.offering(lambda: Download(path), *fields, status=status)
            answer = self.get()
            self.assertEqual((answer.status, answer.body), (int(status[:3]), body))
            self.assertNotIn(HEADER.lower(), answer.fields)
            self.assertEqual(self.log_of(wrapped), ["iterated", "closed"])
            self.assertEqual(self.descriptors(), [])

    def test_takes_content_encoding_identity(self) -> None:
        """A token with `Content-Encoding: identity` is taken."""
        path = self.file(BIG)
        wrapped = self.offering(lambda: Download(path), ("Content-Encoding", "identity"))
        answer = self.get()
        self.assertEqual((answer.body, self.log_of(wrapped)), (BIG, ["closed"]))
        self.assertNotIn("content-encoding", answer.fields)

    def test_sends_nothing_of_a_closed_token(self) -> None:
        """A token that the application has closed is neither sent nor asked for."""
        path = self.file(BIG)

        def make() -> Download:
            download = Download(path)
            download.close()
            return download

        wrapped = self.offering(make)
        self.assertEqual((self.get().body, self.log_of(wrapped)), (b"", ["iterated", "closed"]))
        self.assertEqual(self.upstream.asked, [])

    def test_offer_after_a_piece_is_too_late(self) -> None:
        """An offer after the first piece was sent comes too late."""
        path = self.file(BIG)
        token: list[Download] = []

        def application(environ: Any, start_response: Any) -> Any:
            token.append(Download(path))
            start_response("200 OK", token[0].headers)(b"first")
            return token[0]

        self.serve(application)
        self.assertEqual(self.get().body, b"first" + BIG)

    def test_takes_offer_of_a_generators_first_piece(self) -> None:
        """A generator says what it answers with its first piece: it is taken over then, and closed."""
        path = self.file(BIG)
        ended: list[str] = []

        def application(environ: Any, start_response: Any) -> Iterator[bytes]:
            token = Download(path)
            start_response("200 OK", token.headers)
            try:
                yield b"what nobody gets"
                ended.append("went on")
            finally:
                ended.append("closed")

        self.serve(application)
        self.assertEqual((self.get().body, ended), (BIG, ["closed"]))

    def test_takes_offer_of_a_generator_without_pieces(self) -> None:
        """A generator without any piece is taken over and closed."""
        path = self.file(BIG)

        def application(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("200 OK", (token := Download(path)).headers)
            kept.append(token)
            yield from ()

        kept: list[Download] = []
        self.serve(application)
        self.assertEqual(self.get().body, BIG)

    def test_takes_offer_with_a_list_of_one_piece(self) -> None:
        """A list of one piece, as frameworks make them of everything, does not hide the offer."""
        path = self.file(BIG)
        kept: list[Download] = []

        def application(environ: Any, start_response: Any) -> Any:
            kept.append(Download(path))
            start_response("200 OK", kept[-1].headers)
            return [b""]

        self.serve(application)
        self.assertEqual(self.get().body, BIG)

    def test_error_withdraws_the_offer(self) -> None:
        """An application that answers an error after its offer has withdrawn the offer."""
        path = self.file(BIG)
        kept: list[Download] = []
        for instead in ("500 Oops", "200 Oops"):

            def application(environ: Any, start_response: Any, instead: str = instead) -> Any:
                kept.append(Download(path))
                start_response("200 OK", kept[-1].headers)
                try:
                    raise RuntimeError
                except RuntimeError as error:
                    start_response(instead, [], (RuntimeError, error, error.__traceback__))
                return [b"sorry"]

            self.serve(application)
            answer = self.get()
            self.assertEqual((answer.status, answer.body), (int(instead[:3]), b"sorry"))

    def test_foreign_old_and_guessed_ids_are_ignored(self) -> None:
        """The id of another exchange, an old one and a guessed one get what the application has for a body."""
        path = self.file(BIG)
        ids: list[str] = []
        kept: list[Download] = []

        def application(environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/first":
                kept.append(Download(path))
                ids.append(kept[-1].headers[0][1])
                return kept[-1](environ, start_response)
            start_response("200 OK", [(HEADER, ids[0])])
            return [b"its own"]

        self.serve(application)
        self.assertEqual(self.get(self.request("/first")).body, BIG)
        for id in (ids[0], "0" * 32, ""):
            ids[0] = id
            answer = self.get(self.request("/second"))
            self.assertEqual((answer.body, HEADER.lower() in answer.fields), (b"its own", False))

    def test_unreadable_file_is_500(self) -> None:
        """A file that cannot be read is a 500, and is closed."""
        path = self.file(b"small")
        self.offering(lambda: Download(path))

        def fail(*arguments: Any) -> bytes:
            raise OSError("the disk is broken")

        self.patch(os, "pread", fail)
        self.assertEqual((self.get().status, self.descriptors()), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_shorter_small_file_ends_visibly(self) -> None:
        """A small file that has become shorter since is visibly short."""
        path = self.file(b"small")

        def make() -> Download:
            download = Download(path)
            os.truncate(path, 2)
            return download

        self.offering(make)
        answer = self.get()
        self.assertEqual((answer.fields["content-length"], answer.body, answer.whole), ("5", b"sm", False))

    def test_client_leaves_between_thread_and_reactor(self) -> None:
        """A client that leaves between the thread and the reactor leaves nothing behind, whatever was offered."""
        path = self.file(BIG)
        gone: list[None] = []

        def parked() -> Parked:
            ticket = Parked()
            ticket.gone.addCallback(gone.append)
            return ticket

        for make in (lambda: Download(path), lambda: Download("http://librarian/x"), parked):
            wrapped = self.offering(make)
            client = self.engine.connect()
            self.before_starts(lambda answer, client=client: client.connection.close())
            client.send(GET)
            self.assertEqual(self.log_of(wrapped), ["closed"])
            self.nothing_left()
        self.assertEqual((self.upstream.asked, gone), ([], [None]))

    def test_taken_down_between_thread_and_reactor(self) -> None:
        """A client whose exchange is taken down between the thread and the reactor leaves nothing behind."""
        path = self.file(BIG)
        self.offering(lambda: Download(path))
        client = self.engine.connect()

        def deadline(answer: Any) -> None:
            for interrupted in take_down(client.connection):
                self.engine.site.finished(interrupted)

        self.before_starts(deadline)
        (answer,) = parse_answers(client.send(GET).take())
        self.assertEqual((answer.status, self.descriptors()), (503, []))
        self.leave(client)


class RedirectTests(Case):
    """`X-Accel-Redirect`."""

    def redirecting(self, path: str, *fields: tuple[str, str], status: str = "200 OK") -> Closing:
        """Serve an application that answers with it."""
        result = Closing([b"not this"])

        def application(environ: Any, start_response: Any) -> Any:
            start_response(status, [*fields, ("X-Accel-Redirect", path)])
            return result

        self.serve(application)
        return result

    def test_sends_file_below_mapped_prefix(self) -> None:
        """A file below a mapped prefix, small or big, in place of the body; the application's fields win."""
        for content in (BIG, b"small", b""):
            self.file(content, "a b.txt")
            result = self.redirecting(
                "/internal/files/a%20b.txt", ("Content-Type", "own/own"), ("Content-Length", "8")
            )
            answer = self.get()
            self.assertEqual((answer.status, answer.body), (200, content))
            self.assertEqual(answer.fields["content-type"], "own/own")
            self.assertNotIn("x-accel-redirect", answer.fields)
            self.assertEqual(result.log, ["closed"])

    def test_a_name_may_be_quoted_or_not(self) -> None:
        """A name beyond ASCII is found quoted and unquoted, as nginx finds it; dots are refused in both."""
        self.file(b"content", "\xe9\x85.txt")
        for name in ("%C3%A9%C2%85.txt", "\xc3\xa9\xc2\x85.txt", "%C3\xa9%c2\x85.txt"):
            self.redirecting("/internal/files/" + name)
            answer = self.get()
            self.assertEqual((answer.status, answer.body), (200, b"content"), name)
        for name in ("../\xc3\xa9.txt", "\xc3\xa9/../../x", "\xc0\xae\xc0\xae/x", "\u0101.txt"):
            self.redirecting("/internal/files/" + name)
            self.assertEqual(self.get().status, 404, name)

    def test_keeps_the_applications_status(self) -> None:
        """The application's status is the answer's."""
        self.file(b"page", "404.html")
        self.redirecting("/internal/files/404.html", status="404 Not Found")
        answer = self.get()
        self.assertEqual((answer.status, answer.body), (404, b"page"))

    def test_asks_upstream_for_url_below_mapped_prefix(self) -> None:
        """A URL below a mapped prefix."""
        result = self.redirecting("/internal/remote/x?y")
        client = self.engine.connect().send(GET)
        (question,) = self.upstream.asked
        self.assertEqual((question.url, result.log), ("http://librarian:58000/base/x?y", ["closed"]))
        question.answer(404, length=0)
        (answer,) = parse_answers(client.take())
        self.assertEqual(answer.status, 404)
        self.leave(client)

    def test_refuses_other_paths_with_404(self) -> None:
        """Every other path is 404, and the log says why; public prefixes do not count."""
        self.file(b"secret", "secret")
        os.symlink("/etc/passwd", os.path.join(self.directory, "link"))
        for path in (
            "/internal/files/missing",
            "/internal/files/../secret",
            "/internal/files/%2e%2e/secret",
            "/internal/files/a%2fsecret",
            "/internal/files/link",
            "/internal/files/",
            "/internal/files",
            "/internal/elsewhere",
            "/files/secret",
            "http://evil/internal/files/secret",
            "//evil/x",
            "",
        ):
            result = self.redirecting(path)
            answers: list[Answer] = []
            lines = self.logged(lambda answers=answers: answers.append(self.get()))
            self.assertEqual((answers[0].status, answers[0].body), (404, b"404 Not Found\n"), path)
            self.assertNotIn("x-accel-redirect", answers[0].fields)
            (line,) = (line for line in lines if "is not sent" in line)
            self.assertIn(repr(path), line)
            self.assertEqual(result.log, ["closed"])
        self.assertEqual((self.upstream.asked, self.descriptors()), ([], []))

    def test_file_that_cannot_be_opened_now_is_500(self) -> None:
        """A file that cannot be opened now is 500, not 404."""

        def fail(file: Any) -> Any:
            raise OSError("too many open files")

        self.patch(handover_module, "open_file", fail)
        self.redirecting("/internal/files/x")
        self.assertEqual(self.get().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class UnmappedTests(Case):
    """Without a mapping."""

    mapped = False

    def test_passes_the_field_to_a_proxy(self) -> None:
        """X-Accel-Redirect is for a proxy in front of the server; the token's field is never passed on."""

        def application(environ: Any, start_response: Any) -> Any:
            start_response("200 OK", [("X-Accel-Redirect", "/internal/files/x"), (HEADER, "x")])
            return [b"body"]

        self.serve(application)
        answer = self.get()
        self.assertEqual((answer.fields["x-accel-redirect"], answer.body), ("/internal/files/x", b"body"))
        self.assertNotIn(HEADER.lower(), answer.fields)

    def test_thread_sends_without_handover(self) -> None:
        """On a site without handover all fields are the application's, and the thread sends a download."""
        self.engine.site.hand_over = None
        path = self.file(BIG)
        wrapped = self.offering(lambda: Download(path), ("X-Accel-Redirect", "/x"))
        answer = self.get()
        self.assertEqual((answer.body, answer.fields["x-accel-redirect"]), (BIG, "/x"))
        self.assertEqual(self.log_of(wrapped), ["iterated", "closed"])


class FileWrapperTests(Case):
    """`wsgi.file_wrapper`."""

    def setUp(self) -> None:
        """Write down what the event loop gets to send."""
        super().setUp()
        self.taken: list[tuple[int, int]] = []

        def sender(exchange: Exchange, opened: Any, first: int, end: int, disk: Any) -> FileSender:
            self.taken.append((first, end))
            return FileSender(exchange, opened, first, end, disk)

        self.patch(handover_module, "FileSender", sender)

    def wrapping(self, file: Any, *fields: tuple[str, str], status: str | None = "200 OK") -> None:
        """Serve an application that returns a file."""

        def application(environ: Any, start_response: Any) -> Any:
            if status is not None:
                start_response(status, list(fields))
            return environ["wsgi.file_wrapper"](file, 8192)

        self.serve(application)
        self.taken.clear()

    def sent(self, file: Any, *fields: tuple[str, str], data: bytes = GET, method: str = "GET") -> Answer:
        """Return the bytes that a client gets of a file, which is closed."""
        self.wrapping(file, *fields)
        answer = self.get(data, method)
        self.assertTrue(file.closed)
        self.assertEqual(self.descriptors(), [])
        return answer

    def test_event_loop_sends_real_file_from_its_position(self) -> None:
        """A real file is the event loop's, from where it stands, and gets its length."""
        path = self.file(BIG)
        for make in (
            partial(open, path, "rb"),
            partial(open, path, "r+b"),
            partial(open, path, "rb", buffering=0),
            lambda: tempfile.TemporaryFile(dir=self.directory),  # noqa: SIM115
            lambda: tempfile.NamedTemporaryFile(dir=self.directory),  # noqa: SIM115
        ):
            file: Any = make()
            if not file.read(1):
                file.write(BIG)
            file.seek(10)
            answer = self.sent(file)
            self.assertEqual((answer.body, answer.whole), (BIG[10:], True), file)
            self.assertEqual(answer.fields["content-length"], str(len(BIG) - 10))
            self.assertEqual(self.taken, [(10, len(BIG))])

    def test_sends_unflushed_data(self) -> None:
        """Data that was written into the file but not flushed is sent too."""
        with open(self.file(BIG), "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more")
            file.seek(0)
            self.assertEqual(self.sent(file).body, BIG + b"more")

    def test_sends_the_announced_length(self) -> None:
        """As much of it is sent as the application has announced; if it has not that much, the thread tells."""
        size = len(BIG)
        for length, taken in ((size, True), (size - 1, True), (5, True), (0, True), (size + 1, False)):
            with open(self.file(BIG), "rb") as file:
                answer = self.sent(file, ("Content-Length", str(length)))
            self.assertEqual((answer.body, answer.whole), (BIG[:length], length <= size))
            self.assertEqual(bool(self.taken), taken)

    def test_thread_reads_other_files(self) -> None:
        """The thread reads files that decode or compute, are in memory or small, or are not regular."""
        upper, small = self.file(b"a" * SMALL * 2, "upper"), self.file(BIG[:SMALL], "small")

        class Upper(io.BufferedReader):
            def read(self, size: int | None = -1) -> bytes:
                return super().read(size).upper()

        def spooled() -> Any:
            file: Any = tempfile.SpooledTemporaryFile(max_size=1 << 30)  # noqa: SIM115
            file.write(BIG)
            file.seek(0)
            return file

        for make, body in (
            (lambda: io.BytesIO(BIG), BIG),
            (lambda: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(BIG))), BIG),
            (spooled, BIG),
            (lambda: Upper(io.FileIO(upper)), b"A" * SMALL * 2),
            (partial(open, small, "rb"), BIG[:SMALL]),
        ):
            file = make()
            answer = self.sent(file)
            self.assertEqual((answer.body, self.taken), (body, []), file)

    def test_text_file_is_500(self) -> None:
        """A text file is the application's mistake: 500."""
        with open(self.file(b"x" * SMALL * 2)) as file:
            self.wrapping(file)
            self.assertEqual((self.get().status, self.taken), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_thread_reads_pipe(self) -> None:
        """A pipe is read by the thread."""
        reading, writing = os.pipe()
        os.write(writing, b"piped")
        os.close(writing)
        with open(reading, "rb") as file:
            self.assertEqual(self.sent(file).body, b"piped")

    def test_thread_reads_device(self) -> None:
        """A device is read by the thread."""
        with open("/dev/null", "rb") as file:
            self.assertEqual((self.sent(file).body, self.taken), (b"", []))

    def test_unreadable_file_is_500(self) -> None:
        """A file that was opened only for writing is the application's mistake: 500."""
        with open(self.file(BIG), "ab") as file, io.FileIO(self.file(BIG), "a") as raw:
            raw.seek(0)
            for wrong in (file, raw):
                self.wrapping(wrong)
                self.assertEqual((self.get().status, self.taken), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_closed_file_is_500(self) -> None:
        """A closed file is the application's mistake: 500."""
        with open(self.file(BIG), "rb") as file:
            pass
        self.wrapping(file)
        self.assertEqual((self.get().status, self.taken), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_without_start_response_is_500(self) -> None:
        """An answer that was never started is a 500 at once, not a client that waits for ever."""
        with open(self.file(BIG), "rb") as file:
            self.wrapping(file, status=None)
            self.assertEqual((self.get().status, self.taken), (500, []))
        self.assertEqual(len(self.flushLoggedErrors(AssertionError)), 1)

    def test_sends_no_body_for_bodiless_answer(self) -> None:
        """An answer without a body has none."""
        with open(self.file(BIG), "rb") as file:
            answer = self.sent(file, ("Content-Length", "7"), data=self.request(method="HEAD"), method="HEAD")
        self.assertEqual((answer.status, answer.fields["content-length"], self.taken), (200, "7", []))

    def test_duplicates_the_applications_descriptor(self) -> None:
        """The application's file is closed in the thread; we have a descriptor of our own."""
        with open(self.file(BIG), "rb") as file:
            self.wrapping(file)
            client = self.engine.connect(buffer=5000).send(GET)
            self.assertTrue(file.closed)
        self.assertEqual(len(self.descriptors()), 1)
        (answer,) = parse_answers(client.take())
        self.assertEqual(answer.body, BIG)
        self.leave(client)


class ParkedTests(Case):
    """`graceful.Parked`; what becomes of it then is tests/fast/downloads/test_parked.py's."""

    def test_parks_without_a_thread(self) -> None:
        """A parked request waits with no thread, and its answer is closed."""
        tickets: list[Parked] = []

        def make() -> Parked:
            tickets.append(Parked())
            return tickets[-1]

        wrapped = self.offering(make)
        client = self.engine.connect().send(GET)
        self.assertEqual((self.log_of(wrapped), len(self.parking_lot)), (["closed"], 1))
        (exchange,) = self.engine.in_flight
        self.assertEqual((exchange.phase, exchange.download), (PARKED, False))
        self.assertTrue(tickets[0].answer(200, [("X-A", "b")], b"news"))
        self.engine.turn()
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.status, answer.fields["x-a"], answer.body), (200, "b", b"news"))
        self.leave(client)

    def test_only_event_streams_begin_at_once(self) -> None:
        """Only what says that it is an event stream is one."""
        for kind, begun in (("text/event-stream", True), ("Text/Event-Stream; charset=x", True), ("a/b", False)):
            self.offering(Parked, ("Content-Type", kind))
            client = self.engine.connect().send(GET)
            self.assertEqual(self.engine.in_flight[0].begun, begun)
            self.leave(client)

    def test_drops_the_tokens_own_length_and_encoding(self) -> None:
        """The length of the token's own body, and the word that nothing is to be compressed, are not a stream's."""
        self.offering(Parked, STREAM, ("Content-Encoding", "identity"), ("Content-Length", "0"), ("X-A", "b"))
        client = self.engine.connect().send(GET)
        head = client.take()
        self.assertIn(b"X-A: b\r\n", head)
        self.assertIn(b"Transfer-Encoding: chunked\r\n", head)
        self.assertNotIn(b"Content-Encoding", head)
        self.leave(client)


class PublicTests(Case):
    """Files and URLs that are served by the path of the request."""

    def test_sends_file_without_the_application(self) -> None:
        """A file, with its kind and what a client needs to resume; no application is asked."""
        for content in (BIG, b"small", b""):
            self.file(content, "a.txt")
            client = self.engine.connect()
            (answer,) = parse_answers(client.send(self.request("/files/a.txt")).take())
            self.assertEqual((answer.status, answer.body, answer.whole), (200, content, True))
            self.assertEqual(answer.fields["content-type"], "text/plain")
            self.assertLessEqual({"etag", "last-modified", "accept-ranges", "content-length"}, answer.fields.keys())
            self.assertEqual((self.engine.asked, client.eof), ([], False))
            self.leave(client)

    def test_unknown_type_is_bytes(self) -> None:
        """A file of unknown type is application/octet-stream."""
        self.file(b"x", "a")
        self.assertEqual(self.get(self.request("/files/a")).fields["content-type"], "application/octet-stream")

    def test_answers_ranges_and_conditions(self) -> None:
        """Ranges and conditions are answered."""
        self.file(BIG)
        for fields, status, body in (
            ({"range": "bytes=5-9"}, 206, BIG[5:10]),
            ({"range": f"bytes={len(BIG)}-"}, 416, b""),
            ({"if_none_match": "*"}, 304, b""),
            ({"if_match": '"x"'}, 412, b""),
        ):
            answer = self.get(self.request("/files/file.txt", **fields))
            self.assertEqual((answer.status, answer.body), (status, body))
            self.assertEqual(self.descriptors(), [])

    def test_head_gets_the_length(self) -> None:
        """HEAD gets the length."""
        self.file(BIG)
        answer = self.get(self.request("/files/file.txt", "HEAD"), "HEAD")
        self.assertEqual((answer.status, answer.fields["content-length"]), (200, str(len(BIG))))

    def test_asks_upstream_for_url(self) -> None:
        """A URL is asked of the upstream."""
        client = self.engine.connect().send(self.request("/remote/x?y=z", range="bytes=0-9"))
        (question,) = self.upstream.asked
        self.assertEqual(question.url, "http://librarian:58000/base/x?y=z")
        self.assertTrue(self.engine.in_flight[0].download)
        self.assertEqual(question.fields["range"], "bytes=0-9")
        question.answer(416, length=0)
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [416])
        self.leave(client)

    def test_refuses_other_methods_with_405(self) -> None:
        """Other methods are not allowed, and the answer says which are."""
        for prefix in ("/files/x", "/remote/x"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                answer = self.get(self.request(prefix, method))
                self.assertEqual((answer.status, answer.fields["allow"]), (405, "GET, HEAD"))
                self.assertEqual([exchange for exchange in self.engine.in_flight if exchange.status != 405], [])
                self.assertTrue(all(exchange.released for exchange in self.engine.in_flight))
        self.assertEqual(self.upstream.asked, [])

    def test_refuses_method_of_a_client_that_left(self) -> None:
        """An answer to a client that has left does no harm."""
        client, exchange = self.ask(self.request("/x", "POST"))
        client.connection.close()
        exchange.target = b"/files/x"
        self.assertTrue(self.public([parse_mapping(f"/files={self.directory}")]).answer(exchange))
        self.nothing_left()

    def test_refuses_paths_with_404(self) -> None:
        """A path that is refused is 404, with a line in the log, and the application is not asked."""
        os.symlink("/etc/passwd", os.path.join(self.directory, "link"))
        os.mkdir(os.path.join(self.directory, "sub"))
        os.mkfifo(os.path.join(self.directory, "pipe"))
        for path in ("missing", "link", "sub", "sub/", "pipe", "../x", "%2e%2e/x", "a%00", "a//b", "", "a%5cb"):
            answers: list[Answer] = []
            lines = self.logged(
                lambda path=path, answers=answers: answers.append(self.get(self.request(f"/files/{path}")))
            )
            self.assertEqual(answers[0].status, 404, path)
            self.assertTrue(any("is not sent" in line for line in lines), path)
        self.assertEqual((self.engine.asked, self.descriptors()), ([], []))

    def test_leaves_other_paths_to_the_application(self) -> None:
        """Every other path is the application's."""
        for path in ("/filesystem", "/", "/file", "/internal/files/x", "/%66iles/x"):
            self.engine.connect().send(self.request(path))
            self.assertEqual(self.engine.asked[-1].target, path.encode())

    def test_file_that_cannot_be_opened_now_is_500(self) -> None:
        """A file that cannot be opened now is 500, with a line in the log."""

        def fail(*arguments: Any) -> int:
            raise OSError(24, "Too many open files")

        self.patch(files_module.os, "open", fail)
        answers: list[Answer] = []
        lines = self.logged(lambda: answers.append(self.get(self.request("/files/x"))))
        self.assertEqual(answers[0].status, 500)
        self.assertTrue(any("cannot be opened" in line and "Too many open files" in line for line in lines))

    def test_client_leaves_while_the_file_is_opened(self) -> None:
        """A client that leaves while its file is opened leaves no descriptor behind; nor one taken down."""
        self.file(BIG)
        self.disk.at_once = False
        for name in ("file.txt", "missing"):
            for end in ("leave", "take down"):
                client = self.engine.connect().send(self.request("/files/" + name))
                (exchange,) = self.engine.in_flight
                self.assertEqual((exchange.phase, len(self.disk)), (DOWNLOADING, 1))
                if end == "leave":
                    client.connection.close()
                else:
                    take_down(client.connection)
                self.disk.work()
                self.engine.turn()
                client.close()
                self.nothing_left()

    def test_client_leaves_before_the_reactor_begins(self) -> None:
        """A client that leaves before the reactor has begun leaves nothing behind."""
        self.file(BIG)
        client = self.engine.connect()
        self.before_starts(lambda answer: client.connection.close())
        for path in ("/files/file.txt", "/remote/x"):
            client = self.engine.connect()
            client.send(self.request(path))
            self.assertEqual((self.upstream.asked, len(self.disk)), ([], 0))
        self.engine = Engine(self)
        self.assertEqual(self.descriptors(), [])

    def test_answers_pipelined_requests_in_order(self) -> None:
        """Several on one connection are answered in order."""
        self.file(BIG, "big")
        self.file(b"small", "small")
        client = self.engine.connect()
        client.send(b"".join(self.request(f"/files/{name}") for name in ("big", "small", "missing", "big")))
        bodies = [(answer.status, answer.body) for answer in parse_answers(client.take())]
        self.assertEqual(bodies[:2], [(200, BIG), (200, b"small")])
        self.assertEqual(bodies[2][0], 404)


class EndTests(Case):
    """When nothing is in flight any more."""

    def test_stop_closes_upstream_connections(self) -> None:
        """Upstream connections are closed, if there were any."""
        self.relays.stop()
        self.assertFalse(self.upstream.stopped)
        self.engine.connect().send(self.request("/remote/x")).close()
        self.relays.stop()
        self.assertTrue(self.upstream.stopped)
