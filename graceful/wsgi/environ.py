"""The environ of PEP 3333, made as late and as cheaply as it can be.

What is the same for a whole server is made once, what is the same for a connection once for each, and the key
of a header field once for each spelling: a copy and a few entries are left for each request.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from graceful.web.body_stream import BodyStream
from graceful.web.field_kinds import remember_name
from graceful.web.known_heads import ComposedFields, KnownFields
from graceful.wsgi.filewrapper import FileWrapper

if TYPE_CHECKING:
    from graceful.web.carrier import Carrier
    from graceful.web.exchange import Exchange

_keys: dict[bytes, str] = {}


def _key(name: bytes) -> str:
    """The environ key of a header field: `CONTENT_TYPE`, or `HTTP_` and its name."""
    key = name.decode("ascii").upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = "HTTP_" + key
    remember_name(_keys, name, key)
    return key


def of_server(multiprocess: bool = False) -> dict[str, Any]:
    """What is the same for every request of this process.

    :param multiprocess: other processes call the same application at the same time.
    """
    return {
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.run_once": False,
        "wsgi.errors": sys.stderr,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
    }


def of_connection(server: dict[str, Any], connection: Carrier[Exchange]) -> dict[str, Any]:
    """What is the same for every request of a connection."""
    base = dict(server)
    host, port = connection.server
    base["SERVER_NAME"] = host
    base["SERVER_PORT"] = str(port)
    base["REMOTE_ADDR"] = connection.peer
    base["REMOTE_PORT"] = str(connection.port)
    base["wsgi.url_scheme"] = connection.scheme
    if connection.scheme == "https":
        base["HTTPS"] = "on"
    if connection.facts is not None:
        base.update(connection.facts)
    return base


def add_fields(environ: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Add what the fields of a head become."""
    for name, value in headers:
        key = _keys.get(name) or _key(name)
        if key in environ:
            # A list field that came in several lines is one list (RFC 9110 §5.3); cookies are joined their own way.
            joint = "; " if key == "HTTP_COOKIE" else ","
            environ[key] += joint + value.decode("latin-1")
        else:
            environ[key] = value.decode("latin-1")


def _shared(known: KnownFields) -> dict[str, Any]:
    """Returns what the fields of a head become that comes again; not to be changed."""
    fields = known.environ
    if fields is None:
        fields = {}
        add_fields(fields, known)
        known.environ = fields
    return fields


class ConnectionEnviron:
    """What the environs of one connection have in common, with the fields of its last head, if that has come twice.

    The thread that answers the connection's current request uses it.

    :param base: what :func:`of_connection` made.
    """

    __slots__ = ("_base", "_known", "_merged")

    def __init__(self, base: dict[str, Any]) -> None:
        self._base = base
        self._known: KnownFields | None = None
        self._merged: dict[str, Any] | None = None

    def with_fields(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, Any]:
        """Returns a new environ with what the fields of a head become."""
        if type(headers) is KnownFields:
            return self._with_known(headers)
        if type(headers) is ComposedFields and headers.rest is not None:
            environ = self._with_known(headers.rest)
            for _, (name, value) in headers.own:
                key = _keys.get(name) or _key(name)
                if key in environ:
                    break  # in several lines, whose order counts
                environ[key] = value.decode("latin-1")
            else:
                return environ
        environ = self._base.copy()
        add_fields(environ, headers)
        return environ

    def _with_known(self, known: KnownFields) -> dict[str, Any]:
        if known is not self._known:
            self._known, self._merged = known, None
            return self._base | _shared(known)
        # A client sends the same fields again and again, and to copy takes a fifth of what it takes to merge.
        merged = self._merged
        if merged is None:
            merged = self._merged = self._base | _shared(known)
        return merged.copy()


def of_request(connection: ConnectionEnviron, exchange: Exchange) -> dict[str, Any]:
    """The environ of one request."""
    environ = connection.with_fields(exchange.headers)
    environ["graceful.exchange"] = exchange
    environ["REQUEST_METHOD"] = exchange.method
    environ["REQUEST_URI"] = path = exchange.target.decode("latin-1")
    if "?" in path:
        path, _, environ["QUERY_STRING"] = path.partition("?")
    if "%" in path:
        path = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
    environ["PATH_INFO"] = path if path != "*" else ""
    if exchange.version != "1.1":
        environ["SERVER_PROTOCOL"] = "HTTP/1.0"
    body = exchange.body
    environ["wsgi.input"] = BytesIO() if body is None else _input(body)
    if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:
        # The chunks are decoded, so their coding is replaced by a length (RFC 9112 §7.1.3): an application that saw
        # both would decode the body once more.  A Trailer field stays: its fields are in `graceful.trailers`.
        environ["CONTENT_LENGTH"] = str(exchange.received)
    if exchange.trailers:
        environ["graceful.trailers"] = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in exchange.trailers]
    if exchange.connection.trusted:
        _from_proxy(environ, exchange)
    return environ


def _from_proxy(environ: dict[str, Any], exchange: Exchange) -> None:
    """What a trusted proxy has told of the client."""
    environ["REMOTE_ADDR"] = exchange.peer
    environ["wsgi.url_scheme"] = exchange.scheme
    if exchange.scheme == "https":
        environ["HTTPS"] = "on"
    if exchange.own_id is not None:
        environ["HTTP_X_REQUEST_ID"] = exchange.own_id


def _input(body: list[bytes] | IO[bytes] | BodyStream) -> IO[bytes]:
    if isinstance(body, list):
        return BytesIO(body[0] if len(body) == 1 else b"".join(body))
    assert not isinstance(body, BodyStream)  # which only a root that reads it gets
    return body
