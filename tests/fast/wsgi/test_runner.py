"""The bridge to WSGI applications: what they are told, how they answer, and every way in which they fail."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.validate import validator

from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.wsgi import WSGIResource as TwistedWSGIResource
from zope.interface.verify import verifyObject

from graceful.threads.pool import Pool
from graceful.web.body_spool import MEMORY
from graceful.web.exchange import Exchange
from graceful.web.interfaces import IHandler
from graceful.web.proxies import TrustedProxies
from graceful.wsgi import WSGIResource
from graceful.wsgi.environ import of_server
from graceful.wsgi.filewrapper import FileWrapper
from graceful.wsgi.runner import Runner
from graceful.wsgi.twisted_resource import handler_of
from tests.fast.doubles import CLOSE, GET, HOST, SERVER, Answer, Case, Client, Engine, get, parse_answers, post
from tests.support.waiting import wait_for

LONG = 5.0
"""Seconds after which a test gives up."""

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Any]


class Oops(Exception):
    """What goes wrong in these tests' applications."""


class Body:
    """An answer that is closed, and counts how often.

    :param pieces: functions that return a piece, or raise.
    """

    def __init__(self, *pieces: Callable[[], Any] | Any) -> None:
        self._pieces = pieces
        self.closed = 0

    def __iter__(self) -> Iterator[Any]:
        for piece in self._pieces:
            yield piece() if callable(piece) else piece

    def close(self) -> None:
        self.closed += 1


def fail() -> bytes:
    """Be the piece of an answer that cannot be made."""
    raise Oops


class AppCase(Case):
    """An engine whose exchanges are answered by a WSGI application, in the test's own thread."""

    def serve(self, application: Application, *, validate: bool = True) -> None:
        """Have everything answered by an application; by default one that is watched by `wsgiref.validate`."""
        resource = WSGIResource(None, None, validator(application) if validate else application)
        run = Runner()

        def answer(exchange: Exchange) -> None:
            exchange.handler = resource
            run(exchange)

        self.engine.handler.answer = answer

    def get(self, data: bytes = GET, method: str = "GET", **options: Any) -> Answer:
        """What a new client gets for a request."""
        (answer,) = parse_answers(self.engine.connect(**options).send(data).take(), method)
        return answer

    def answered(self, answer: Callable[[Callable[..., Any]], Any], *, validate: bool = True) -> Answer:
        """What a client gets if the application does this with `start_response`."""
        self.serve(lambda environ, start_response: answer(start_response), validate=validate)
        return self.get()

    def environ(self, data: bytes = GET, **options: Any) -> Environ:
        """What an application is told of a request."""
        seen: list[Environ] = []

        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            seen.append(environ)
            start_response("204 No Content", [])
            return []

        self.serve(application, validate=False)
        self.engine.connect(**options).send(data)
        self.engine.settle()
        return seen[-1]

    def errors(self, *kinds: type[Exception]) -> list[Failure]:
        """What was logged."""
        failures: list[Failure] = self.flushLoggedErrors(*(kinds or (Oops,)))
        return failures


def ok(start_response: Any, *fields: tuple[str, str]) -> Any:
    """Start an ordinary answer."""
    return start_response("200 OK", [("Content-Type", "text/plain"), *fields])


