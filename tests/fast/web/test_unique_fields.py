"""Heads that are known but for some fields: the same request, and the same environ, as if parsed."""

from __future__ import annotations

from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi.scope import lowered_fields
from graceful.web import field_lines, known_heads, unique_fields
from graceful.web.exchange import Exchange
from graceful.web.known_heads import ComposedFields
from graceful.web.request_rules import MAX_FIELDS
from graceful.web.unique_fields import NEW, NOTED, SAMPLE
from graceful.wsgi.environ import ConnectionEnviron, add_fields
from tests.fast.web.test_field_lines import LINE, VALUES, train, unparsed
from tests.fast.web.test_known_heads import forget, parsed, slow
from tests.fast.web.test_request_parser import END, GET, HOST, Request, Sink, feed, outcome
from tests.support.examples import examples

#: Heads with a new value each after which the next one is known but for that.
SOON = NEW + 4

BASE = {"SERVER_NAME": "example.org"}
#: Lines that may be the same in all heads of a client, or in two of the names below.
SAME = [
    b"Accept: 0",
    b"X-Id: 0",
    b"x-id: 0",
    b"Range: 0",
    b"Connection: close",
    b"X-Two: a\r\n b",
    b"X_Id: 1",
    b"Never: 1",
]
OWN = [b"X-Id", b"x-id", b"X-Two", b"Cookie", b"User-Agent"]

same = st.lists(st.sampled_from(SAME).map(lambda line: line + END), max_size=3)
values = st.integers(0, 2**64).map(lambda number: b"%d" % number) | st.sampled_from(VALUES) | st.binary(max_size=4)
own = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(OWN)), min_size=1, max_size=3)


class Looking(Sink):
    """Keeps the exchanges."""

    def __init__(self, room: int = 1 << 30) -> None:
        super().__init__(room)
        self.seen: list[Exchange] = []

    def complete(self, exchange: Exchange) -> None:
        """Keep it."""
        self.seen.append(exchange)
        super().complete(exchange)


def exchanges_of(head: bytes) -> list[Exchange]:
    """Returns the exchanges that this becomes: one, or none if it is refused."""
    with patch("tests.fast.web.test_request_parser.Sink", Looking):
        sink, _ = feed(head)
    assert isinstance(sink, Looking)
    return sink.seen


def exchange_of(head: bytes) -> Exchange:
    """Returns the exchange that this becomes."""
    (exchange,) = exchanges_of(head)
    return exchange


def seen_of(exchange: Exchange) -> tuple[object, ...]:
    """Returns what there is to compare of it."""
    return exchange.method, exchange.target, list(exchange.headers), exchange.keep


class SameTests(SynchronousTestCase):
    """Cut and put back, or parsed."""

    @given(same, own, st.lists(st.tuples(values, values, values), min_size=4, max_size=7))
    @example([b"X-Id: 0\r\n"], [(0, b"X-Id")], [(b"%d" % n,) * 3 for n in range(7)])
    @example([b"X-Id: 0\r\n"], [(4, b"x-id")], [(b"%d" % n,) * 3 for n in range(7)])
    @example(
        [b"Accept: 0\r\n"], [(0, b"X-Id"), (1, b"Cookie"), (4, b"X-Id")], [(b"%d" % n, b"a", b"b") for n in range(7)]
    )
    @example([b"X_Id: 1\r\n", b"Accept: 0\r\n"], [(2, b"X-Id")], [(b"%d" % n,) * 3 for n in range(7)])
    @example([b"X-Two: a\r\n b\r\n"], [(1, b"X-Id")], [(b"%d" % n,) * 3 for n in range(7)])
    @examples(300)
    def test_a_head_with_new_values_is_the_same_request(
        self, lines: list[bytes], names: list[tuple[int, bytes]], rounds: list[tuple[bytes, ...]]
    ) -> None:
        """Wherever its own fields stand, and whatever they say; and an application sees the same."""
        forget()
        train()
        with patch.object(unique_fields, "NEW", 1):
            for name in OWN:
                for value in (b"a", b"b", b"c"):
                    outcome(GET + name + b": " + value + END + END)
        for _ in range(2):
            outcome(LINE + HOST + b"".join(lines) + END)  # what is left may have come by itself
        for said in rounds:
            head = [HOST, *lines]
            for (place, name), value in zip(names, said, strict=False):
                head.insert(place, name + b": " + value + END)
            piece = LINE + b"".join(head) + END
            became = exchanges_of(piece)  # first: to the others, it is a head that has come before
            with parsed():
                expected = exchanges_of(piece)
            self.assertEqual([seen_of(one) for one in became], [seen_of(one) for one in expected])
            self.assertEqual(outcome(piece), slow(piece))
            for exchange in became:
                environ = dict(BASE)
                add_fields(environ, list(exchange.headers))
                common = ConnectionEnviron(BASE)
                for _ in range(4):  # the first time, and when its fields come again
                    made = common.with_fields(exchange.headers)
                    self.assertEqual(made, environ)
                    made["own"] = made["SERVER_NAME"] = None  # an application may change what it gets
                lowered = [(name.lower(), value) for name, value in exchange.headers]
                self.assertEqual(lowered_fields(exchange.headers), lowered)


