r"""Parsing `--listen`, before any socket exists.

Operators write Twisted's endpoint strings, `tcp:8080:interface=127.0.0.1`.  Twisted parses one into an
endpoint that binds, accepts and closes in its own way; a server that must hand its sockets on, and close them
without losing a connection, has to do these things itself.  So the strings are read here, by Twisted's rules,
and say which sockets are ours (`tcp`, `tcp6`, `unix`, `fd`, `systemd`) and which belong to an endpoint plugin
(`ssl:`, `haproxy:` …).

This runs while options are parsed: the operator sees a mistake in the terminal, and nothing is opened yet.

Twisted's quoting rules: colons separate fields; a field with an equals sign is `name=value`, any
other one is positional; a backslash quotes the next character (`unix:/run/a\:b.sock`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Final, Literal

from attrs import frozen

Kind = Literal["tcp", "tcp6", "unix", "fd", "systemd", "plugin"]

#: Connections that may wait in the kernel until they are accepted; its `somaxconn` may allow fewer.
BACKLOG: Final = 1024

#: What systemd's `domain=` may be, as Twisted names address families.
DOMAINS: Final = {"INET": socket.AF_INET, "INET6": socket.AF_INET6, "UNIX": socket.AF_UNIX}

#: `sun_path` of unix(7) takes 108 bytes, the last one a zero.
LONGEST_UNIX_PATH: Final = 107


@frozen
class Address:
    """One `--listen` string, parsed.

    :ivar kind: how the socket is made; `plugin` if a Twisted endpoint plugin listens.
    :ivar text: the string as it was written.
    :ivar port: for `tcp` and `tcp6`; 0 lets the kernel choose.
    :ivar interface: for `tcp` and `tcp6`: the address or host name to bind, empty for all.
    :ivar backlog: for sockets that we bind.
    :ivar path: for `unix`.
    :ivar mode: for `unix`: the permissions of the socket file.
    :ivar fd: for `fd`: the descriptor's number.
    :ivar domain: for `systemd`: the address family that the socket must have, one of `DOMAINS`.
    :ivar index: for `systemd`: which of the inherited sockets; or
    :ivar name: its `FileDescriptorName=`.
    """

    kind: Kind
    text: str
    port: int = 0
    interface: str = ""
    backlog: int = BACKLOG
    path: str = ""
    mode: int = 0o666
    fd: int = -1
    domain: str = "INET"
    index: int | None = None
    name: str | None = None


#: The names that positional fields have, in their order, for each kind that is ours; the first is required.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog"),
    "fd": ("fd",),
    "systemd": ("domain", "index", "name"),
}


def parse(text: str) -> Address:
    """Parse one endpoint string.

    :param text: as in `--listen`: `tcp:8080`, `tcp6:8080:interface=\\:\\:1`, `unix:/run/app.sock:mode=660`,
        `fd:3`, `systemd:domain=INET:index=0`, or any string for Twisted's `serverFromString`.
    :raises ValueError: with one line for the operator, if the string is no valid endpoint.
    """
    positional, named = _split(text)
    kind, *rest = positional or [""]
    if not kind or kind.isdigit():
        raise ValueError(f"{text!r} is not an endpoint: write for example tcp:8080 or unix:/run/app.sock")
    if kind not in _FIELDS:
        return Address(kind="plugin", text=text)
    fields = _name_fields(text, kind, rest, named)
    return _MAKERS[kind](text, fields)


def _split(text: str) -> tuple[list[str], dict[str, str]]:
    """Split a string into its positional and its named fields, by Twisted's quoting rules."""
    positional: list[str] = []
    named: dict[str, str] = {}
    name: str | None = None
    current = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError(f"{text!r} ends in a backslash: it must have a character after it")
            current += escaped
        elif character == "=" and name is None:
            name, current = current, ""
        elif character == ":":
            _add(text, positional, named, name, current)
            name, current = None, ""
        else:
            current += character
    _add(text, positional, named, name, current)
    return positional, named


