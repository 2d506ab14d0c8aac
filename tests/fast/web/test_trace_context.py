"""The trace of a request is kept, or made so that log and application have the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.web.trace_context import TraceContext, trace_id

TRACE, PARENT = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
GOOD = b"00-%b-%b-01" % (TRACE, PARENT)


class TraceContextTests(SynchronousTestCase):
    """Requests come with a field, and without."""

    def fields(self, *fields: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """Returns the fields with which the application gets a request."""
        handled: list[Any] = []
        exchange = cast(Any, SimpleNamespace(headers=list(fields)))
        TraceContext(lambda count: bytes(range(1, count + 1))).before(handled.append)(exchange)
        return list(handled[0].headers)

    def test_a_trace_is_kept(self) -> None:
        """A valid field stays as it came, with what vendors say beside it, and names the trace."""
        fields = [(b"Host", b"wiki"), (b"TraceParent", GOOD), (b"tracestate", b"a=b")]
        self.assertEqual(self.fields(*fields), fields)
        self.assertEqual(trace_id(fields), TRACE.decode())

    def test_a_request_without_one_begins_a_trace(self) -> None:
        """A request without a valid field gets one, which is itself valid; what belonged to the other goes."""
        made = b"00-0102030405060708090a0b0c0d0e0f10-1112131415161718-01"
        for fields in ([], [(b"traceparent", b"nonsense"), (b"tracestate", b"a=b")]):
            got = self.fields((b"Host", b"wiki"), *fields)
            self.assertEqual(got, [(b"Host", b"wiki"), (b"traceparent", made)])
            self.assertEqual(trace_id(got), "0102030405060708090a0b0c0d0e0f10")

    def test_what_is_not_valid_is_no_trace(self) -> None:
        """Zeros, capitals, a wrong length, version ff, more than one field, and more in version 00 are no trace."""
        for value in (
            GOOD.upper(),
            GOOD + b"-more",
            GOOD[:-1],
            b"ff" + GOOD[2:],
            GOOD.replace(TRACE, b"0" * 32),
            GOOD.replace(PARENT, b"0" * 16),
            GOOD + b"\n",
        ):
            self.assertIsNone(trace_id([(b"traceparent", value)]), value)
        self.assertIsNone(trace_id([(b"traceparent", GOOD)] * 2))

    def test_a_later_version_may_say_more(self) -> None:
        """A later version may have more behind the flags."""
        self.assertEqual(trace_id([(b"traceparent", b"01" + GOOD[2:] + b"-more")]), TRACE.decode())

    def test_is_needed_only_if_a_log_shows_it(self) -> None:
        """By default no request is looked at."""
        for settings, needed in (
            ({}, False),
            ({"access_log": "-"}, False),
            ({"access_log": "-", "access_log_format": "json"}, True),
            ({"access_log": "-", "access_log_format": "{trace_id}"}, True),
        ):
            self.assertEqual(TraceContext.needed(cast(Any, Settings)(**settings)) is not None, needed, str(settings))
