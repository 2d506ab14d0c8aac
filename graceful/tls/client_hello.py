"""The name that a client asks for, read from the first message of its handshake (SNI, RFC 6066 §3).

OpenSSL tells the name to a callback.  The standard library makes text of it before, and has no answer to a name that
is none: a byte above 127, an empty label or a label of 64 characters ends in a traceback on standard error, which the
callback cannot prevent, and which any client can cause as often as it likes.  So the name is read here, before there
is a session: the message is not encrypted, and has had one form since TLS 1.0 (RFC 8446 §4.1.2).

A message that has another form is not judged here.  It asks for no name, and OpenSSL answers it with an alert.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_HOST_NAME: Final = 0
#: Bytes of a record's header, and of a message's.
_RECORD, _MESSAGE = 5, 4
#: Version and random, in front of the first field of a variable length.
_FIXED: Final = 34

#: Bytes that are waited for; a message with a share for every way of key exchange has a tenth of them.
LONGEST: Final = 1 << 15
#: Records that the message may be spread over: all of them are looked at again with each byte that comes.
MOST_RECORDS: Final = 16


def asked_name(data: bytes) -> str | None:
    """Returns the name that a client asks for, in lower case; empty if it asks for none.

    :param data: all that has come of its handshake.
    :returns: None if the message is not complete, so that more has to come.
    """
    message = b""
    if len(data) > LONGEST:
        return ""
    for _ in range(MOST_RECORDS):
        if len(data) < _RECORD:
            return None
        if data[0] != _HANDSHAKE:
            return ""
        end = _RECORD + int.from_bytes(data[3:5], "big")
        message += data[_RECORD:end]
        if message and message[0] != _CLIENT_HELLO:
            return ""
        size = _MESSAGE + int.from_bytes(message[1:4], "big") if len(message) >= _MESSAGE else 0
        if end == _RECORD:
            return ""
        if size and len(message) >= size:
            return _name_in(message[_MESSAGE:size])
        data = data[end:]
    return ""


def _name_in(hello: bytes) -> str:
    rest = hello[_FIXED:]
    for size in (1, 2, 1):  # the session's id, the cipher suites, the ways of compression
        rest = rest[size + int.from_bytes(rest[:size], "big") :]
    for extension, content in _fields(rest[2:], 2):
        if extension == _SERVER_NAME:
            for kind, name in _fields(content[2:], 1):
                if kind == _HOST_NAME:
                    return name.decode("latin-1").lower()
    return ""


def _fields(data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Yields kind and content of each field; `size` is how many bytes the kind has."""
    while len(data) >= size + 2:
        end = size + 2 + int.from_bytes(data[size : size + 2], "big")
        yield int.from_bytes(data[:size], "big"), data[size + 2 : end]
        data = data[end:]
