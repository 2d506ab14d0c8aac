"""Heads that come again: the same request, or the same refusal, as if each had been parsed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs.access_lines import escape
from graceful.web import field_kinds, field_lines, known_heads, unique_fields
from graceful.web.known_heads import LONGEST_FIELDS, LONGEST_LINE, REMEMBERED, SEEN_ONCE, KnownFields
from graceful.web.request_parser import RequestParser
from graceful.wsgi.environ import add_fields
from tests.fast.web.test_request_parser import END, GET, HOST, Request, Sink, feed, outcome
from tests.support.examples import examples

METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PRI", b"DESCRIBE", b"M-SEARCH", b"FOO", b"get", b""]
TARGETS = [
    b"/",
    b"/a?b=c%20d",
    b"*",
    b"//x",
    b"http://other.example/x",
    b"/#a",
    b"/\xff",
    b'/"<>\\^`{|}',
    b"/a b",
    b"a",
]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"RTSP/1.0", b"ICE/1.0", b"http/1.1", b""]
FIELDS = [
    HOST,
    b"Host: a,b\r\n",
    b"Host: \r\n",
    b"User-Agent: \t some thing \r\n",
    b"Accept: */*\r\nAccept: text/html\r\n",
    b"Cookie: a=1\r\n",
    b"X_Forwarded_For: 1\r\n",
    b"Range: bytes=0-1\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Proxy-Connection: close\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"bad name: 1\r\n",
    b"Folded: 1\r\n 2\r\n",
    b"Bare: 1\n",
    b"Control: \x01\r\n",
    b": nothing\r\n",
]

lines = st.tuples(st.sampled_from(METHODS), st.sampled_from(TARGETS), st.sampled_from(VERSIONS)).map(b" ".join)
ordinary = st.sampled_from([b"GET / HTTP/1.1", b"GET /a HTTP/1.1", b"POST / HTTP/1.1"])
fields = st.lists(st.sampled_from(FIELDS), max_size=4).map(b"".join)
plain = st.sampled_from(
    [
        HOST,
        HOST + b"Accept: */*\r\n",
        b"Cookie: a=1\r\nCookie: b=2\r\n" + HOST,
        HOST + b"Connection: keep-alive\r\n",
        HOST + b"Content-Length: 5\r\n",
        b"content-length: 5\r\nConnection: close\r\n" + HOST,
    ]
)
empty = st.sampled_from([b"", b"", b"", b"\r\n", b"\n", b"\n\r\n", b"\r\n\r\n"])
bodies = st.sampled_from([b"", b"", b"", b"12345", b"1234", b"123456", b"5\r\n12345\r\n0\r\n\r\n"])
# With a body that ends as a request line does.
POSE = HOST + b"Content-Length: 9\r\n" + END + b" HTTP/1.1"
posing = st.tuples(empty, ordinary | lines).map(lambda head: head[0] + head[1] + END + POSE)
heads = st.tuples(empty, ordinary | lines, plain | fields, bodies).map(
    lambda head: head[0] + END.join(head[1:3]) + END + head[3]
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A head, perhaps with a body, with a byte too many, too few, or wrong."""
    head = draw(heads)
    at = draw(st.integers(0, len(head)))
    return head[:at] + draw(st.binary(max_size=2)) + head[at + draw(st.integers(0, 2)) :]


def forget() -> None:
    """Remember nothing."""
    heads = (known_heads._fields, known_heads._once, known_heads._lines)
    for memory in (*heads, field_lines._lines, field_kinds._names, unique_fields._noted, unique_fields._new):
        memory.clear()  # type: ignore[attr-defined]


@contextmanager
def parsed() -> Iterator[None]:
    """Whatever is remembered, all that comes is parsed, piece by piece."""
    with patch.object(RequestParser, "_take_one", lambda parser, data: False):
        yield


def slow(*pieces: bytes) -> list[Request | int]:
    """What becomes of these bytes if nothing is remembered."""
    with parsed():
        return outcome(*pieces)


