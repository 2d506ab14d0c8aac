"""The scope of one request, as ASGI has it (HTTP & WebSocket ASGI message format, version 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from graceful.asgi.tls_extension import tls_extension
from graceful.web.field_kinds import remember_name
from graceful.web.known_heads import ComposedFields, KnownFields

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

Scope = dict[str, Any]

#: The versions of ASGI, and of its HTTP and WebSocket messages, that a scope names.
ASGI: Final = {"version": "3.0", "spec_version": "2.5"}

#: Field names in lower case, by how they were sent.
_names: dict[bytes, bytes] = {}


def _lower(name: bytes) -> bytes:
    lower = name.lower()
    remember_name(_names, name, lower)
    return lower


def lowered_fields(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Returns the fields of a head with their names in lower case, as a new list."""
    if type(fields) is KnownFields and fields.lowered is not None:
        return fields.lowered.copy()
    known = _names.get
    if type(fields) is ComposedFields and fields.rest is not None:
        lowered = lowered_fields(fields.rest)
        for place, (name, value) in reversed(fields.own):
            lowered.insert(place, (known(name) or _lower(name), value))
        return lowered
    lowered = [(known(name) or _lower(name), value) for name, value in fields]
    if type(fields) is KnownFields:
        fields.lowered = lowered.copy()
    return lowered


def beyond_http(extensions: dict[str, Any]) -> dict[str, Any]:
    """Returns those of an HTTP scope's extensions that a WebSocket's scope has, too."""
    return {name: what for name, what in extensions.items() if not name.startswith("http.")}


def http_scope(exchange: Exchange, extensions: dict[str, Any], state: dict[str, Any] | None) -> Scope:
    """Returns the scope of an HTTP exchange, made for it alone.

    :param extensions: what the server offers beyond the specification.
    :param state: what the application has set in its lifespan; None if it has none.
    """
    connection = exchange.connection
    raw_path, _, query = exchange.target.partition(b"?")
    path = raw_path.decode("latin-1")
    if "%" in path or not raw_path.isascii():
        path = unquote(raw_path, errors="replace") if raw_path.isascii() else raw_path.decode("utf-8", "replace")
    headers = lowered_fields(exchange.headers)
    if exchange.own_id is not None:
        # What a trusted proxy says of the request's id; of the client's own fields none is left.
        headers = [field for field in headers if field[0] != b"x-request-id"]
        headers.append((b"x-request-id", exchange.own_id.encode("latin-1")))
    peer = exchange.peer
    scope: Scope = {
        "type": "http",
        "asgi": ASGI,
        "http_version": exchange.version,
        "method": exchange.method,
        "scheme": exchange.scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        # Where in a tree the application was found; its `path` is the whole one, as ASGI wants it.
        "root_path": "" if exchange.mount is None else exchange.mount[0].encode("latin-1").decode("utf-8", "replace"),
        "headers": headers,
        # A proxy tells the client's address, and not its port.
        "client": (peer, connection.port if peer == connection.peer else 0) if peer else None,
        "server": connection.server,
        "extensions": extensions.copy(),
    }
    if connection.facts is not None:
        scope["extensions"]["tls"] = tls_extension(connection.facts)
    if state is not None:
        scope["state"] = state.copy()
    return scope
