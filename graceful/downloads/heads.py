"""The head of a download's answer: what the application wants in it, and what the file or the upstream says.

Where both say something the application wins: it knows what the file is called and who may keep it.  Only what frames
the body, or describes which part of it this is, is never the application's.
"""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from attrs import frozen

from graceful.downloads.conditions import CONDITIONS, Verdict, judge, same_file
from graceful.downloads.files import OpenFile
from graceful.web.fields import reason

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from graceful.web.exchange import Exchange

Fields = list[tuple[str, str]]

#: What of a request the upstream gets to know.  Not its cookies and passwords: those are for the application.
PASSED_ON: Final = CONDITIONS | {"accept", "accept-language", "user-agent"}

_NOT_THE_APPLICATIONS: Final = frozenset(("content-length", "content-range", "accept-ranges"))
_HOP: Final = frozenset(
    (
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-accel-redirect",
        "x-graceful-handover",
    )
)


@frozen
class Answer:
    """What an application wants an answer to be.

    :ivar status: its status, `200` for none of its own.
    :ivar fields: its fields, without those that it has no say in.
    """

    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()

    def status_line(self, status: int) -> str:
        """A status with its reason: the application's own, if it wants one and nothing is wrong."""
        if self.status != 200 and status == 200:
            status = self.status
        return f"{status} {reason(status)}"

    def says(self, name: str) -> str | None:
        """The value of a field, by lower-case name."""
        return next((value for own, value in self.fields if own.lower() == name), None)


def answer_of(exchange: Exchange) -> Answer:
    """What the application has said to `start_response`."""
    fields = tuple(
        (name, value) for name, value in as_it_is(exchange.fields()) if name.lower() not in _NOT_THE_APPLICATIONS
    )
    return Answer(exchange.status, fields)


def as_it_is(fields: Fields) -> Fields:
    """Without the word to middlewares that nothing is to be compressed; it is none for clients (RFC 9110 §8.4.1)."""
    return [(name, value) for name, value in fields if (name.lower(), value) != ("content-encoding", "identity")]


def asked_of(exchange: Exchange, answer: Answer) -> dict[str, str]:
    """The fields of a request that say which part of the file, of which version, is wanted; and a few more.

    By lower-case name.  An application that has an entity tag of its own is the judge of what it is compared with.
    """
    asked: dict[str, str] = {}
    for raw_name, raw_value in exchange.headers:
        name = raw_name.decode("latin-1").lower()
        if name in PASSED_ON:
            value = raw_value.decode("latin-1")
            asked[name] = f"{asked[name]}, {value}" if name in asked else value
    own = answer.says("etag")
    if exchange.method not in ("GET", "HEAD") or answer.status != 200:
        asked = {name: value for name, value in asked.items() if name not in CONDITIONS}
    elif own is not None:
        if not same_file(asked.pop("if-range", None), own, None):
            asked.pop("range", None)
    return asked


def upstream_fields(exchange: Exchange, asked: dict[str, str]) -> dict[str, str]:
    """What an upstream is sent: never an invitation to compress, which would change lengths and ranges."""
    fields = {**asked, "accept-encoding": "identity", "x-request-id": exchange.request_id}
    if exchange.peer:
        fields["x-forwarded-for"] = exchange.peer
    return fields


def passed_on(headers: Headers, answer: Answer) -> Fields:
    """The fields of the answer to a client: an upstream's, without its hop-by-hop ones, and the application's."""
    raw = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, values in headers.getAllRawHeaders()
        for value in values
    ]
    hop = set(_HOP)
    for name, value in raw:
        if name.lower() == "connection":
            hop.update(token.strip().lower() for token in value.split(","))
    own = {name.lower() for name, _ in answer.fields}
    hop |= own
    return [*answer.fields, *((name, value) for name, value in raw if name.lower() not in hop)]


def judged(exchange: Exchange, answer: Answer, file: OpenFile, guess: str | None) -> tuple[str, Fields, Verdict]:
    """Decide how a request for a file is answered.

    :param guess: the media type, if the application has not said it.
    :returns: status, fields, and which bytes.
    """
    etag = answer.says("etag") or file.etag
    asked = asked_of(exchange, Answer()) if answer.status == 200 else {}
    verdict = judge(asked, etag, file.modified / 1e9, file.size)
    fields = list(answer.fields)

    def unless_said(name: str, value: str) -> None:
        if answer.says(name.lower()) is None:
            fields.append((name, value))

    if answer.status == 200:
        unless_said("ETag", etag)
        unless_said("Last-Modified", formatdate(file.modified // 10**9, usegmt=True))
        fields.append(("Accept-Ranges", "bytes"))
    if verdict.status in (200, 206) and guess is not None:
        unless_said("Content-Type", guess)
    if verdict.status == 206:
        fields.append(("Content-Range", f"bytes {verdict.first}-{verdict.end - 1}/{file.size}"))
    elif verdict.status == 416:
        fields.append(("Content-Range", f"bytes */{file.size}"))
    if verdict.status in (304, 412, 416):
        fields = _without_body(fields)
    if verdict.status != 304:
        fields.append(("Content-Length", str(verdict.end - verdict.first)))
    return answer.status_line(verdict.status), fields, verdict


def _without_body(fields: Iterable[tuple[str, str]]) -> Fields:
    drop = ("content-type", "content-disposition", "content-encoding", "content-language")
    return [(name, value) for name, value in fields if name.lower() not in drop]
