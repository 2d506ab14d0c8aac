"""The head of a download's answer: what the application wants in it, and what the file or the upstream says.

Where both say something the application wins: it knows what the file is called and who may keep it.  Only what frames
the body, or describes which part of it this is, is never the application's.
"""

from __future__ import annotations

from collections.abc import Collection
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from attrs import frozen

from graceful.downloads.conditions import CONDITIONS, FileSelection, evaluate, same_file, seconds
from graceful.downloads.files import OpenFile
from graceful.web.response_headers import reason

if TYPE_CHECKING:
    from twisted.web.http_headers import Headers

    from graceful.web.exchange import Exchange

Fields = list[tuple[str, str]]

#: What of a request the upstream gets to know.  Not its cookies and passwords: those are for the application.
PASSED_ON: Final = CONDITIONS | {"accept", "accept-language", "user-agent"}

_RANGES: Final = frozenset(("range", "if-range"))
_ABOUT_THE_BODY: Final = frozenset(("content-type", "content-disposition", "content-encoding", "content-language"))
_ABOUT_THE_FILE: Final = _ABOUT_THE_BODY | {"cache-control", "etag", "expires", "last-modified"}
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
class ApplicationHead:
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


def application_head(exchange: Exchange) -> ApplicationHead:
    """What the application has said to `start_response`."""
    fields = tuple(
        (name, value)
        for name, value in without_identity(exchange.fields())
        if name.lower() not in _NOT_THE_APPLICATIONS
    )
    return ApplicationHead(exchange.status, fields)


def without_identity(fields: Fields) -> Fields:
    """Without the word to middlewares that nothing is to be compressed; it is none for clients (RFC 9110 §8.4.1)."""
    return [(name, value) for name, value in fields if (name.lower(), value) != ("content-encoding", "identity")]


def request_fields(exchange: Exchange, status: int) -> dict[str, str]:
    """The fields of a request that say which part of the file, of which version, is wanted; and a few more.

    By lower-case name.  Conditions are about an answer that would be 200 (RFC 9110 §13.2.1), and a range is GET's
    (§14.2).

    :param status: what the application wants the answer's to be.
    """
    asked: dict[str, str] = {}
    for raw_name, raw_value in exchange.headers:
        name = raw_name.decode("latin-1").lower()
        if name in PASSED_ON:
            value = raw_value.decode("latin-1")
            asked[name] = f"{asked[name]}, {value}" if name in asked else value
    if exchange.method not in ("GET", "HEAD") or status != 200:
        return _without(asked, CONDITIONS)
    return _without(asked, _RANGES) if exchange.method == "HEAD" else asked


def upstream_fields(exchange: Exchange, head: ApplicationHead) -> dict[str, str]:
    """What an upstream is sent, by lower-case name.

    Never an invitation to compress, which would change lengths and ranges; and no condition about a validator of the
    application's, which the upstream has never heard of.
    """
    asked = request_fields(exchange, head.status)
    tag, date = head.says("etag"), head.says("last-modified")
    if tag is not None or date is not None:
        asked = _without(asked, CONDITIONS - _RANGES)
    if_range = asked.get("if-range")
    if if_range is not None and (tag if if_range.startswith(('"', "W/")) else date) is not None:
        del asked["if-range"]
        if not same_file(if_range, tag or "", seconds(date or "")):
            asked.pop("range", None)
    fields = {**asked, "accept-encoding": "identity", "x-request-id": exchange.request_id}
    if exchange.peer:
        fields["x-forwarded-for"] = exchange.peer
    return fields


def client_fields(code: int, headers: Headers, head: ApplicationHead) -> Fields:
    """The fields of the answer to a client: an upstream's, without its hop-by-hop ones, and the application's.

    :param code: the upstream's status.  If that is an error, what the application has said of the file is not true
        of the upstream's words about it, and nobody shall keep them as if it were.
    """
    own = list(head.fields)
    if not (200 <= code < 300 or code == 304):
        own = [(name, value) for name, value in own if name.lower() not in _ABOUT_THE_FILE]
    not_passed_on = _HOP | {name.lower() for name, _ in own}
    return own + [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, values in headers.getAllRawHeaders()
        if name.decode("latin-1").lower() not in not_passed_on
        for value in values
    ]


def file_head(
    exchange: Exchange, head: ApplicationHead, file: OpenFile, guess: str | None
) -> tuple[str, Fields, FileSelection]:
    """Decide how a request for a file is answered.

    :param guess: the media type, if the application has not said it.
    :returns: status, fields, and which bytes.
    """
    etag, date = head.says("etag") or file.etag, head.says("last-modified")
    modified = file.modified // 10**9 if date is None else seconds(date)
    asked = request_fields(exchange, head.status)
    selection = evaluate(asked, etag, modified, file.size)
    fields = list(head.fields)

    def unless_said(name: str, value: str) -> None:
        if head.says(name.lower()) is None:
            fields.append((name, value))

    if head.status == 200:
        unless_said("ETag", etag)
        unless_said("Last-Modified", formatdate(file.modified // 10**9, usegmt=True))
        fields.append(("Accept-Ranges", "bytes"))
    if selection.status in (200, 206) and guess is not None:
        unless_said("Content-Type", guess)
    if selection.status == 206:
        fields.append(("Content-Range", f"bytes {selection.first}-{selection.end - 1}/{file.size}"))
    elif selection.status == 416:
        fields.append(("Content-Range", f"bytes */{file.size}"))
    if selection.status in (304, 412, 416):
        fields = [(name, value) for name, value in fields if name.lower() not in _ABOUT_THE_BODY]
    if selection.status != 304:
        fields.append(("Content-Length", str(selection.end - selection.first)))
    return head.status_line(selection.status), fields, selection


def _without(fields: dict[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if name not in names}
