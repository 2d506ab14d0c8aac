"""The forms of the access log besides the combined one: none of them has a line that a client could forge."""

from __future__ import annotations

import json
from typing import Any

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from graceful.logs.access_forms import BadTemplate, parse_template, renderer
from graceful.logs.access_lines import CombinedLines
from tests.fast.logs.test_access_log import CLOCK, MOMENT, Exchange

EVERY_BYTE = bytes(range(256))


@define
class Measured(Exchange):
    """A finished exchange whose times in the queue are known."""

    waited: float = 0.25
    waited_before: float = 1.5


def render(form: str, *exchanges: Exchange) -> list[str]:
    """Returns the lines of exchanges."""
    made = renderer(form)
    text = "".join(made(exchange, exchange.started + MOMENT - CLOCK) for exchange in exchanges)
    assert text.endswith("\n") and text.isascii()
    return text[:-1].split("\n")


def shown(exchange: Exchange) -> Any:
    """Returns the object of an exchange's line in JSON."""
    (line,) = render("json", exchange)
    return json.loads(line)


class JSONTests(SynchronousTestCase):
    """One JSON object a line."""

    def test_a_line_has_all_that_is_known_of_an_exchange(self) -> None:
        """A line has everything that is known of an exchange, in this order."""
        headers = [(b"HOST", b"wiki"), (b"referer", b"http://a/"), (b"User-Agent", b"curl/8")]
        self.assertEqual(
            list(shown(Measured(headers=headers)).items()),
            [
                ("time", "2026-11-23T13:56:00.000Z"),
                ("peer", "192.0.2.1"),
                ("method", "GET"),
                ("target", "/path"),
                ("protocol", "HTTP/1.1"),
                ("scheme", "http"),
                ("host", "wiki"),
                ("status", 200),
                ("sent", 13),
                ("seconds", 0.001234),
                ("queue_seconds", 0.25),
                ("proxy_queue_seconds", 1.5),
                ("referer", "http://a/"),
                ("user_agent", "curl/8"),
                ("request_id", "run-1"),
                ("trace_id", None),
            ],
        )

    def test_what_is_not_known_is_null(self) -> None:
        """What is not known is null: a Unix socket's peer, a request that was none, times that were not measured."""
        told = shown(Exchange(peer="", target=b"", method="-", status=400))
        unknown = {name for name, value in told.items() if value is None}
        self.assertEqual(
            unknown,
            {"peer", "method", "target", "protocol", "host", "queue_seconds", "proxy_queue_seconds", "referer"}
            | {"user_agent", "trace_id"},
        )

    def test_no_byte_breaks_a_line(self) -> None:
        """Whatever a client sends, a line is one object in ASCII, with the bytes as Latin-1."""
        exchange = Exchange(target=EVERY_BYTE, peer='"\n', headers=[(b"User-Agent", EVERY_BYTE)], request_id="\n")
        told = shown(exchange)
        self.assertEqual((told["target"], told["user_agent"]), (EVERY_BYTE.decode("latin-1"),) * 2)


class TemplateTests(SynchronousTestCase):
    """A line as a template says."""

    def test_shows_the_fields_that_it_names(self) -> None:
        """A template shows the fields that it names, and header fields; what is not known is a hyphen."""
        form = '{time} {peer} "{request}" {status} {seconds} {queue_seconds} {header.X-Trace} {referer} {{}}'
        self.assertEqual(
            render(form, Measured(headers=[(b"x-trace", b"7")])),
            ['2026-11-23T13:56:00.000Z 192.0.2.1 "GET /path HTTP/1.1" 200 0.001234 0.250000 7 - {}'],
        )

    def test_no_byte_breaks_a_line_or_leaves_its_field(self) -> None:
        """Whatever a client sends, a line has its fields: between spaces, or between quotes."""
        exchange = Exchange(target=EVERY_BYTE, headers=[(b"User-Agent", EVERY_BYTE + b'" 200 "')])
        (line,) = render('{target} "{user_agent}" {user_agent}', exchange)
        self.assertRegex(line, r'\A\S+ "(?:[^"\\]|\\.)*" \S+\Z')
        self.assertTrue(line.isprintable())

    def test_refuses_what_is_no_form(self) -> None:
        """A form that there is not, a field that there is not and a lone brace are refused in one line."""
        for form, why in (
            ("apache", "expected combined, json, or a template in one line with names in braces: {status}"),
            ("{status}\n", "expected combined, json, or a template in one line with names in braces: {status}"),
            ("{status", "a brace stands alone: write it twice"),
            ("status} {peer}", "a brace stands alone: write it twice"),
        ):
            self.assertEqual(str(self.assertRaises(BadTemplate, parse_template, form)), why)
        wrong = str(self.assertRaises(BadTemplate, parse_template, "{stauts}"))
        self.assertTrue(wrong.startswith("there is no field 'stauts'; the nearest is status; fields: time, "), wrong)

    def test_the_combined_form_is_what_it_was(self) -> None:
        """The combined form is rendered as always."""
        self.assertIsInstance(renderer("combined"), CombinedLines)
