r"""The other forms of the access log's lines: one JSON object each, or what a template says.

A client that could end a line, or a field, could forge one.  JSON is made by `json`, in ASCII.  In a template, what a
client has sent is escaped as in the combined form, and outside of the template's own quotes a space is `\x20`: so a
field that stands between spaces stays one field, and one between quotes stays there.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from graceful.logs.access_lines import CombinedLines, Finished, escape

COMBINED: Final = "combined"
JSON: Final = "json"

#: Returns the line of an exchange that began at a time, seconds since the epoch.  One thread at a time.
Render = Callable[[Finished, float], str]
#: What a field shows of an exchange that began at a time, seconds since the epoch; None if there is nothing.
_Value = Callable[[Finished, float], str | int | float | None]

_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_HEADER: Final = re.compile(r"header\.([!#$%&'*+\-.^_`|~0-9A-Za-z]+)")


class BadTemplate(ValueError):
    """A form that there is not, or a template that cannot be used.  Its text says what is expected."""


def _header(name: str) -> _Value:
    wanted = name.lower().encode("ascii")

    def value(exchange: Finished, began: float) -> str | None:
        for one, text in exchange.headers:
            if len(one) == len(wanted) and one.lower() == wanted:
                return text.decode("latin-1")
        return None

    return value


def _seconds(name: str) -> _Value:
    def value(exchange: Finished, began: float) -> float | None:
        seconds = getattr(exchange, name, None)  # only there if it was measured
        return None if seconds is None else round(seconds, 6)

    return value


def _time(exchange: Finished, began: float) -> str:
    milliseconds = int(began * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(milliseconds // 1000))}.{milliseconds % 1000:03d}Z"


def _request(exchange: Finished, began: float) -> str | None:
    if not exchange.target:
        return None
    return f"{exchange.method} {exchange.target.decode('latin-1')} HTTP/{exchange.version}"


_JSON_FIELDS: Final[dict[str, _Value]] = {
    "time": _time,
    "peer": lambda exchange, began: exchange.peer or None,
    "method": lambda exchange, began: exchange.method if exchange.target else None,
    "target": lambda exchange, began: exchange.target.decode("latin-1") or None,
    "protocol": lambda exchange, began: f"HTTP/{exchange.version}" if exchange.target else None,
    "scheme": lambda exchange, began: exchange.scheme,
    "host": _header("host"),
    "status": lambda exchange, began: exchange.status,
    "sent": lambda exchange, began: exchange.sent,
    "seconds": lambda exchange, began: round(exchange.ended - exchange.started, 6),
    "queue_seconds": _seconds("waited"),
    "proxy_queue_seconds": _seconds("waited_before"),
    "referer": _header("referer"),
    "user_agent": _header("user-agent"),
    "request_id": lambda exchange, began: exchange.request_id,
    "trace_id": lambda exchange, began: exchange.trace_id,
}
"""The keys of a line in JSON, in their order; null is what is not known."""

_TEMPLATE_FIELDS: Final = {**_JSON_FIELDS, "request": _request}

_Part = tuple[str, _Value | None, bool]  # text, then a value, and whether that stands in the template's quotes


def parse_template(text: str) -> list[_Part]:
    """Returns the parts of a template; none for `combined` and `json`.

    :raises BadTemplate: it names a field that there is not, or is no template.
    """
    if text in (COMBINED, JSON):
        return []
    if "{" not in text or not text.replace("\t", "").isprintable():
        raise BadTemplate(f"expected {COMBINED}, {JSON}, or a template in one line with names in braces: {{status}}")
    parts: list[_Part] = []
    literal, position, quoted = "", 0, False
    for match in _BRACES.finditer(text):
        literal += text[position : match.start()]
        position = match.end()
        if match.group() in ("{{", "}}"):
            literal += match.group()[0]
            continue
        name = match[1]
        if name is None:
            raise BadTemplate("a brace stands alone: write it twice")
        quoted ^= literal.count('"') % 2 == 1
        parts.append((literal, _value_of(name), quoted))
        literal = ""
    parts.append((literal + text[position:] + "\n", None, False))
    return parts


def _value_of(name: str) -> _Value:
    value = _TEMPLATE_FIELDS.get(name)
    if value is not None:
        return value
    match = _HEADER.fullmatch(name)
    if match is not None:
        return _header(match[1])
    near = difflib.get_close_matches(name, _TEMPLATE_FIELDS, 1)
    meant = f"; the nearest is {near[0]}" if near else ""
    raise BadTemplate(f"there is no field {name!r}{meant}; fields: {', '.join(_TEMPLATE_FIELDS)}, header.NAME")


def renderer(form: str) -> Render:
    """Returns what renders lines: `combined`, `json`, or by a template.

    :raises BadTemplate: there is no such form.
    """
    parts = parse_template(form)
    if form == COMBINED:
        return CombinedLines()
    return _json_line if form == JSON else lambda exchange, began: _line(parts, exchange, began)


def _json_line(exchange: Finished, began: float) -> str:
    shown: dict[str, Any] = {name: value(exchange, began) for name, value in _JSON_FIELDS.items()}
    return json.dumps(shown) + "\n"


def _line(parts: Sequence[_Part], exchange: Finished, began: float) -> str:
    line = ""
    for literal, value, quoted in parts:
        line += literal
        if value is not None:
            shown = value(exchange, began)
            if isinstance(shown, float):
                line += f"{shown:.6f}"
            elif shown is None or shown == "":
                line += "-"
            else:
                text = escape(str(shown))
                line += text if quoted else text.replace(" ", "\\x20")
    return line
