"""Heads that are put together of lines that came before: the same request, or the same refusal, as if parsed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi import scope
from graceful.asgi.scope import lowered_fields
from graceful.web import field_kinds, field_lines, known_heads, proxies, request_parser, request_rules
from graceful.web.field_kinds import LONGEST_NAME, REMEMBERED_NAMES
from graceful.web.field_lines import LONGEST, MOST, REMEMBERED, put_together
from graceful.web.known_heads import ComposedFields
from graceful.web.proxies import TrustedProxies
from graceful.web.request_parser import RequestParser
from graceful.wsgi import environ
from graceful.wsgi.environ import add_fields
from tests.fast.web.test_known_heads import FIELDS, bodies, forget, slow
from tests.fast.web.test_request_parser import END, GET, HOST, Request, outcome
from tests.support.examples import examples

NAMES = [
    b"X-Id",
    b"x-id",
    b"Accept",
    b"Range",
    b"If-Range",
    b"Host",
    b"Content-Length",
    b"Connection",
    b"Expect",
    b"Transfer-Encoding",
    b"Upgrade",
    b"X_Id",
    b"X Id",
    b"Never",
]
VALUES = [
    b"1",
    b"5",
    b"05",
    b"+5",
    b"5,5",
    b"a b",
    b"a: b",
    b"a\tb",
    b"a ",
    b" a",
    b"",
    b"\xff",
    b"a\rb",
    b"a\nb",
    b"a\x00",
    b"close",
    b"keep-alive, Close",
    b"chunked",
    b"100-continue",
    b"example.org",
    b"other.example:80",
    b"a/b",
]
LINE = b"GET / HTTP/1.1\r\n"
BETWEEN = [b": ", b": ", b": ", b":", b":  ", b" : ", b""]

#: All that is learnt before a head is tried: each name, in a head that the parser takes, twice.
TRAINING = [
    GET + END,
    GET + b"X-Id: 0\r\nx-id: 0\r\nAccept: 0\r\nRange: 0\r\nIf-Range: 0\r\n" + END,
    GET + b"Connection: keep-alive\r\n" + END,
    GET + b"Connection: close\r\n" + END,
    GET + b"Content-Length: 5\r\n" + END + b"12345",
    GET + b"User-Agent: \t some thing \r\nAccept: \xff\r\n" + END,
]

built = st.tuples(st.sampled_from(NAMES), st.sampled_from(BETWEEN), st.sampled_from(VALUES)).map(b"".join)
ids = st.binary(max_size=6).map(lambda value: b"X-Id: " + value)
lines = (built | ids).map(lambda line: line + END) | st.sampled_from(FIELDS)
heads = st.tuples(st.lists(lines, max_size=5), st.integers(0, 5), bodies).map(
    lambda parts: LINE + b"".join([*parts[0][: parts[1]], HOST, *parts[0][parts[1] :]]) + END + parts[2]
)


def train() -> None:
    """Have all ordinary lines come before."""
    for piece in 2 * TRAINING:
        outcome(piece)


@contextmanager
def unparsed() -> Iterator[None]:
    """What comes is not to be parsed."""
    with patch.object(RequestParser, "_feed", side_effect=AssertionError("it was parsed")):
        yield


class SameTests(SynchronousTestCase):
    """Put together or parsed."""

    @given(st.lists(heads, min_size=1, max_size=4))
    @example([LINE + HOST + b"Range: 1\r\nRange: 2\r\n" + END])
    @example([LINE + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n" + END + b"12345"])
    @example([LINE + HOST + b"Connection: close\r\nConnection: keep-alive\r\n" + END])
    @example([LINE + HOST + b"X-Id: 1\n2\r\n" + END])
    @example([LINE + HOST + b"X-Id: 1\r\n 2\r\n" + END])
    @example([LINE + HOST + b"Content-Length: 05\r\n" + END + b"12345"])
    @examples(700)
    def test_a_head_that_never_came_is_the_same_request(self, pieces: list[bytes]) -> None:
        """For any lines there are the same requests, or the same refusal, as by the parser."""
        forget()
        train()
        self.assertEqual(outcome(*pieces), slow(*pieces))
        for piece in pieces:
            self.assertEqual(outcome(piece), slow(piece))

    @given(st.lists(lines, max_size=6).map(b"".join), st.binary(max_size=3), st.integers(0, 200))
    @examples(300)
    def test_a_damaged_head_is_the_same_request(self, fields: bytes, more: bytes, at: int) -> None:
        """So it is with bytes that are wrong anywhere."""
        head = GET + fields + END
        forget()
        train()
        outcome(head)
        damaged = head[:at] + more + head[at:]
        self.assertEqual(outcome(damaged), slow(damaged))


class MemoryTests(SynchronousTestCase):
    """What is put together, and what is remembered for that."""

    def setUp(self) -> None:
        """Begin with what every client sends."""
        forget()
        train()

    def request(self, data: bytes) -> Request:
        """The request that these bytes are."""
        (request,) = outcome(data)
        assert isinstance(request, Request)
        return request

    def test_a_head_with_an_id_of_its_own_is_not_parsed(self) -> None:
        """Nor is one whose body has a length that did not come before."""
        with unparsed():
            for number in range(3):
                request = self.request(GET + b"Accept: 0\r\nX-Id: %d\r\nConnection: close\r\n" % number + END)
                self.assertEqual(request.headers[2], (b"X-Id", b"%d" % number))
                self.assertFalse(request.keep)
            self.assertEqual(self.request(GET + b"Content-Length: 3\r\n" + END + b"abc").body, b"abc")

    def test_a_body_that_does_not_end_with_the_data_is_for_the_parser(self) -> None:
        """Its head may have come in any number of reads."""
        head = b"\r\n" + HOST + b"Content-Length: 3\r\n" + END
        self.assertIs(type(put_together(head, 3)), ComposedFields)
        for body in (0, 2, 4):
            self.assertIsNone(put_together(head, body))

    def test_what_may_be_doubtful_is_for_the_parser(self) -> None:
        """A name that never came, one that the framing depends on, a value that is more than printable ASCII."""
        for line in (
            b"Never: 1",
            b"Expect: 1",
            b"X_Id: 1",
            b"X-Id:1",
            b"X-Id: ",
            b"X-Id: 1 ",
            b"X-Id: \t",
            b"X-Id: \xe4",
        ):
            self.assertIsNone(put_together(b"\r\n" + HOST + line + END + END, 0), line)
        self.assertIsNone(put_together(b"\r\nX-Id: 1\r\n" + END, 0), "it has no host")
        self.assertIsNone(put_together(b"\r\n" + HOST + b"X-Id: 1\r\n" * MOST + END, 0), "it has many lines")

    def test_a_head_that_comes_again_is_remembered_as_a_whole(self) -> None:
        """As if it had been parsed."""
        head = b"\r\n" + HOST + b"X-Id: again\r\n" + END
        for _ in range(2):
            put_together(head, 0)
        self.assertIn(head, known_heads._fields)

    def test_lines_that_are_not_passed_on_are_not_learnt(self) -> None:
        """Nor are those of a head in which a line became another field."""
        for line in (b"X_Id: 1", b"Folded: 1\r\n 2"):
            for _ in range(3):
                outcome(GET + line + END + END)
            self.assertFalse([known for known in field_lines._lines if known in line])

    def test_the_memory_is_bounded(self) -> None:
        """However many lines come, a bounded number of them is held; long ones never are."""
        for number in range(2 * REMEMBERED + 1):
            for _ in range(2):
                outcome(GET + b"X-Id: %d\r\n" % number + END)
        self.assertGreater(len(field_lines._lines), 0)
        self.assertLessEqual(len(field_lines._lines), REMEMBERED)
        for _ in range(3):
            outcome(GET + b"X-Id: " + LONGEST * b"x" + END + END)
        self.assertLessEqual(max(map(len, field_lines._lines)), LONGEST)

    def test_names_that_a_client_makes_up_keep_no_others_out(self) -> None:
        """However many different names came before, those that come again are soon known."""
        for number in range(2000):
            outcome(GET + b"X-Made-Up-%d: 1\r\n" % number + END)
        self.assertLessEqual(len(field_kinds._names), REMEMBERED_NAMES)
        for _ in range(2):
            outcome(GET + b"X-Other: 1\r\n" + END)
        with unparsed():
            outcome(GET + b"X-Other: 2\r\n" + END)

    def test_hosts_are_remembered_boundedly(self) -> None:
        """A client can make up any; those that really come again are soon known."""
        for number in range(3000):
            outcome(LINE + b"Host: %d.example.org\r\n" % number + END)
        self.assertLessEqual(len(request_rules._hosts), 1024)
        self.assertIn(b"2999.example.org", request_rules._hosts)
        long = 300 * b"a"
        outcome(LINE + b"Host: " + long + END + END)
        self.assertNotIn(long, request_rules._hosts)

    def test_long_names_are_not_remembered(self) -> None:
        """A client can make up a thousand of them, of tens of thousands of bytes each."""
        name = b"X-" + LONGEST_NAME * b"a"
        (request,) = outcome(GET + name + b": 1\r\n" + END)
        assert isinstance(request, Request)
        add_fields({}, request.headers)
        lowered_fields(request.headers)
        TrustedProxies(["unix"]).client(request.headers, "")
        for remembered in (field_kinds._names, environ._keys, scope._names, proxies._names):
            self.assertIn(b"Host", remembered)
            self.assertNotIn(name, remembered)

    def test_the_parser_is_asked_when_nothing_is_known(self) -> None:
        """The first request of all is parsed, and so is the second."""
        forget()
        seen: list[bytes] = []
        feed = RequestParser._feed

        def feeding(parser: RequestParser, data: bytes) -> None:
            seen.append(data)
            feed(parser, data)

        with patch.object(request_parser.RequestParser, "_feed", feeding):
            for number in range(4):
                outcome(GET + b"X-Id: %d\r\n" % number + END)
        self.assertEqual(len(seen), 2)
