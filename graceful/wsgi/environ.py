"""The environ of PEP 3333, made as late and as cheaply as it can be.

What is the same for a whole server is made once, what is the same for a connection once for each, and the key
of a header field once for each spelling: a copy and a few entries are left for each request.
"""

from __future__ import annotations

import io
import sys
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from graceful.wsgi.filewrapper import FileWrapper

if TYPE_CHECKING:
    from graceful.web.connection import Connection
    from graceful.web.exchange import Exchange

_keys: dict[bytes, str] = {}
_REMEMBERED: Final = 1024


def _key(name: bytes) -> str:
    """The environ key of a header field: `CONTENT_TYPE`, or `HTTP_` and its name."""
    key = name.decode("ascii").upper().replace("-", "_")
    if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        key = "HTTP_" + key
    if len(_keys) < _REMEMBERED:
        _keys[name] = key
    return key


def of_server() -> dict[str, Any]:
    """What is the same for every request of this process."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.errors": sys.stderr,
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.input_terminated": True,
    }


def of_connection(server: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """What is the same for every request of a connection."""
    base = dict(server)
    host, port = connection.server
    base["SERVER_NAME"] = host
    base["SERVER_PORT"] = str(port)
    base["REMOTE_ADDR"] = connection.peer
    base["REMOTE_PORT"] = str(connection.port)
    base["wsgi.url_scheme"] = connection.scheme
    base["SCRIPT_NAME"] = ""
    return base


def of_request(base: dict[str, Any], exchange: Exchange) -> dict[str, Any]:
    """The environ of one request.

    :param base: what :func:`of_connection` made.
    """
    environ = base.copy()
    target = exchange.target
    environ["REQUEST_METHOD"] = exchange.method
    environ["REQUEST_URI"] = target.decode("latin-1")
    path, _, query = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    environ["PATH_INFO"] = path.decode("latin-1") if path != b"*" else ""
    environ["QUERY_STRING"] = query.decode("latin-1")
    environ["SERVER_PROTOCOL"] = "HTTP/1.1" if exchange.version == "1.1" else "HTTP/1.0"
    for name, value in exchange.headers:
        key = _keys.get(name) or _key(name)
        if key in environ:
            # A list field that came in several lines is one list (RFC 9110 §5.3); cookies are joined their own way.
            joint = "; " if key == "HTTP_COOKIE" else ","
            environ[key] += joint + value.decode("latin-1")
        else:
            environ[key] = value.decode("latin-1")
    connection = exchange.connection
    if connection.trusted:
        environ["REMOTE_ADDR"] = exchange.peer
        environ["wsgi.url_scheme"] = exchange.scheme
    if exchange.scheme == "https":
        environ["HTTPS"] = "on"
    if exchange.trailers:
        environ["graceful.trailers"] = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in exchange.trailers]
    environ["wsgi.input"] = _input(exchange.body)
    if exchange.received and "CONTENT_LENGTH" not in environ:
        # The body came in chunks; all of it is here, so its length is known.
        environ["CONTENT_LENGTH"] = str(exchange.received)
    if exchange.own_id is not None:
        environ["HTTP_X_REQUEST_ID"] = exchange.own_id
    return environ


def _input(body: list[bytes] | IO[bytes] | None) -> IO[bytes]:
    if body is None:
        return io.BytesIO()
    if isinstance(body, list):
        return io.BytesIO(body[0] if len(body) == 1 else b"".join(body))
    return body
