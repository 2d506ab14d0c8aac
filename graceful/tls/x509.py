"""What a certificate says of itself: whom it is for, and until when.

The standard library tells that of a peer's certificate, once it has verified it, and never of one's own.  A package
that reads certificates would be one more thing to install, for three fields; so these are read here, from the few
rules of DER (ITU-T X.690) that a certificate (RFC 5280 §4.1) needs.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import datetime, timezone
from ipaddress import ip_address
from typing import Final

from attrs import frozen

_SEQUENCE: Final = 0x30
_UTC_TIME: Final = 0x17
_EXTENSIONS: Final = 0xA3
_VERSION: Final = 0xA0
_DNS_NAME: Final = 0x82
_IP_ADDRESS: Final = 0x87
_ALTERNATIVE_NAMES: Final = b"\x55\x1d\x11"
_COMMON_NAME: Final = b"\x55\x04\x03"
_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"


class BadDER(ValueError):
    """Some bytes are no certificate."""


@frozen
class About:
    """What a certificate says of itself.

    :ivar names: the DNS names and addresses that it is for, in lower case, its common name if it has no others.
    :ivar ends: when it is valid no longer, seconds since 1970.
    """

    names: tuple[str, ...]
    ends: float


def first_of(pem: str) -> str:
    """Returns the first certificate of a PEM file: the server's own, in front of those that signed it.

    :raises BadDER: there is none.
    """
    _, begin, more = pem.partition(_BEGIN)
    body, end, _ = more.partition(_END)
    if not begin or not end:
        raise BadDER("there is no certificate in it")
    return f"{begin}{body}{end}\n"


def about_first(pem: str) -> About:
    """Returns what the first certificate of a PEM file says.

    :raises BadDER: there is none.
    """
    first = first_of(pem)
    try:
        return about(ssl.PEM_cert_to_DER_cert(first))
    except (IndexError, ValueError) as error:
        raise BadDER(f"its first certificate cannot be read: {error}") from None


def about(der: bytes) -> About:
    """Returns what a certificate says.

    :raises ValueError, IndexError: it is none.
    """
    ((_, certificate),) = _values(der)
    fields = list(_values(_first(certificate)))
    if fields[0][0] == _VERSION:
        del fields[0]
    _, _, _, validity, subject = fields[:5]
    names: list[str] = []
    for tag, value in fields[6:]:
        if tag == _EXTENSIONS:
            names = list(_alternative_names(value))
    until = list(_values(validity[1]))[1]
    return About(tuple(names or _common_names(subject[1])), _time(*until))


def _first(data: bytes) -> bytes:
    """Returns the content of the first value."""
    (_, content), *_ = _values(data)
    return content


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields tag and content of each value."""
    while data:
        tag, size, start = data[0], data[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            raise BadDER("it ends too early")
        yield tag, data[start : start + size]
        data = data[start + size :]


def _alternative_names(extensions: bytes) -> Iterator[str]:
    for _, extension in _values(_first(extensions)):
        parts = [value for _, value in _values(extension)]
        if parts[0] == _ALTERNATIVE_NAMES:
            for tag, name in _values(_first(parts[-1])):
                if tag == _DNS_NAME:
                    yield name.decode("ascii", "replace").lower()
                elif tag == _IP_ADDRESS:
                    yield str(ip_address(name))


def _common_names(subject: bytes) -> Iterator[str]:
    for _, relative in _values(subject):
        for _, pair in _values(relative):
            parts = [value for _, value in _values(pair)]
            if parts[0] == _COMMON_NAME:
                yield parts[1].decode("utf-8", "replace").lower()


def _time(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:  # two digits of a year from 1950 to 2049 (RFC 5280 §4.1.2.5.1)
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
