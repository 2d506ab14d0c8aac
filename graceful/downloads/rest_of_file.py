"""Asking an upstream for the rest of a file: what is known of the file, and how often it may be asked.

The rest is of the same file if a strong validator says so (RFC 9110 §8.8.1, §13.1.5, §14).  Without one, or if the
file has changed, there is no rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field
from twisted.web.iweb import UNKNOWN_LENGTH, IResponse

#: Seconds before each time that an upstream is asked for the rest: together long enough for a restart.
RETRY_DELAYS: Final = (0.1, 0.4, 1.0, 2.0, 4.0)
#: Bytes after which a retry has succeeded, and the next break begins with the first delay.
PROGRESS: Final = 1 << 20

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})\Z")


@define
class RestOfFile:
    """What is still to come of a file.

    :ivar etag: its strong validator.
    :ivar following: the offset of the next byte.
    :ivar last: the offset of the last byte that was asked for.
    :ivar total: the size of the file.
    """

    etag: str
    following: int
    last: int
    total: int
    _tries: int = field(default=0, init=False)
    _asked_at: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._asked_at = self.following

    @classmethod
    def of(cls, response: IResponse) -> RestOfFile | None:
        """Returns what is to come with a response; None if the upstream cannot be asked for a part of that again."""
        etag = field_of(response, "etag")
        if response.length is UNKNOWN_LENGTH or not etag.startswith('"'):
            return None
        if response.code == 200 and "bytes" in field_of(response, "accept-ranges").lower():
            return cls(etag, 0, response.length - 1, response.length)
        if response.code == 206:
            places = _places(response)
            if places is not None and places[1] - places[0] + 1 == response.length:
                return cls(etag, *places)
        return None

    @property
    def complete(self) -> bool:
        """Whether nothing is to come any more."""
        return self.following > self.last

    def came(self, size: int) -> None:
        """More bytes have come."""
        self.following += size

    def next_delay(self) -> float | None:
        """Returns the seconds after which to ask for the rest; None if that was in vain too often."""
        if self.following - self._asked_at > PROGRESS:
            self._tries = 0
        if self._tries == len(RETRY_DELAYS):
            return None
        delay = RETRY_DELAYS[self._tries]
        self._tries += 1
        self._asked_at = self.following
        return delay

    def request(self, asked: Mapping[str, str]) -> dict[str, str]:
        """Returns the fields of a request for the rest.

        :param asked: those of the first request, by lower-case name.
        """
        fields = {name: value for name, value in asked.items() if not name.startswith("if-")}
        return {**fields, "range": f"bytes={self.following}-{self.last}", "if-range": self.etag}

    def is_in(self, response: IResponse) -> bool:
        """Whether a response has all that is missing, of the same file."""
        return (
            _places(response) == (self.following, self.last, self.total)
            and response.length in (UNKNOWN_LENGTH, self.last - self.following + 1)
            and field_of(response, "etag") == self.etag
        )

    def told(self) -> dict[str, Any]:
        """Returns what another process needs to ask for the rest."""
        return {"etag": self.etag, "following": self.following, "last": self.last, "total": self.total}


def _places(response: IResponse) -> tuple[int, int, int] | None:
    """Returns the offsets of a part's first and last byte, and the size of its file; None if it does not say so."""
    match = _CONTENT_RANGE.match(field_of(response, "content-range"))
    return (int(match[1]), int(match[2]), int(match[3])) if match is not None else None


def field_of(response: IResponse, name: str) -> str:
    """Returns the first value of a header field; empty if there is none."""
    values = response.headers.getRawHeaders(name.encode("ascii"), [])
    return values[0].decode("latin-1").strip() if values else ""