def _add(text: str, positional: list[str], named: dict[str, str], name: str | None, value: str) -> None:
    if name is None:
        positional.append(value)
    elif name in named:
        raise ValueError(f"{text!r} gives {name}= twice")
    else:
        named[name] = value


def _name_fields(text: str, kind: str, positional: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return the fields by name; refuse those that this kind of endpoint does not have."""
    names = _FIELDS[kind]
    if len(positional) > len(names):
        raise ValueError(f"{text!r} has a field too many: {kind}: takes {', '.join(names)}; quote a colon as \\:")
    fields = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise ValueError(f"{text!r} has an unknown option {name}=: {kind}: takes {', '.join(names)}")
        if name in fields:
            raise ValueError(f"{text!r} gives {name} twice")
        fields[name] = value
    return fields


def _number(text: str, what: str, value: str, *, highest: int, lowest: int = 0, base: int = 10) -> int:
    # isdigit() keeps out what int() would let through: signs, underscores, blanks.
    try:
        number = int(value, base) if value.isascii() and value.isdigit() else -1
    except ValueError:
        number = -1
    if not lowest <= number <= highest:
        limits = f"{lowest:o} to {highest:o}, octal" if base == 8 else f"{lowest} to {highest}"
        raise ValueError(f"{text!r} has a bad {what} {value!r}: it must be a number from {limits}")
    return number


def _backlog(text: str, fields: Mapping[str, str]) -> int:
    if "backlog" not in fields:
        return BACKLOG
    return _number(text, "backlog", fields["backlog"], lowest=1, highest=65_535)


def _tcp(text: str, fields: Mapping[str, str]) -> Address:
    if not fields.get("port"):
        raise ValueError(f"{text!r} has no port: write for example tcp:8080")
    interface = fields.get("interface", "")
    # As Twisted does: an IPv6 address after tcp: means IPv6, since nothing else could be meant.
    six = text.startswith("tcp6") or ":" in interface
    return Address(
        kind="tcp6" if six else "tcp",
        text=text,
        port=_number(text, "port", fields["port"], highest=65_535),
        interface=interface,
        backlog=_backlog(text, fields),
    )


def _unix(text: str, fields: Mapping[str, str]) -> Address:
    path = fields.get("address", "")
    if not path:
        raise ValueError(f"{text!r} has no path: write for example unix:/run/app.sock")
    if "\0" in path or len(path.encode()) > LONGEST_UNIX_PATH:
        raise ValueError(f"{text!r} has a path that no Unix socket can have: at most {LONGEST_UNIX_PATH} bytes")
    mode = _number(text, "mode", fields["mode"], highest=0o777, base=8) if "mode" in fields else 0o666
    return Address(kind="unix", text=text, path=path, mode=mode, backlog=_backlog(text, fields))


def _fd(text: str, fields: Mapping[str, str]) -> Address:
    if not fields.get("fd"):
        raise ValueError(f"{text!r} has no descriptor: write for example fd:3")
    return Address(kind="fd", text=text, fd=_number(text, "descriptor", fields["fd"], highest=2**31 - 1))


def _systemd(text: str, fields: Mapping[str, str]) -> Address:
    domain = fields.get("domain", "")
    if domain not in DOMAINS:
        raise ValueError(f"{text!r} has a bad domain {domain!r}: it must be {', '.join(DOMAINS)}")
    if ("index" in fields) == ("name" in fields):
        raise ValueError(f"{text!r} must say which socket is meant, by index= or by name=")
    index = _number(text, "index", fields["index"], highest=65_535) if "index" in fields else None
    return Address(kind="systemd", text=text, domain=domain, index=index, name=fields.get("name"))


_MAKERS: Final[dict[str, Callable[[str, Mapping[str, str]], Address]]] = {
    "tcp": _tcp,
    "tcp6": _tcp,
    "unix": _unix,
    "fd": _fd,
    "systemd": _systemd,
}
