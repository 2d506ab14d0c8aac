"""What another server's configuration becomes: options in a TOML file, and a comment for what has no counterpart."""

from __future__ import annotations

import json
import re
import shlex
from typing import Final

from graceful.config.option_table import FLAGS, GROUPS
from graceful.config.sources import APPLICATION, REPEATED_NAMES
from graceful.sockets.address import endpoint

_NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]+)?")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.*-]*):([0-9]{1,5})")


class CannotConvert(ValueError):
    """A file cannot be read.  The text is one line for the operator."""


class Conversion:
    """Collects what a file says.

    :param server: whose file it is.
    :param path: of the file.
    :ivar listeners: where to listen.
    """

    def __init__(self, server: str, path: str) -> None:
        self._server = server
        self._path = path
        self._set: dict[str, list[str]] = {}
        self._notes: list[str] = []
        self._process: list[str] = []
        self.listeners: list[str] = []

    def set(self, name: str, *values: object) -> None:
        """Give an option its value, or one that can be repeated some more."""
        texts = [str(value) for value in values]
        self._set[name] = [*self._set.get(name, []), *texts] if name in REPEATED_NAMES else texts

    def note(self, line: str, why: str) -> None:
        """Say of a line of the file why nothing comes of it, or what else is to be done."""
        self._notes.append(f"# {' '.join(line.split())}: {why}")

    def process(self, option: str, value: object = None) -> None:
        """Give an option of the process, which stands on the command line alone."""
        self._process += [f"--{option}"] if value is None else [f"--{option}", str(value)]

    def listen(self, line: str, address: str) -> None:
        """Listen at an address as other servers write it."""
        found = endpoint_of(address)
        if found is None:
            self.note(line, "no address that can be listened on")
        else:
            self.listeners.append(found)

    def text(self) -> str:
        """Returns the file, in TOML."""
        if self.listeners:
            self._set["listen"] = self.listeners
        start = " ".join(["graceful serve --config FILE", *map(shlex.quote, self._process)])
        lines = [f"# From {self._path}, of {self._server}.  Start: {start}"]
        names = [APPLICATION, *(option.name for group in GROUPS.values() for option in group)]
        lines += [_line(name, self._set[name]) for name in names if name in self._set]
        if self._notes:
            lines += ["", "# What has no counterpart:", *self._notes]
        return "\n".join(lines) + "\n"


def _line(name: str, texts: list[str]) -> str:
    bare = name in FLAGS
    values = [text if bare or _NUMBER.fullmatch(text) else json.dumps(text, ensure_ascii=False) for text in texts]
    return f"{name} = [{', '.join(values)}]" if name in REPEATED_NAMES else f"{name} = {values[0]}"


def endpoint_of(address: str) -> str | None:
    """Returns the endpoint of an address as other servers write it; None if it is none.

    :param address: `127.0.0.1:8000`, `:8000`, `[::1]:8000`, `unix:PATH`, `/PATH` or `fd://3`.
    """
    if address.startswith("fd://"):
        return f"fd:{address.removeprefix('fd://')}"
    path = address.removeprefix("unix:")
    if path != address or address.startswith(("/", "./")):
        path = path.removeprefix("//") if path.startswith("///") else path
        return f"unix:{path}".replace("\\", "\\\\") if ":" not in path else None
    match = _ADDRESS.fullmatch(address.removeprefix("tcp://"))
    if match is None:
        return None
    host = match[1] if match[1] not in ("", "*") else "0.0.0.0"
    return endpoint(host, match[2])
