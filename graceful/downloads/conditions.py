"""What a request's conditions and its range mean for a file: RFC 9110 §13 and §14, without I/O.

A download that broke after 900 MB is only worth its bytes if the client can ask for the rest, and be sure that it is
the rest of the same file.  That takes a strong validator, and the conditions evaluated in the order of §13.2.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import Final

from attrs import frozen

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*\Z", re.IGNORECASE)
_TAG: Final = re.compile(r'(?:W/)?"[^"]*"')

#: The request fields that are evaluated here, by lower-case name.
CONDITIONS: Final = frozenset(
    ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "if-range", "range")
)


@frozen
class FileSelection:
    """The status of an answer to a request for a file, and which bytes of the file are its body.

    :ivar status: 200, 206, 304, 412 or 416.
    :ivar first: offset of the first byte.
    :ivar end: offset behind the last byte.
    """

    status: int
    first: int
    end: int


def evaluate(asked: Mapping[str, str], etag: str, modified: int | None, size: int) -> FileSelection:
    """Evaluate a request's conditions and its range, in the order of RFC 9110 §13.2.2.

    :param asked: the request's fields that `CONDITIONS` names, by lower-case name; the method is GET or HEAD.
    :param etag: the file's entity tag, with its quotes.
    :param modified: when it was last modified, whole seconds since 1970; None if that is unknown.
    :param size: of the file, bytes.
    """
    if "if-match" in asked:
        if not _matches(asked["if-match"], etag, weak=False):
            return FileSelection(412, 0, 0)
    elif "if-unmodified-since" in asked and modified is not None:
        since = seconds(asked["if-unmodified-since"])
        if since is not None and modified > since:
            return FileSelection(412, 0, 0)
    if "if-none-match" in asked:
        if _matches(asked["if-none-match"], etag, weak=True):
            return FileSelection(304, 0, 0)
    elif "if-modified-since" in asked and modified is not None:
        since = seconds(asked["if-modified-since"])
        if since is not None and modified <= since:
            return FileSelection(304, 0, 0)
    if "range" in asked and same_file(asked.get("if-range"), etag, modified):
        return _ranged(asked["range"], size)
    return FileSelection(200, 0, size)


def same_file(if_range: str | None, etag: str, modified: int | None) -> bool:
    """Whether the part that a client has is of this version of the file (`If-Range`, RFC 9110 §13.1.5)."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == etag and not etag.startswith("W/")
    return modified is not None and seconds(if_range) == modified


def seconds(date: str) -> int | None:
    """Return a date as whole seconds since 1970, None if it is invalid; it may have any form of RFC 9110 §5.6.7."""
    try:
        when = parsedate_to_datetime(date)
        # A date in the form of C's asctime names no time zone; it means UTC, not the local one.
        return int((when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _matches(field: str, etag: str, weak: bool) -> bool:
    """Whether a list of entity tags contains this one (RFC 9110 §8.8.3.2)."""
    if field.strip() == "*":
        return True
    if weak:
        return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in _TAG.findall(field)}
    return not etag.startswith("W/") and etag in _TAG.findall(field)


def _ranged(field: str, size: int) -> FileSelection:
    """Select one range; for several, or an invalid one, select the whole file, which RFC 9110 §14.2 allows."""
    match = _RANGE.match(field)
    # Players ask for the first MB of every file: an empty one is answered with 200, not with 416.
    if match is None or match.groups() == ("", "") or not size:
        return FileSelection(200, 0, size)
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), size if not last else min(int(last) + 1, size)
        if last and int(last) < int(first):
            return FileSelection(200, 0, size)
    if start >= size or start >= end:
        return FileSelection(416, 0, 0)
    return FileSelection(206, start, end)