class AnswerTests(AppCase):
    """Every way in which PEP 3333 lets an application answer."""

    def test_a_list_of_one_piece_is_the_body_with_its_length(self) -> None:
        """A list of one piece is the whole body, with its length."""

        def answer(start_response: Any) -> Any:
            ok(start_response)
            return [b"hello"]

        for validate in (False, True):
            got = self.answered(answer, validate=validate)
            self.assertEqual((got.status, got.body, got.whole), (200, b"hello", True))
            self.assertEqual(got.fields.get("content-length"), None if validate else "5")

    def test_several_pieces_are_sent_in_order_without_empty_ones(self) -> None:
        """Lists, tuples, generators and iterators of several pieces are sent in order, empty pieces left out."""
        pieces = [b"one", b"", b"two", b"three"]
        for make in (list, tuple, iter, lambda p: (piece for piece in p), lambda p: Body(*p)):

            def answer(start_response: Any, make: Any = make) -> Any:
                ok(start_response)
                return make(pieces)

            got = self.answered(answer)
            self.assertEqual((got.body, got.whole), (b"onetwothree", True))

    def test_no_pieces_make_an_empty_body(self) -> None:
        """An answer of no pieces, or of empty ones, has an empty body."""
        for make in (list, tuple, lambda: [b""], lambda: iter([b"", b""]), Body):

            def answer(start_response: Any, make: Any = make) -> Any:
                ok(start_response)
                return make()

            got = self.answered(answer)
            self.assertEqual((got.status, got.body, got.fields["content-length"]), (200, b"", "0"))

    def test_an_announced_length_is_sent_as_it_is(self) -> None:
        """A length that the application announces is sent as it is."""

        def answer(start_response: Any) -> Any:
            ok(start_response, ("Content-Length", "6"))
            return [b"one", b"two"]

        got = self.answered(answer)
        self.assertEqual((got.fields["content-length"], got.body), ("6", b"onetwo"))

    def test_a_generator_may_start_its_answer_with_its_first_piece(self) -> None:
        """A generator may start its answer when it is first asked for a piece."""

        def answer(start_response: Any) -> Any:
            ok(start_response)
            yield b"late"

        self.assertEqual(self.answered(answer, validate=False).body, b"late")

    def test_what_is_written_comes_before_what_is_returned(self) -> None:
        """What is written comes before what is returned."""
        for returned in ([], [b"three"], [b"thr", b"ee"]):

            def answer(start_response: Any, returned: Any = returned) -> Any:
                write = ok(start_response)
                write(b"one")
                write(b"")
                write(b"two")
                return returned

            got = self.answered(answer)
            self.assertEqual((got.body, got.whole), (b"onetwo" + b"".join(returned), True))

    def test_sent_at_once(self) -> None:
        """A piece is with the client before the next one is asked for, the head with the first that is not empty."""
        client = self.engine.connect()
        seen: list[bytes] = []

        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            ok(start_response)
            for piece in (b"", b"one", b"two"):
                seen.append(client.end.recv(1000) if seen and piece == b"two" else b"")
                yield piece

        self.serve(application)
        client.send(GET)
        self.assertTrue(seen[2].endswith(b"\r\n\r\n3\r\none\r\n"))
        self.assertEqual(seen[:2], [b"", b""])

    def test_head_204_and_304_have_no_body(self) -> None:
        """HEAD, 204 and 304 work whatever the application returns."""
        for method, status, pieces in (
            ("HEAD", "200 OK", [b"a", b"b"]),
            ("GET", "204 No Content", []),
            ("GET", "304 Not Modified", []),
        ):

            def application(environ: Environ, start_response: Any, status: str = status, pieces: Any = pieces) -> Any:
                start_response(status, [("Content-Type", "text/plain")] if status[:3] == "200" else [])
                return pieces

            self.serve(application)
            got = self.get(GET.replace(b"GET", method.encode()), method)
            self.assertEqual((got.status, got.body), (int(status[:3]), b""))

    def test_file_wrapper_sends_and_closes_a_file(self) -> None:
        """`wsgi.file_wrapper` sends a file, and closes it."""
        file = io.BytesIO(b"x" * 200_000)

        def application(environ: Environ, start_response: Any) -> Any:
            ok(start_response)
            return environ["wsgi.file_wrapper"](file)

        self.serve(application)
        self.assertEqual(self.get().body, b"x" * 200_000)
        self.assertTrue(file.closed)

    def test_wsgi_errors_can_be_written_to(self) -> None:
        """`wsgi.errors` can be written to."""
        self.patch(sys, "stderr", io.StringIO())

        def application(environ: Environ, start_response: Any) -> Any:
            environ["wsgi.errors"].write("line\n")
            environ["wsgi.errors"].writelines(["more\n"])
            environ["wsgi.errors"].flush()
            ok(start_response)
            return [b""]

        self.serve(application)
        self.get()
        self.assertEqual(sys.stderr.getvalue(), "line\nmore\n")  # type: ignore[attr-defined]

    def test_wsgiref_validate_finds_nothing_wrong(self) -> None:
        """Whatever the request, `wsgiref.validate` finds nothing wrong, and the next one follows."""

        def application(environ: Environ, start_response: Any) -> Any:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            ok(start_response)
            return [environ["REQUEST_METHOD"].encode() + b" " + environ["PATH_INFO"].encode("latin-1") + b" " + body]

        self.serve(application)
        client = self.engine.connect()
        client.send(
            get(1)
            + post(5)
            + b"POST /c HTTP/1.1\r\n"
            + HOST
            + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            + b"OPTIONS * HTTP/1.1\r\n"
            + HOST
            + b"\r\n"
            + b"PUT http://b/%e4%2f HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 0\r\n\r\n"
        )
        self.assertEqual(
            self.bodies(client), [b"GET /1 ", b"POST /upload uuuuu", b"POST /c abc", b"OPTIONS  ", b"PUT /\xe4/ "]
        )


