"""What a request's conditions and its range mean for a file: RFC 9110 §13 and §14, without I/O.

A download that broke after 900 MB is only worth its bytes if the client can ask for the rest, and be sure that it is
the rest of the same file.  That takes a strong validator, and an order of looking at the conditions in which nothing
is answered twice: §13.2.2 has it.
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

#: What a request may say, by lower-case name.
CONDITIONS: Final = frozenset(
    ("if-match", "if-unmodified-since", "if-none-match", "if-modified-since", "if-range", "range")
)


@frozen
class FileSelection:
    """How a request for a file is to be answered.

    :ivar status: 200, 206, 304, 412 or 416.
    :ivar first: where to begin, in bytes.
    :ivar end: where to stop, in bytes; the byte at this place is not sent any more.
    """

    status: int
    first: int
    end: int


def evaluate(asked: Mapping[str, str], etag: str, modified: int | None, size: int) -> FileSelection:
    """Look at a request's conditions, in the order of RFC 9110 §13.2.2.

    :param asked: those of the request's fields that `CONDITIONS` names; of a method that knows them, GET or HEAD.
    :param etag: the file's entity tag, with its quotes.
    :param modified: when it was last modified, whole seconds since 1970; None if nobody can say.
    :param size: bytes.
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
    """Whether a client that has a part of it may have the rest (RFC 9110 §13.1.5)."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == etag and not etag.startswith("W/")
    return modified is not None and seconds(if_range) == modified


def seconds(date: str) -> int | None:
    """A date as whole seconds since 1970, in each of the three forms of RFC 9110 §5.6.7; None if it is none."""
    try:
        when = parsedate_to_datetime(date)
        # The form of C's asctime says no time zone, and means UTC, not ours.
        return int((when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _matches(field: str, etag: str, weak: bool) -> bool:
    """Whether a list of entity tags has this one (RFC 9110 §8.8.3.2)."""
    if field.strip() == "*":
        return True
    if weak:
        return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in _TAG.findall(field)}
    return not etag.startswith("W/") and etag in _TAG.findall(field)


def _ranged(field: str, size: int) -> FileSelection:
    """One range; several, and what is none, are answered with the whole, as RFC 9110 §14.2 lets us."""
    match = _RANGE.match(field)
    # A player that wants no more than the first MB of everything is no error to be shown for an empty file.
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
