"""`deploy.toml`: what is deployed, and how carefully.

Every mistake in the file is reported before anything is touched: otherwise a misspelt key would be a precaution that
the operator relies on, and that is not taken.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from attrs import frozen

from graceful.deploy import DeployError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class PlanError(DeployError):
    """The file cannot be used."""


@frozen
class PlannedInstance:
    """One running server, by the name that it has in HAProxy.

    :ivar control: its control socket.
    :ivar start: a shell command that starts it; it may end when the server runs, or be the server.
    :ivar servers: backend and server, wherever HAProxy knows it.
    :ivar health: a URL that must be answered with 200 before it gets requests; None for none.
    :ivar checks: URLs that ask the application itself, before and after it gets requests.
    :ivar expect: the status that the checks must be answered with.
    :ivar rollback: a shell command that starts the previous version if the new one does not work; None for none.
    :ivar log: the server's log, whose end is shown if it does not start; None for the output of the command.
    """

    name: str
    control: str
    start: str
    servers: tuple[tuple[str, str], ...] = ()
    health: str | None = None
    checks: tuple[str, ...] = ()
    expect: int = 200
    rollback: str | None = None
    log: str | None = None


@frozen
class Plan:
    """The contents of a `deploy.toml`.

    :ivar path: where it is.
    :ivar instances: in the order in which they are deployed.
    :ivar haproxy: the stats socket of each HAProxy; none if the instances are deployed by takeover.
    :ivar parallel: how many instances at once.
    :ivar min_up: how many others must be up in a backend before a server is taken out of it.
    :ivar margin: seconds from an instance's own latest exit to kill -9.
    :ivar start_within: seconds that a new instance has until it is healthy.
    :ivar before: a shell command that must succeed before anything is touched; None for none.
    :ivar records: the directory for the lock, the state of an unfinished deploy, the history, and the output of
        commands.
    """

    path: str
    instances: tuple[PlannedInstance, ...]
    haproxy: tuple[str, ...] = ()
    parallel: int = 1
    min_up: int = 1
    margin: float = 30.0
    start_within: float = 60.0
    before: str | None = None
    records: str = ""

    @property
    def directory(self) -> str:
        """The directory of the file: commands run there, and relative paths begin there."""
        return os.path.dirname(self.path)

    def record(self, kind: str) -> str:
        """Returns the path of one of the records."""
        stem = os.path.splitext(os.path.basename(self.path))[0]
        return os.path.join(self.records, f"{stem}.{kind}")


def read(path: str) -> Plan:
    """Read a file.

    :raises PlanError: it cannot be read, or something in it is wrong.
    """
    path = os.path.abspath(path)
    try:
        with open(path, "rb") as file:
            return plan(tomllib.load(file), path)
    except OSError as error:
        raise PlanError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{path}: not TOML: {error}") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def plan(values: Mapping[str, Any], path: str) -> Plan:
    """Returns the plan that the values of a file make.

    :raises PlanError: a value is wrong.
    """
    top = _TomlTable(values, "")
    directory = os.path.dirname(path)

    def resolve(name: str) -> str:
        return os.path.join(directory, name)

    sockets: tuple[str, ...] = ()
    backend = None
    if "haproxy" in values:
        haproxy = _TomlTable(top.take("haproxy", dict), "[haproxy] ")
        sockets = tuple(_socket(name, resolve) for name in haproxy.texts("socket"))
        backend = haproxy.text("backend")
        haproxy.end()
        if not sockets:
            raise PlanError("[haproxy] needs a socket")
    instances = tuple(
        _instance(_TomlTable(one, f"instance {number}: "), backend, bool(sockets), resolve)
        for number, one in enumerate(top.tables("instance"), 1)
    )
    found = Plan(
        path=path,
        instances=instances,
        haproxy=sockets,
        parallel=int(top.number("parallel", 1, 1, whole=True)),
        min_up=int(top.number("min_up", 1, 0, whole=True)),
        margin=top.number("margin", 30.0, 0),
        start_within=top.number("start_within", 60.0, 0),
        before=top.text("before"),
        records=resolve(top.text("records") or ""),
    )
    top.end()
    if not instances:
        raise PlanError("there is no [[instance]]")
    for what in ("name", "control"):
        seen = [getattr(instance, what) for instance in instances]
        twice = sorted({value for value in seen if seen.count(value) > 1})
        if twice:
            raise PlanError(f"two instances have the {what} {twice[0]}")
    return found


def _instance(
    table: _TomlTable, backend: str | None, balanced: bool, resolve: Callable[[str], str]
) -> PlannedInstance:
    name = table.need("name")
    table.where = f"instance {name}: "
    if "/" in name or name.startswith("."):
        raise PlanError(f"{table.where}a name is that of a server, not a path")
    servers = tuple(_server(table, text) for text in table.texts("servers"))
    if servers and not balanced:
        raise PlanError(f"{table.where}servers are HAProxy's, and there is no [haproxy]")
    if balanced and not servers:
        if backend is None:
            raise PlanError(f"{table.where}give [haproxy] a backend, or this instance its servers")
        servers = ((backend, name),)
    health, log = table.text("health"), table.text("log")
    found = PlannedInstance(
        name=name,
        control=resolve(table.need("control")),
        start=table.need("start"),
        servers=servers,
        health=None if health is None else _url(table, health),
        checks=tuple(_url(table, url) for url in table.texts("check")),
        expect=int(table.number("expect", 200, 100, 599, whole=True)),
        rollback=table.text("rollback"),
        log=None if log is None else resolve(log),
    )
    table.end()
    return found


def _server(table: _TomlTable, text: str) -> tuple[str, str]:
    backend, slash, server = text.partition("/")
    if not (backend and slash and server) or set(text) & set(" ;\n"):
        raise PlanError(f"{table.where}expected BACKEND/SERVER, not {text!r}")
    return backend, server


def _url(table: _TomlTable, text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PlanError(f"{table.where}expected http://HOST:PORT/PATH, not {text!r}")
    return text


def _socket(text: str, resolve: Callable[[str], str]) -> str:
    if text.startswith("tcp:"):
        host, colon, port = text[4:].rpartition(":")
        if not (host and colon and port.isdigit()):
            raise PlanError(f"[haproxy] expected a path or tcp:HOST:PORT, not {text!r}")
        return text
    return resolve(text)


_KINDS: Final[dict[type, str]] = {str: "a text", dict: "a table", list: "a list"}


class _TomlTable:
    """A table of the file, from which each key is taken once."""

    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, Mapping):
            raise PlanError(f"{where}expected a table")
        self._rest = dict(values)
        self.where = where

    def take(self, key: str, kind: type) -> Any:
        """Returns the value of a key; None if it is not there."""
        value = self._rest.pop(key, None)
        if value is not None and not isinstance(value, kind):
            raise PlanError(f"{self.where}{key} must be {_KINDS[kind]}")
        return value

    def text(self, key: str) -> str | None:
        """Returns a text; None if it is not there."""
        value: str | None = self.take(key, str)
        if value is not None and not value.strip():
            raise PlanError(f"{self.where}{key} is empty")
        return value

    def need(self, key: str) -> str:
        """Returns a text that must be there."""
        value = self.text(key)
        if value is None:
            raise PlanError(f"{self.where}{key} is missing")
        return value

    def texts(self, key: str) -> list[str]:
        """Returns the texts of a key that has a text or a list of texts."""
        value = self._rest.pop(key, [])
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(one, str) and one.strip() for one in values):
            raise PlanError(f"{self.where}{key} must be a text or a list of texts")
        return values

    def tables(self, key: str) -> list[Any]:
        """Returns a list of tables."""
        value: list[Any] = self.take(key, list) or []
        return value

    def number(self, key: str, usual: float, least: float, most: float = 1e6, whole: bool = False) -> float:
        """Returns a number within bounds."""
        value: Any = self._rest.pop(key, usual)
        kinds: Any = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            kind = "a whole number" if whole else "a number"
            raise PlanError(f"{self.where}{key} must be {kind}, at least {least:g} and at most {most:g}")
        return float(value)

    def end(self) -> None:
        """Check that every key was taken."""
        if self._rest:
            raise PlanError(f"{self.where}there is no {sorted(self._rest)[0]} here; is it misspelt?")