class MemoryTests(SynchronousTestCase):
    """What is cut, and what is remembered for that."""

    def setUp(self) -> None:
        """Begin with nothing."""
        forget()

    def test_the_rest_of_the_head_is_shared(self) -> None:
        """After a few requests none of their lines is looked at any more, and one environ serves for all."""
        for number in range(SOON):
            outcome(GET + b"X-Id: %d\r\nAccept: a\r\nTraceparent: %d-0\r\nAge: 0\r\n" % (number, number) + END)
        with unparsed(), patch.object(field_lines, "_lines", {}):
            first, second = (
                exchange_of(
                    GET + b"X-Id: %d\r\nAccept: a\r\nTraceparent: %d-0\r\nAge: 0\r\n" % (number, number) + END
                ).headers
                for number in (7, 8)
            )
        assert isinstance(first, ComposedFields)
        assert isinstance(second, ComposedFields)
        self.assertEqual(first[1:], ((b"X-Id", b"7"), (b"Accept", b"a"), (b"Traceparent", b"7-0"), (b"Age", b"0")))
        self.assertIsNotNone(first.rest)
        self.assertIs(first.rest, second.rest)

    def test_a_body_that_came_with_its_head_is_known_by_it(self) -> None:
        """The length is one of the lines that come again."""
        head = GET + b"Content-Length: 3\r\nX-Id: %d\r\n" + END
        for number in range(SOON):
            outcome(head % number + b"abc")
        with unparsed(), patch.object(field_lines, "_lines", {}):
            (request,) = outcome(head % 7 + b"def")
        assert isinstance(request, Request)
        self.assertEqual(request.body, b"def")

    def test_a_head_that_comes_again_is_known_as_a_whole(self) -> None:
        """A client whose fields are not those of others is known by all of them."""
        for number in range(SOON):
            outcome(GET + b"Cookie: %d\r\n" % number + END)
        for _ in range(2):
            outcome(GET + b"Cookie: again\r\n" + END)
        self.assertIn(b"\r\n" + HOST + b"Cookie: again\r\n" + END, known_heads._fields)

    def test_the_log_names_the_client_of_each(self) -> None:
        """Requests share what their clients are called only if no name of one is cut out."""
        head = GET + b"User-Agent: %s\r\nX-Id: %s\r\n" + END
        for number in range(SOON):
            outcome(head % (b"same", b"%d" % number))
        first, second = (exchange_of(head % (b"same", b"1%d" % number)) for number in range(2))
        self.assertEqual(first.shown_client, '"-" "same"')
        self.assertIs(first.shown_client, second.shown_client)
        for number in range(SOON):
            outcome(head % (b"agent/%d" % number, b"2%d" % number))
        for agent in (b"one/1", b"two/2"):
            exchange = exchange_of(head % (agent, b"3" + agent))
            self.assertIs(type(exchange.headers), ComposedFields)
            self.assertEqual(exchange.shown_client, f'"-" "{agent.decode()}"')

    def test_a_name_whose_values_come_again_is_not_cut_out(self) -> None:
        """However many clients there are: what they are called is not new for each request."""
        for number in range(5 * NEW):
            for _ in range(3):
                outcome(GET + b"User-Agent: agent/%d\r\n" % number + END)
        self.assertEqual(unique_fields._noted, {})
        self.assertLessEqual(max(unique_fields._new.values(), default=0), 1)

    def test_what_comes_again_now_and_then_does_not_count_as_new(self) -> None:
        """New clients come among old ones."""
        for number in range(3 * NEW):
            outcome(GET + b"User-Agent: agent/%d\r\n" % number + END)
            with patch.object(field_lines, "known_fields", lambda data: None):  # the rest of the head is another
                outcome(GET + b"User-Agent: same\r\nX-Id: %d\r\n" % number + END)
        self.assertEqual(list(unique_fields._noted.values()), [b"X-Id"])

    def test_a_name_whose_values_come_again_after_all_is_cut_out_no_more(self) -> None:
        """Enough clients may have come at once, each with a name of its own, when the server was new."""
        head = GET + b"User-Agent: agent/%d\r\nX-Id: %d\r\n" + END
        for number in range(SOON):
            outcome(head % (number, number))
        self.assertEqual(set(unique_fields._noted.values()), {b"User-Agent", b"X-Id"})
        for number in range(SOON, 100 * SAMPLE):
            outcome(head % (number % 4, number))
        self.assertEqual(set(unique_fields._noted.values()), {b"X-Id"})

    def test_names_with_new_values_are_counted_boundedly(self) -> None:
        """A client may make up as many as it likes."""
        for number in range(300):
            for value in range(4):
                outcome(GET + b"X-%d: %d\r\n" % (number, value) + END)
        self.assertLessEqual(len(unique_fields._new), unique_fields._COUNTED)

    def test_few_names_are_noted(self) -> None:
        """However many a client makes up; those that really have new values are soon back."""
        for number in range(3 * NOTED + 1):
            for value in range(NEW + 1):
                outcome(GET + b"X-%d: %d\r\n" % (number, value) + END)
            self.assertLessEqual(len(unique_fields._noted), NOTED)
        self.assertIn(b"\r\nX-%d: " % number, unique_fields._noted)

    def test_a_name_that_the_framing_depends_on_is_not_noted(self) -> None:
        """Nor is one of which a head may have one only."""
        for number in range(SOON):
            outcome(GET + b"Content-Length: %d\r\nRange: bytes=%d-\r\n" % (number, number) + END + b"x" * number)
        self.assertEqual(unique_fields._noted, {})

    def test_no_head_gets_more_fields_than_the_parser_takes(self) -> None:
        """What is left may have as many as a head may have."""
        for number in range(SOON):
            outcome(GET + b"X-Id: %d\r\n" % number + END)
        many = GET + (MAX_FIELDS - 1) * b"A: 1\r\n"
        for _ in range(3):
            outcome(many + END)
        for number in range(3):
            head = many + b"X-Id: 1%d\r\n" % number + END
            self.assertEqual(outcome(head), slow(head))