class FailureTests(AppCase):
    """Every way in which an application fails."""

    def cut(self, answer: Callable[[Callable[..., Any]], Any], body: bytes) -> None:
        """Check that an answer is cut after a body, visibly, that the error is logged, and the connection ends."""
        self.serve(lambda environ, start_response: answer(start_response), validate=False)
        client = self.engine.connect().send(GET)
        (got,) = parse_answers(client.take())
        self.assertEqual((got.status, got.body, got.whole, client.eof), (200, body, False, True))

    def test_before_the_answer(self) -> None:
        """An error before the answer is a 500 and a traceback in the log that names the request."""
        for early in (False, True):

            def answer(start_response: Any, early: bool = early) -> Any:
                if early:
                    ok(start_response)
                raise Oops

            got = self.answered(answer)
            self.assertEqual((got.status, got.body), (500, b"500 Internal Server Error\n"))
            self.assertEqual(len(self.errors()), 1)

    def test_an_error_in_the_iteration_is_a_500_or_a_cut(self) -> None:
        """An error in the iteration is a 500 as long as nothing was sent, then a cut."""

        def answer(*pieces: Any) -> Callable[[Any], Any]:
            def start(start_response: Any) -> Any:
                ok(start_response)
                return Body(*pieces)

            return start

        for pieces in ((fail,), (b"", fail)):
            self.assertEqual(self.answered(answer(*pieces), validate=False).status, 500)
        self.cut(answer(b"one", fail, b"two"), b"one")
        self.assertEqual(len(self.errors()), 3)

    def test_an_error_after_write_cuts_the_answer(self) -> None:
        """An error behind a `write` cuts the answer."""

        def answer(start_response: Any) -> Any:
            ok(start_response)(b"one")
            raise Oops

        self.cut(answer, b"one")
        self.assertEqual(len(self.errors()), 1)

    def test_no_exception_escapes(self) -> None:
        """Whatever is raised, also what should end a thread, is an application's error."""
        for error in (SystemExit, KeyboardInterrupt, GeneratorExit):

            def answer(start_response: Any, error: Any = error) -> Any:
                raise error

            self.assertEqual(self.answered(answer).status, 500)
            self.assertEqual(len(self.flushLoggedErrors(error)), 1)

    def test_an_application_without_an_answer_is_a_500(self) -> None:
        """Without `start_response`, with None for an answer, or with something that is none, it is a 500."""
        for result in ([], [b"a"], None, 5, ["text"], [b"", "text"], ("text", b"a")):

            def answer(start_response: Any, result: Any = result) -> Any:
                if result not in ([], [b"a"]):
                    start_response("200 OK", [])
                return result

            self.assertEqual(self.answered(answer, validate=False).status, 500, result)
            self.assertEqual(len(self.errors(TypeError, AssertionError)), 1, result)

    def test_bad_pieces_later(self) -> None:
        """A piece that is no bytes, behind one that is, cuts the answer."""

        def answer(start_response: Any) -> Any:
            ok(start_response)
            return [b"one", "two"]

        self.cut(answer, b"one")
        self.assertEqual(len(self.errors(TypeError)), 1)

    def test_a_bad_status_or_field_is_the_applications_error(self) -> None:
        """A status or field that must not be sent is the application's error, which it may catch."""

        def careless(start_response: Any) -> Any:
            start_response("200 OK", [("X-A", "b\r\nSet-Cookie: c")])
            return [b""]

        def careful(start_response: Any) -> Any:
            try:
                start_response("200 OK", [("X-A", "b\r\nSet-Cookie: c")])
            except ValueError:
                start_response("400 Bad Request", [])
            return [b"sorry"]

        self.assertEqual(self.answered(careless, validate=False).status, 500)
        self.assertEqual(len(self.errors(ValueError)), 1)
        self.assertEqual(self.answered(careful, validate=False).status, 400)

    def test_a_second_start_response_without_exc_info_is_an_error(self) -> None:
        """A second `start_response` without `exc_info` is an error, and does not replace the first."""

        def careless(start_response: Any) -> Any:
            ok(start_response)
            start_response("404 Not Found", [])
            return [b""]

        def careful(start_response: Any) -> Any:
            ok(start_response)
            try:
                start_response("404 Not Found", [])
            except AssertionError:
                pass
            return [b"first"]

        self.assertEqual(self.answered(careless, validate=False).status, 500)
        self.assertEqual(len(self.errors(AssertionError)), 1)
        got = self.answered(careful, validate=False)
        self.assertEqual((got.status, got.body), (200, b"first"))

    def test_a_second_start_response_with_exc_info_replaces_the_first(self) -> None:
        """With `exc_info` a second one replaces the first, as long as nothing was sent."""

        def answer(start_response: Any) -> Any:
            ok(start_response, ("Content-Length", "100"), ("X-First", "1"))
            try:
                raise Oops
            except Oops:
                start_response("500 Sorry", [("Content-Type", "text/html")], sys.exc_info())
            return [b"page"]

        got = self.answered(answer)
        self.assertEqual((got.status, got.reason, got.body, got.whole), (500, "Sorry", b"page", True))
        self.assertNotIn("x-first", got.fields)
        self.assertEqual(self.errors(), [])

    def test_error_page_at_first(self) -> None:
        """With `exc_info` at the first call, too."""

        def answer(start_response: Any) -> Any:
            try:
                raise Oops
            except Oops:
                start_response("500 Sorry", [("Content-Type", "text/html")], sys.exc_info())
            return [b"page"]

        self.assertEqual(self.answered(answer).body, b"page")

    def test_error_page_too_late(self) -> None:
        """When something was sent, the error is raised again, and the answer cut."""

        def answer(start_response: Any) -> Any:
            ok(start_response)
            yield b"one"
            try:
                raise Oops
            except Oops:
                start_response("500 Sorry", [], sys.exc_info())
            yield b"two"

        self.cut(answer, b"one")
        self.assertEqual(len(self.errors()), 1)

    def test_no_more_bytes_than_announced_are_sent(self) -> None:
        """Never more bytes than announced are sent, and with fewer the connection ends."""
        for pieces, body in (
            ([b"hello, ", b"world"], b"hello"),
            ([b"hell"], b"hell"),
            ([b"he", b"l"], b"hel"),
            ([], b""),
        ):

            def application(environ: Environ, start_response: Any, pieces: Any = pieces) -> Any:
                start_response("200 OK", [("Content-Length", "5")])
                return pieces

            self.serve(application, validate=False)
            client = self.engine.connect().send(GET)
            (got,) = parse_answers(client.take())
            self.assertEqual((got.body, got.whole, client.eof), (body, body == b"hello", body != b"hello"))

    def test_the_next_client_is_served_after_a_failure(self) -> None:
        """After a failure the next client is served, and nothing stays in the register."""

        def application(environ: Environ, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/1":
                raise Oops
            ok(start_response)
            return [b"fine"]

        self.serve(application)
        client = self.engine.connect().send(get(1))
        self.assertEqual(self.get(get(2)).body, b"fine")
        client.close()
        self.assertEqual((len(self.errors()), self.engine.in_flight), (1, []))


class CloseTests(AppCase):
    """`close()` of an answer is called once, whatever happens."""

    def closed(self, body: Body, *, script: Any = (), data: bytes = GET) -> tuple[Client, Exchange]:
        """Send an answer to a socket that behaves by a script; check that it was closed once."""

        def application(environ: Environ, start_response: Any) -> Any:
            ok(start_response)
            return body

        self.serve(application, validate=False)
        client = self.engine.connect(buffer=5000)
        client.socket.script.extend(script)
        client.send(data)
        self.assertEqual(body.closed, 1)
        return client, self.engine.asked[-1]

    def test_close_is_called_when_all_is_sent(self) -> None:
        """When all is sent."""
        for data in (GET, CLOSE):
            client, _ = self.closed(Body(b"one", b"two"), data=data)
            client.take()
            client.close()
            self.nothing_left()

    def test_closes_when_the_iteration_fails(self) -> None:
        """When the iteration fails, at the first piece or later."""
        for pieces in ((fail,), (b"one", fail)):
            self.closed(Body(*pieces))
        self.assertEqual(len(self.errors()), 2)

    def test_close_is_called_if_the_answer_cannot_be_iterated(self) -> None:
        """When it cannot even be iterated over."""

        class Odd(Body):
            __iter__ = None  # type: ignore[assignment]

        self.closed(Odd())
        self.assertEqual(len(self.errors(TypeError)), 1)

    def test_close_is_called_if_a_piece_is_no_bytes(self) -> None:
        """When a piece is no bytes."""
        self.closed(Body(b"one", "two"))
        self.assertEqual(len(self.errors(TypeError)), 1)

    def test_closes_when_the_client_leaves(self) -> None:
        """When the client leaves, before the first piece, later, or with the last; that is no application's error."""
        for script in ([BrokenPipeError()], [100, BrokenPipeError()], [1000, 1000, ConnectionResetError()]):
            self.closed(Body(b"one" * 100, b"two" * 100), script=script)
            self.nothing_left()
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_gone_without_a_piece(self) -> None:
        """When the client leaves and there is nothing to send but empty pieces, it is not asked for ever."""
        client = self.engine.connect()

        def leave() -> bytes:
            client.connection.close()
            return b""

        body = Body(leave, b"", fail)

        def application(environ: Environ, start_response: Any) -> Any:
            ok(start_response)
            return body

        self.serve(application, validate=False)
        client.send(GET)
        self.assertEqual((body.closed, self.flushLoggedErrors()), (1, []))
        self.nothing_left()

    def test_the_finally_of_a_generator_runs(self) -> None:
        """A generator's `finally` runs, when it is through and when its client leaves."""
        for script in ([], [BrokenPipeError()]):
            seen: list[int] = []

            def application(environ: Environ, start_response: Any, seen: list[int] = seen) -> Iterator[bytes]:
                ok(start_response)
                try:
                    yield b"one"
                    yield b"two"
                finally:
                    seen.append(1)

            self.serve(application, validate=False)
            client = self.engine.connect()
            client.socket.script.extend(script)
            client.send(GET)
            self.assertEqual(seen, [1])

    def test_a_close_that_fails_is_logged(self) -> None:
        """A `close` that fails is logged, and the answer is whole all the same."""

        class Bad(Body):
            def close(self) -> None:
                super().close()
                raise Oops

        client, _ = self.closed(Bad(b"one"))
        self.assertEqual(self.bodies(client), [b"one"])
        self.assertEqual((len(self.errors()), self.engine.in_flight), (1, []))

    def test_after_the_last_byte(self) -> None:
        """`close` is called when the answer is complete, so that the client does not wait for it."""
        client = self.engine.connect()
        got: list[bytes] = []

        class Late(Body):
            def close(self) -> None:
                super().close()
                got.append(client.end.recv(1000))

        body = Late(b"one")

        def application(environ: Environ, start_response: Any) -> Any:
            ok(start_response)
            return body

        self.serve(application)
        client.send(GET)
        self.assertEqual([answer.body for answer in parse_answers(got[0])], [b"one"])

    def test_swallowed_disconnect_ends_the_exchange(self) -> None:
        """An application that swallows the news that its client has left ends like any other."""

        def application(environ: Environ, start_response: Any) -> Any:
            write = ok(start_response)
            for _ in range(3):
                try:
                    write(b"x")
                except OSError:
                    pass
            return []

        self.serve(application, validate=False)
        client = self.engine.connect()
        client.socket.script.append(BrokenPipeError())
        client.send(GET)
        self.nothing_left()
        self.assertEqual(self.flushLoggedErrors(), [])


class EnvironTests(AppCase):
    """What an application is told."""

    def test_environ_has_all_pep_3333_keys(self) -> None:
        """All keys that PEP 3333 knows are there, with what a server without a proxy knows."""
        environ = self.environ(b"GET /a%20b/c?d=e%20f HTTP/1.1\r\nHost: example.org:81\r\n\r\n")
        self.assertIs(type(environ), dict)
        for key, value in {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/a b/c",
            "QUERY_STRING": "d=e%20f",
            "REQUEST_URI": "/a%20b/c?d=e%20f",
            "SERVER_NAME": SERVER[0],
            "SERVER_PORT": str(SERVER[1]),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            "REMOTE_PORT": "50000",
            "HTTP_HOST": "example.org:81",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
            "wsgi.input_terminated": True,
            "wsgi.file_wrapper": FileWrapper,
        }.items():
            self.assertEqual(environ[key], value, key)
        self.assertEqual(environ["wsgi.input"].read(), b"")
        for key in ("CONTENT_TYPE", "CONTENT_LENGTH", "HTTPS"):
            self.assertNotIn(key, environ)

    def test_each_request_has_an_environ_of_its_own(self) -> None:
        """Each request has an environ of its own: what one application puts there no other one sees."""
        seen: list[Environ] = []

        def application(environ: Environ, start_response: Any) -> Any:
            seen.append(dict(environ))
            environ["wsgi.url_scheme"] = environ["marked"] = "changed"
            ok(start_response)
            return [b""]

        self.serve(application, validate=False)
        self.engine.connect().send(get(1) + get(2))
        self.assertEqual(
            [(e["wsgi.url_scheme"], "marked" in e, e["PATH_INFO"]) for e in seen],
            [("http", False, "/1"), ("http", False, "/2")],
        )

    def test_the_path_is_decoded_once(self) -> None:
        """The path is decoded once, into latin-1 of its bytes; the query and REQUEST_URI stay as they were sent."""
        for target, path, query in (
            (b"/", "/", ""),
            (b"/%C3%A4", "/\xc3\xa4", ""),
            (b"/%e4%FF", "/\xe4\xff", ""),
            (b"/a%2Fb%2fc", "/a/b/c", ""),
            (b"/%2541", "/%41", ""),
            (b"/%zz%4", "/%zz%4", ""),
            (b"/a+b", "/a+b", ""),
            (b"/a;b=c", "/a;b=c", ""),
            (b"//a//b", "//a//b", ""),
            (b"/a/../b", "/a/../b", ""),
            (b"/?", "/", ""),
            (b"/?a?b", "/", "a?b"),
            (b"/%3Fa?b=%3F%20+", "/?a", "b=%3F%20+"),
            (b"/%00", "/\0", ""),
        ):
            environ = self.environ(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertEqual(
                (environ["PATH_INFO"], environ["QUERY_STRING"], environ["REQUEST_URI"]),
                (path, query, target.decode()),
            )

    def test_an_absolute_target_gives_its_path_and_authority(self) -> None:
        """An absolute target gives its path and its authority; `*` gives no path."""
        environ = self.environ(b"GET http://b:81/x?y HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertEqual((environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]), ("/x", "y", "b:81"))
        environ = self.environ(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
        self.assertEqual((environ["PATH_INFO"], environ["REQUEST_URI"]), ("", "*"))

    def test_the_protocol_is_the_requests(self) -> None:
        """The protocol is the request's."""
        self.assertEqual(self.environ(b"GET / HTTP/1.0\r\n\r\n")["SERVER_PROTOCOL"], "HTTP/1.0")

    def test_fields_are_latin_1_with_folded_names(self) -> None:
        """Fields are latin-1, their names folded; the type and length of the body have keys of their own."""
        environ = self.environ(
            b"POST / HTTP/1.1\r\n" + HOST + b"content-TYPE: text/plain; charset=x\r\nX-Some-Thing: \xe4\xff\r\n"
            b"Accept:\r\nContent-Length: 2\r\nX.Y~Z: dot\r\n\r\nab"
        )
        self.assertEqual(environ["CONTENT_TYPE"], "text/plain; charset=x")
        self.assertEqual(environ["CONTENT_LENGTH"], "2")
        self.assertEqual(environ["HTTP_X_SOME_THING"], "\xe4\xff")
        self.assertEqual((environ["HTTP_ACCEPT"], environ["HTTP_X.Y~Z"]), ("", "dot"))
        self.assertNotIn("HTTP_CONTENT_TYPE", environ)
        self.assertNotIn("HTTP_CONTENT_LENGTH", environ)

    def test_a_decoded_body_is_announced_by_its_length_alone(self) -> None:
        """A body that came in chunks has a length, and its coding is not said: it would be decoded once more."""
        head = b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: Chunked\r\nTE: trailers\r\nTrailer: X-T\r\n\r\n"
        for body, chunks in (
            (b"", b""),
            (b"abc", b"3\r\nabc\r\n"),
            (b"u" * MEMORY * 2, b"20000\r\n" + b"u" * 0x20000 + b"\r\n"),
        ):
            environ = self.environ(head + chunks + b"0\r\nX-T: 1\r\n\r\n")
            self.assertEqual(environ["CONTENT_LENGTH"], str(len(body)))
            self.assertNotIn("HTTP_TRANSFER_ENCODING", environ)
            self.assertEqual((environ["HTTP_TE"], environ["HTTP_TRAILER"]), ("trailers", "X-T"))
            self.assertEqual(environ["graceful.trailers"], [("X-T", "1")])

    def test_workers_are_several_processes(self) -> None:
        """PEP 3333: whether another process may call the application at the same time."""
        self.assertEqual([of_server(several)["wsgi.multiprocess"] for several in (False, True)], [False, True])

    def test_a_request_without_a_body_announces_none(self) -> None:
        """No length is made up for a request that has no body."""
        self.assertNotIn("CONTENT_LENGTH", self.environ())

    def test_a_repeated_field_is_one_list(self) -> None:
        """A field that comes in several lines is one list, cookies joined their own way."""
        environ = self.environ(GET[:-2] + b"X-A: 1\r\nCookie: a=1\r\nx-a: 2\r\ncookie: b=2\r\nX-A: 3\r\n\r\n")
        self.assertEqual((environ["HTTP_X_A"], environ["HTTP_COOKIE"]), ("1,2,3", "a=1; b=2"))

    def test_a_field_with_an_underscore_does_not_pass_for_its_twin(self) -> None:
        """A field with an underscore cannot pass for its twin with a hyphen."""
        environ = self.environ(GET[:-2] + b"X_Real_IP: 1\r\nX-Real-IP: 2\r\nRemote_Addr: 3\r\nX_Only: 4\r\n\r\n")
        self.assertEqual((environ["HTTP_X_REAL_IP"], environ["REMOTE_ADDR"]), ("2", "192.0.2.1"))
        self.assertNotIn("HTTP_X_ONLY", environ)

    def test_no_field_can_pass_for_another_key(self) -> None:
        """Whatever a field is called, it cannot change what the server itself says."""
        plain = self.environ()
        names = (
            "Request-Method",
            "Script-Name",
            "Path-Info",
            "Remote-Addr",
            "Server-Name",
            "HTTPS",
            "wsgi.url_scheme",
        )
        environ = self.environ(GET[:-2] + b"".join(name.encode() + b": evil\r\n" for name in names) + b"\r\n")
        for key, value in plain.items():
            if not key.startswith(("HTTP_", "wsgi.input", "graceful.exchange")):
                self.assertEqual(environ[key], value, key)

    def test_many_made_up_names_are_all_told_right(self) -> None:
        """However many names clients make up, all are told right."""
        for start in range(0, 2000, 100):
            lines = b"".join(b"X-M%d: %d\r\n" % (number, number) for number in range(start, start + 100))
            environ = self.environ(GET[:-2] + lines + b"\r\n")
            self.assertEqual(environ[f"HTTP_X_M{start + 99}"], str(start + 99))

    def test_a_client_on_a_unix_socket_has_no_address(self) -> None:
        """On a Unix socket the client has no address."""
        self.assertEqual(self.environ(peer=None)["REMOTE_ADDR"], "")

    def test_only_a_trusted_proxy_replaces_the_clients_address(self) -> None:
        """What a trusted proxy tells of the client replaces what the connection says; another's does not."""
        fields = b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-Id: r-1\r\n\r\n"
        self.engine = Engine(self, proxies=TrustedProxies(["192.0.2.0/24"]))
        environ = self.environ(GET[:-2] + fields)
        self.assertEqual(
            (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTPS"], environ["HTTP_X_REQUEST_ID"]),
            ("203.0.113.9", "https", "on", "r-1"),
        )
        environ = self.environ(GET)
        self.assertEqual((environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]), ("192.0.2.1", "http"))
        environ = self.environ(GET[:-2] + fields, peer=("198.51.100.7", 5))
        self.assertEqual((environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]), ("198.51.100.7", "http"))
        self.assertNotIn("HTTPS", environ)

    def test_proxy_for_several(self) -> None:
        """Requests of several clients that share a proxy's connection are told apart."""
        self.engine = Engine(self, proxies=TrustedProxies(["192.0.2.0/24"]))
        seen: list[str] = []

        def application(environ: Environ, start_response: Any) -> Any:
            seen.append(environ["REMOTE_ADDR"])
            ok(start_response)
            return [b""]

        self.serve(application)
        self.engine.connect().send(
            GET[:-2]
            + b"X-Forwarded-For: 203.0.113.1\r\n\r\n"
            + GET
            + GET[:-2]
            + b"X-Forwarded-For: 203.0.113.2\r\n\r\n"
        )
        self.assertEqual(seen, ["203.0.113.1", "192.0.2.1", "203.0.113.2"])

    def test_below_a_prefix_script_name_and_path_info_are_split(self) -> None:
        """Below a prefix, the application's part of the path is its own, and both together the whole."""
        resource = WSGIResource(None, None, lambda environ, start_response: [])
        seen: list[Exchange] = []
        self.patch(WSGIResource, "handle", lambda resource, exchange: seen.append(exchange))
        for prefix, rest, script_name, path_info in (
            ([b"a"], [], "/a", ""),
            ([b"a", b"b"], [b"c"], "/a/b", "/c"),
            ([b"a", b""], [], "/a", "/"),
            ([b"a"], [b""], "/a", "/"),
            ([b"a"], [b"b", b""], "/a", "/b/"),
            ([], [b"a"], "", "/a"),
            ([b""], [], "", "/"),
            ([b"\xe4"], [b"\xff"], "/\xe4", "/\xff"),
        ):
            exchange = self.ask()[1]
            resource.take(exchange, prefix, rest)
            self.assertEqual(exchange.mount, (script_name, path_info))


class InputTests(AppCase):
    """`wsgi.input`, of bodies in memory and in a file."""

    def read(self, size: int, read: Callable[[Any], Any], *, chunked: bool = False) -> Any:
        """What reading makes of a body of lines."""
        body = b"".join(b"line %d\n" % number for number in range(size // 7))
        result: list[Any] = []

        def application(environ: Environ, start_response: Any) -> Any:
            self.assertEqual(environ["CONTENT_LENGTH"], str(len(body)))
            result.append(read(environ["wsgi.input"]))
            ok(start_response)
            return [b""]

        self.serve(application)
        head = b"POST / HTTP/1.1\r\n" + HOST
        if chunked:
            data = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        else:
            data = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        self.engine.connect().send(data)
        self.engine.settle()
        return result[0]

    def test_no_method_of_the_input_reads_past_the_body(self) -> None:
        """All methods work, wherever the body is, and none reads past its end."""
        for size in (700, MEMORY + 7000):
            for chunked in (False, True):
                lines = [b"line %d\n" % number for number in range(size // 7)]
                body = b"".join(lines)
                for read, expected in (
                    (lambda f: f.read(10), body[:10]),
                    (lambda f: f.readline(), lines[0]),
                    (lambda f: f.readline(3), b"lin"),
                    (lambda f: f.readlines(), lines),
                    (lambda f: list(f), lines),
                    (
                        lambda f: (f.readline(), f.read(4), f.readline(), next(iter(f))),
                        (b"line 0\n", b"line", b" 1\n", b"line 2\n"),
                    ),
                    (
                        lambda f: (f.read(1 << 20), f.read(5), f.readline(), f.readlines(), list(f)),
                        (body, b"", b"", [], []),
                    ),
                ):
                    self.assertEqual(self.read(size, read, chunked=chunked), expected)

    def test_all_of_it(self) -> None:
        """Reading without a size ends with the body, on which applications rely that see `wsgi.input_terminated`."""
        for data in (post(5), post(MEMORY + 10), GET):
            stream = self.environ(data)["wsgi.input"]
            if not stream.closed:
                self.assertIn(len(stream.read()), (0, 5))

    def test_closed_with_the_exchange(self) -> None:
        """A file with a body is closed with its exchange."""
        stream = self.environ(post(MEMORY + 10))["wsgi.input"]
        self.assertTrue(stream.closed)

    def test_trailers_are_apart_from_the_fields(self) -> None:
        """Trailers are told apart from the fields, also of an empty body."""
        for chunk in (b"", b"1\r\na\r\n"):
            environ = self.environ(
                b"POST / HTTP/1.1\r\n"
                + HOST
                + b"Transfer-Encoding: chunked\r\n\r\n"
                + chunk
                + b"0\r\nX-Sum: \xe4\r\n\r\n"
            )
            self.assertEqual(environ["graceful.trailers"], [("X-Sum", "\xe4")])
            self.assertNotIn("HTTP_X_SUM", environ)


class FileWrapperTests(Case):
    """`wsgi.file_wrapper` by itself."""

    def test_a_file_wrapper_reads_blocks_of_the_given_size(self) -> None:
        """It reads in blocks of the size it is told."""
        self.assertEqual(list(FileWrapper(io.BytesIO(b"abcdefg"), 3)), [b"abc", b"def", b"g"])
        self.assertEqual(list(FileWrapper(io.BytesIO())), [])

    def test_a_file_wrapper_closes_its_file(self) -> None:
        """It closes what can be closed."""
        file = io.BytesIO()
        FileWrapper(file).close()
        self.assertTrue(file.closed)

        class Reader:
            def read(self, size: int) -> bytes:
                return b""

        FileWrapper(Reader()).close()


class ResourceTests(AppCase):
    """The way to a thread, and back."""

    def pool(self, size: int, queue: int = 100) -> Pool[Exchange]:
        """A pool of real threads that run applications."""
        pool = Pool(size, queue, Runner())
        pool.start()
        self.addCleanup(pool.stop, LONG)
        self.engine.site.pool_for = lambda threadpool: pool
        return pool

    def serve_in_threads(self, application: Application) -> None:
        """Have an application run by the pool's threads."""
        self.engine.serve(WSGIResource(None, None, application))

    def until(self, client: Client, count: int) -> list[Answer]:
        """Wait until a client has so many answers."""
        data = b""
        client.end.settimeout(LONG)
        while len(answers := parse_answers(data)) < count or answers[-1].whole is False:
            data += client.end.recv(65536)
            self.engine.turn()
        client.end.setblocking(False)
        return answers

    def test_the_resource_and_twisteds_own_are_handlers(self) -> None:
        """It is a resource and a handler, and so is Twisted's own."""
        resource = WSGIResource(None, None, lambda environ, start_response: [])
        verifyObject(IResource, resource)
        verifyObject(IHandler, resource)
        application = lambda environ, start_response: []  # noqa: E731
        recognised = handler_of(TwistedWSGIResource(None, None, application))
        self.assertIs(recognised.application, application)

    def test_requests_of_several_clients_are_answered_side_by_side(self) -> None:
        """Requests of several clients are answered side by side, in threads, those of one client in order."""
        self.pool(2)
        barrier = threading.Barrier(2)
        idents: set[int] = set()

        def application(environ: Environ, start_response: Any) -> Any:
            idents.add(threading.get_ident())
            if environ["PATH_INFO"] == "/0":
                barrier.wait(LONG)
            ok(start_response)
            return [environ["PATH_INFO"].encode()]

        self.serve_in_threads(application)
        clients = [self.engine.connect() for _ in range(2)]
        for client in clients:
            client.send(b"".join(get(number) for number in range(5)))
        for client in clients:
            self.assertEqual(
                [answer.body for answer in self.until(client, 5)], [b"/%d" % number for number in range(5)]
            )
        self.assertNotIn(threading.get_ident(), idents)

    def test_close_in_a_thread(self) -> None:
        """`close` is called in the application's thread, also when the client has left."""
        self.pool(1)
        closed: list[int] = []
        done = threading.Event()
        begun = threading.Event()
        left = threading.Event()

        class Ours(Body):
            def close(self) -> None:
                closed.append(threading.get_ident())
                done.set()

        def wait() -> bytes:
            begun.set()
            left.wait(LONG)
            return b"x"

        def application(environ: Environ, start_response: Any) -> Any:
            ok(start_response)
            return Ours(wait)

        self.serve_in_threads(application)
        client = self.engine.connect().send(GET)
        self.assertTrue(begun.wait(LONG))
        client.close()
        left.set()
        self.assertTrue(done.wait(LONG))
        self.assertNotIn(threading.get_ident(), closed)

    def test_a_full_queue_answers_503_and_keeps_the_connection(self) -> None:
        """With all threads taken so many wait, and the next is told 503, while its connection goes on."""
        self.pool(1, 1)
        go_on = threading.Event()
        self.addCleanup(go_on.set)

        def application(environ: Environ, start_response: Any) -> Any:
            go_on.wait(LONG)
            ok(start_response)
            return [b"done"]

        self.serve_in_threads(application)
        waiting = [self.engine.connect().send(GET) for _ in range(2)]
        third = self.engine.connect().send(GET)
        (answer,) = parse_answers(third.take())
        self.assertEqual((answer.status, answer.fields["retry-after"], third.eof), (503, "5", False))
        self.assertEqual(len(self.engine.in_flight), 2)
        go_on.set()
        for client in waiting:
            self.assertEqual(self.until(client, 1)[0].body, b"done")

    def test_left_while_it_waited(self) -> None:
        """An exchange whose client has left before a thread was free is not run any more."""
        self.pool(1)
        go_on, begun = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        seen: list[str] = []

        def application(environ: Environ, start_response: Any) -> Any:
            seen.append(environ["PATH_INFO"])
            begun.set()
            go_on.wait(LONG)
            ok(start_response)
            return [b""]

        self.serve_in_threads(application)
        first = self.engine.connect().send(get(1))
        self.assertTrue(begun.wait(LONG))
        self.engine.connect().send(get(2)).close()
        third = self.engine.connect().send(get(3))
        go_on.set()
        for client in (first, third):
            self.until(client, 1)
        self.assertEqual(seen, ["/1", "/3"])
        wait_for(lambda: not self.engine.in_flight)  # the thread notes it after the client has its answer