class SameTests(SynchronousTestCase):
    """Remembered or parsed."""

    @given(st.lists(heads | damaged() | posing | st.binary(max_size=30), min_size=1, max_size=5))
    @example([GET + END, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\nGET /x HTTP/1.1\r\n\r\n"])
    @example([END + b"GET / RTSP/1.0\r\n" + POSE])
    @example([END + b"GET / HTTP/1.1\r\n" + POSE, b"GET /a HTTP/1.1\r\nGET / HTTP/1.1\r\n" + POSE])
    @example([line + END + HOST + END for line in (b"PRI / HTTP/1.1", b"PRI /HTTP/1.1", b"GET / HTTP/1.1")])
    @examples(500)
    def test_a_head_that_comes_again_is_the_same_request(self, pieces: list[bytes]) -> None:
        """For any bytes on a connection there are the same requests, or the same refusal, as without a memory."""
        for piece in 2 * pieces:
            outcome(piece)
        self.assertEqual(outcome(*pieces), slow(*pieces))
        self.assertEqual(outcome(*pieces), slow(*pieces))

    @given(heads | damaged())
    @examples(300)
    def test_an_ordinary_line_fits_any_fields_that_are_known(self, head: bytes) -> None:
        """What was learnt with one request line holds with each other that is not left to the parser."""
        rest = head.lstrip(END).partition(END)[2]
        for _ in range(2):
            outcome(b"GET /first HTTP/1.1" + END + rest)
        self.assertEqual(outcome(head), slow(head))


class MemoryTests(SynchronousTestCase):
    """What is remembered, and how much."""

    def setUp(self) -> None:
        """Begin with nothing."""
        forget()

    def headers(self, *pieces: bytes) -> list[object]:
        """The fields of the exchanges that these bytes become."""
        seen: list[object] = []

        class Looking(Sink):
            def complete(self, exchange: object) -> None:
                seen.append(exchange.headers)  # type: ignore[attr-defined]
                super().complete(exchange)  # type: ignore[arg-type]

        with patch("tests.fast.web.test_request_parser.Sink", Looking):
            feed(*pieces)
        return seen

    def test_fields_are_shared_by_all_connections(self) -> None:
        """The third request with the same fields, of whatever client, has what was parsed of the second one's."""
        self.headers(GET + END)
        self.assertEqual(known_heads._fields, {})
        self.headers(GET + END)
        first, second = self.headers(b"GET /other HTTP/1.1\r\n" + HOST + END, GET + END)
        self.assertIs(type(first), KnownFields)
        self.assertIs(first, second)

    def test_what_the_framing_depends_on_is_not_remembered(self) -> None:
        """Another version, another protocol, a body in chunks or in several reads, a second length."""
        for more in (b"Upgrade: h2c\r\n", b"Proxy-Connection: close\r\n", b"Expect: ,\r\n", b"X_Y: 1\r\n" + 2 * HOST):
            for _ in range(2):
                self.headers(GET + more + END)
        for _ in range(2):
            self.headers(b"GET / HTTP/1.0\r\n" + HOST + END)
            self.headers(b"GET / HTTP/1.0\r\n" + HOST + b"Connection: keep-alive\r\n" + END)
            self.headers(b"GET http://other.example/ HTTP/1.1\r\n" + HOST + b"Connection: close\r\n" + END)
            self.headers(GET + b"Content-Length: 5\r\n" + END, b"12345")
            self.headers(GET + b"Content-Length: 5\r\n" + END + b"12", b"345")
            self.headers(GET + b"Content-Length: 5\r\n" + END + b"12345" + GET + END)
            self.headers(GET + b"Content-Length: 5\r\nContent-Length: 5\r\n" + END + b"12345")
            self.headers(GET + b"Transfer-Encoding: chunked\r\n" + END + b"0\r\n\r\n")
        self.assertEqual(known_heads._fields, {})

    def test_a_body_that_came_with_its_head_is_known_by_it(self) -> None:
        """Length and persistence are remembered with the fields, and hold for these bytes only."""
        post = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nConnection: close\r\n" + END
        for _ in range(2):
            outcome(post + b"12345")
        (known,) = known_heads._fields.values()
        self.assertEqual((known.length, known.keep), (5, False))
        with patch.object(RequestParser, "_feed", side_effect=AssertionError("it was parsed again")):
            (request,) = outcome(post + b"abcde")
        assert isinstance(request, Request)
        self.assertEqual((request.body, request.keep), (b"abcde", False))
        _, parser = feed(post + b"abcde")
        self.assertTrue(parser.ignoring)
        for other in (post + b"abcd", post + b"abcdef", post):
            self.assertEqual(outcome(other), slow(other))

    def test_a_line_that_is_known_is_harmless_to_logs(self) -> None:
        """It stands in the access log as it came: no character that is remembered would have to be escaped."""
        methods = {b"GET": "GET"}
        known = [known_heads.learn_line(b"GET /a%cb?c HTTP/1.1" % code, methods) for code in range(256)]
        texts = [line[2] for line in known if line is not None]
        self.assertEqual(texts, [escape(text) for text in texts])
        self.assertIn("GET /a%b?c HTTP/1.1", texts)
        self.assertEqual(known[ord('"')], None)

    def test_what_another_site_takes_may_be_too_much_for_this_one(self) -> None:
        """Sites share what is remembered, but each has its own limit of a body."""
        post = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1001\r\n" + END + 1001 * b"x"
        for _ in range(2):
            sink = Sink()
            sink.parser = RequestParser(sink, 2000)
            sink.parser.feed(post)
        self.assertEqual(len(known_heads._fields), 1)
        self.assertEqual(outcome(post), [413])

    def test_the_memory_is_bounded(self) -> None:
        """However many different heads come, a bounded number of them is held; large ones never are."""
        for number in range(2 * REMEMBERED + 1):
            for _ in range(2):
                self.headers(GET + b"X-Number: %d\r\n" % number + END)
            self.headers(b"GET /%d HTTP/1.1\r\n" % number + HOST + END)
        self.assertGreater(len(known_heads._fields), 0)
        self.assertLessEqual(len(known_heads._fields), REMEMBERED)
        for number in range(2 * SEEN_ONCE + 1):
            known_heads.learn_fields(b"%d" % number, [])
        self.assertLessEqual(len(known_heads._once), SEEN_ONCE)
        self.assertLessEqual(len(known_heads._lines), REMEMBERED)
        known_heads._fields.clear()
        known_heads._lines.clear()
        for _ in range(2):
            self.headers(GET + b"X-Long: " + b"x" * LONGEST_FIELDS + END + END)
        self.assertEqual(known_heads._fields, {})
        self.headers(GET + END, GET + END, GET + END, b"GET /" + b"x" * LONGEST_LINE + b" HTTP/1.1\r\n" + HOST + END)
        self.assertEqual(list(known_heads._lines), [b"GET / HTTP/1.1"])

    def test_the_environ_of_known_fields_is_made_once(self) -> None:
        """Fields in several lines are joined in it as always."""
        twice = KnownFields([(b"Accept", b"a"), (b"Accept", b"b"), (b"Cookie", b"c=1"), (b"Cookie", b"d=2")])
        environ: dict[str, str] = {}
        add_fields(environ, twice)
        self.assertEqual(environ, {"HTTP_ACCEPT": "a,b", "HTTP_COOKIE": "c=1; d=2"})
