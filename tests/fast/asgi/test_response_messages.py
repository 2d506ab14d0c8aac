"""The head of an answer, as an ASGI application says it."""

from __future__ import annotations

from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.asgi.response_messages import start_answer
from graceful.web.response_headers import ResponseHead

HEAD = ResponseHead(200, "Content-Type: text/event-stream; of=this-test\r\n", -1, b"")
MESSAGE = {"status": 200, "headers": [(b"content-type", b"text/event-stream; of=this-test")]}
LOOKED_AT = ("200 OK", [("content-type", "text/event-stream; of=this-test")])


class FakeExchange:
    """Notes how its head is said.

    :param resumes: whether its client has got a head from another process.
    """

    head = None

    def __init__(self, resumes: bool) -> None:
        self.resumes = resumes
        self.said: list[Any] = []

    def start(self, status: str, headers: list[tuple[str, str]]) -> ResponseHead:
        """Status and headers that are looked at."""
        self.said.append((status, headers))
        return HEAD

    def start_as(self, head: ResponseHead) -> None:
        """A head that was looked at before."""
        self.said.append(head)


class KnownHeadTests(SynchronousTestCase):
    """A head that comes again."""

    def said(self, resumes: bool = False) -> list[Any]:
        """Returns how the head of an exchange is said."""
        exchange = FakeExchange(resumes)
        start_answer(cast(Any, exchange), MESSAGE)
        return exchange.said

    def test_a_head_that_has_come_before_is_not_looked_at_again(self) -> None:
        """The second time it is said as it was."""
        self.assertIn(self.said(), ([LOOKED_AT], [HEAD]))
        self.assertEqual(self.said(), [HEAD])

    def test_a_stream_that_has_moved_sees_the_fields_of_its_head(self) -> None:
        """It has to compare them with those that its client has got, however often they have come."""
        self.said()
        self.assertEqual(self.said(resumes=True), [LOOKED_AT])
