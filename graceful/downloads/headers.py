"""The head of a download's answer: the application's fields, merged with those of the file or the upstream.

Where both set a field the application wins: it knows what the file is called and which caches may keep it.  Only the
fields that frame the body, or say which part of the file it is, are never the application's.
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

#: The request fields that the upstream gets.  Not cookies and passwords: those are for the application.
PASSED_ON: Final = CONDITIONS | {"accept", "accept-language", "user-agent"}

#: The two fields of a range request (RFC 9110 §14.2, §13.1.5).
_RANGES: Final = frozenset(("range", "if-range"))
_ABOUT_THE_BODY: Final = frozenset(("content-type", "content-disposition", "content-encoding", "content-language"))
_ABOUT_THE_FILE: Final = _ABOUT_THE_BODY | {"cache-control", "etag", "expires", "last-modified"}
#: The fields that frame the body or say which part it is.
_NOT_THE_APPLICATIONS: Final = frozenset(("content-length", "content-range", "accept-ranges"))
#: The upstream's fields that concern its own connection or are set by this server.
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
    """The status and fields that an application has set; 200 and none where no application is asked.

    :ivar fields: without those that the application cannot set for a download.
    """

    status: int = 200
    fields: tuple[tuple[str, str], ...] = ()

    def status_line(self, status: int) -> str:
        """Return a status with its reason; instead of 200, the application's status."""
        if self.status != 200 and status == 200:
            status = self.status
        return f"{status} {reason(status)}"

    def says(self, name: str) -> str | None:
        """Return the value of a field, by lower-case name; None if it is not set."""
        return next((value for own, value in self.fields if own.lower() == name), None)


def application_head(exchange: Exchange) -> ApplicationHead:
    """Return what the application has passed to `start_response`."""
    fields = tuple(
        (name, value)
        for name, value in without_identity(exchange.fields())
        if name.lower() not in _NOT_THE_APPLICATIONS
    )
    return ApplicationHead(exchange.status, fields)


def without_identity(fields: Fields) -> Fields:
    """Drop `Content-Encoding: identity`: it is for middlewares, not for clients (RFC 9110 §8.4.1)."""
    return [(name, value) for name, value in fields if (name.lower(), value) != ("content-encoding", "identity")]


def request_fields(exchange: Exchange, status: int) -> dict[str, str]:
    """Return the request's conditions, its range and a few other fields, by lower-case name.

    Conditions only apply to an answer that would be 200 (RFC 9110 §13.2.1), and a range only to GET (§14.2).

    :param status: the one that the application has set.
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
    """Return the fields that an upstream is sent, by lower-case name.

    They never allow it to compress, which would change lengths and ranges; nor do they have conditions on a validator
    that the application has set, since the upstream does not know that one.
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
    """Return the fields that a client gets: an upstream's, without its hop-by-hop ones, and the application's.

    :param code: the upstream's status.  If it is an error, the application's fields about the file are dropped: they
        do not describe the upstream's error page, which no cache must keep under them.
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

    :param guess: the media type if the application has not set one; None for none.
    :returns: status line, fields, and which bytes.
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
