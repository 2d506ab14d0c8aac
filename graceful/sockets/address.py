r"""Parsing `--listen`, before any socket exists.

Operators write Twisted's endpoint strings, `tcp:8080:interface=127.0.0.1`.  Twisted parses one into an
endpoint that binds, accepts and closes in its own way; a server that must hand its sockets on, and close them
without losing a connection, has to do these things itself.  So the strings are read here, by Twisted's rules,
and say which sockets are ours (`tcp`, `tcp6`, `tls`, `tls6`, `unix`, `fd`, `systemd`) and which belong to an
endpoint plugin (`ssl:`, `haproxy:` …).

What is spoken on a socket is said in the same string, `tcp:8080:proxy=10.0.0.0/8`, but is no part of the address: two
command lines that differ only in that mean the same socket.

This runs while options are parsed: the operator sees a mistake in the terminal, and nothing is opened yet.

Twisted's quoting rules: colons separate fields; a field with an equals sign is `name=value`, any
other one is positional; a backslash quotes the next character (`unix:/run/a\:b.sock`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Final, Literal

from attrs import evolve, field, frozen

Kind = Literal["tcp", "tcp6", "unix", "fd", "systemd", "plugin"]

#: Connections that may wait in the kernel until they are accepted; its `somaxconn` may allow fewer.
BACKLOG: Final = 1024

#: What systemd's `domain=` may be, as Twisted names address families.
DOMAINS: Final = {"INET": socket.AF_INET, "INET6": socket.AF_INET6, "UNIX": socket.AF_UNIX}

#: `sun_path` of unix(7) takes 108 bytes, the last one a zero.
LONGEST_UNIX_PATH: Final = 107


@frozen
class TLS:
    """What is needed to speak TLS.

    :ivar certificates: the paths of each certificate and of its key, which may be one file.
    :ivar client_ca: a file of certificates, one of which must have signed a client's; None: clients need none.
    """

    certificates: tuple[tuple[str, str], ...]
    client_ca: str | None = None


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
    :ivar proxy: the peers that begin with a header of the PROXY protocol, as networks in CIDR form, addresses, or
        `unix`; all others are refused.  None if there is no such header.
    :ivar tls: the files of a socket on which TLS is spoken; None on a plain one.
    :ivar where: the string without what is spoken there.
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
    proxy: tuple[str, ...] | None = None
    tls: TLS | None = None
    where: str = field(default="", eq=False)


#: The fields, by name only, that say what is spoken; each may be given several times.
_SPOKEN: Final = ("proxy", "certificate", "key", "client-ca")

#: What has the socket of another kind, and TLS on it.
_BY_TLS: Final = {"tls": "tcp", "tls6": "tcp6"}

#: The names that positional fields have, in their order, for each kind that is ours; the first is required.
_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "interface", "backlog"),
    "unix": ("address", "mode", "backlog"),
    "fd": ("fd",),
    "systemd": ("domain", "index", "name"),
}


#: One field of a string, with the colon before it.
_FIELD: Final = re.compile(r"(?:\A|:)(?:[^:\\]|\\.)*", re.DOTALL)

#: What other servers take, and what a user may type by habit.
_HOST_AND_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)+|localhost):([0-9]+)\Z")


def parse(text: str) -> Address:
    """Parse one endpoint string.

    :param text: as in `--listen`: `tcp:8080`, `tcp6:8080:interface=\\:\\:1`, `unix:/run/app.sock:mode=660`,
        `fd:3`, `systemd:domain=INET:index=0`, or any string for Twisted's `serverFromString`.
    :raises ValueError: with one line for the operator, if the string is no valid endpoint.
    """
    as_elsewhere = _HOST_AND_PORT.match(text)
    if as_elsewhere is not None:
        raise ValueError(f"{text!r} is not an endpoint: write {endpoint(*as_elsewhere.groups())}")
    positional, named, spoken = _split(text)
    kind, *rest = positional or [""]
    if not kind or kind.isdigit():
        raise ValueError(f"{text!r} is not an endpoint: write for example tcp:8080 or unix:/run/app.sock")
    below = _BY_TLS.get(kind, kind)
    if below not in _FIELDS:
        return Address(kind="plugin", text=text)
    fields = _name_fields(text, kind, rest, named)
    address = _MAKERS[below](text, fields)
    proxy = tuple(value for name, value in spoken if name == "proxy")
    return evolve(address, proxy=proxy or None, tls=_tls(text, kind, spoken), where=_where(text, len(spoken)))


def endpoint(host: str, port: str) -> str:
    """Returns the endpoint of a host and a port."""
    kind = "tcp6" if host.startswith("[") else "tcp"
    interface = host.strip("[]").replace(":", "\\:")
    return f"{kind}:{port}" + ("" if interface in ("0.0.0.0", "\\:\\:") else f":interface={interface}")


def _tls(text: str, kind: str, spoken: list[tuple[str, str]]) -> TLS | None:
    """Returns the files of TLS; None if it is not spoken there."""
    certificates: list[tuple[str, str]] = []
    client_ca = None
    keyed = True
    for name, value in spoken:
        if name != "proxy" and not value:
            raise ValueError(f"{text!r} has no path in {name}=")
        if name == "certificate":
            certificates.append((value, value))
            keyed = False
        elif name == "key":
            if keyed:
                raise ValueError(f"{text!r} has a key= that follows no certificate=")
            certificates[-1] = certificates[-1][0], value
            keyed = True
        elif name == "client-ca":
            if client_ca is not None:
                raise ValueError(f"{text!r} gives client-ca= twice")
            client_ca = value
    if kind in _BY_TLS and not certificates:
        raise ValueError(f"{text!r} has no certificate: write for example {kind}:8443:certificate=site.pem")
    if client_ca is not None and not certificates:
        raise ValueError(f"{text!r} has a client-ca=, but no certificate=")
    if certificates and kind in _BY_TLS.values():
        raise ValueError(f"{text!r} has a certificate: write {kind.replace('tcp', 'tls')}:")
    return TLS(tuple(certificates), client_ca) if certificates else None


def _where(text: str, spoken: int) -> str:
    """Returns a string without its fields that say what is spoken."""
    if not spoken:
        return text
    return "".join(one for one in _FIELD.findall(text) if one.lstrip(":").partition("=")[0] not in _SPOKEN)


def _split(text: str) -> tuple[list[str], dict[str, str], list[tuple[str, str]]]:
    """Split a string into its positional, its named and its spoken fields, by Twisted's quoting rules."""
    positional: list[str] = []
    named: dict[str, str] = {}
    spoken: list[tuple[str, str]] = []
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
            _add(text, positional, named, spoken, name, current)
            name, current = None, ""
        else:
            current += character
    _add(text, positional, named, spoken, name, current)
    return positional, named, spoken


def _add(
    text: str,
    positional: list[str],
    named: dict[str, str],
    spoken: list[tuple[str, str]],
    name: str | None,
    value: str,
) -> None:
    if name is None:
        positional.append(value)
    elif name in _SPOKEN:
        spoken.append((name, value))
    elif name in named:
        raise ValueError(f"{text!r} gives {name}= twice")
    else:
        named[name] = value


def _name_fields(text: str, kind: str, positional: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return the fields by name; refuse those that this kind of endpoint does not have."""
    names = _FIELDS[_BY_TLS.get(kind, kind)]
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
    six = text.startswith(("tcp6", "tls6")) or ":" in interface
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
