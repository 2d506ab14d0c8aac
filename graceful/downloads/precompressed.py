"""Files that lie beside another one and are the same, compressed: `app.js.br`, `app.js.zst`, `app.js.gz`.

A build writes them once, with the best compression, and each client gets the one that it can read.  One that is older
than the file itself is of an earlier build, and is not used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from attrs import evolve

from graceful.downloads.files import OpenFile, open_file
from graceful.downloads.targets import File, RefusedPath

#: The ends of such files' names by the coding (RFC 9110 §8.4.1), the smallest files first.
ENDS: Final = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}
_ITEM: Final = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?))?\Z")


def accepted(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """Returns the codings that a client accepts, the one that it likes best first (RFC 9110 §12.5.3)."""
    said = [value.decode("latin-1") for name, value in headers if name.lower() == b"accept-encoding"]
    weights: dict[str, float] = {}
    for item in ",".join(said).split(","):
        match = _ITEM.match(item.strip(" \t"))
        if match is not None:
            weights[match[1].lower()] = float(match[2] or 1)
    weights["gzip"] = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    liked = {coding: weights.get(coding, weights.get("*", 0.0)) for coding in ENDS}
    return sorted((coding for coding in ENDS if liked[coding]), key=lambda coding: -liked[coding])


def open_best(file: File, codings: Sequence[str]) -> tuple[OpenFile, str, bool]:
    """Open a file, or what lies beside it and suits better.  May block.

    :param codings: those that the client accepts, best first.
    :returns: the open file, its coding (empty for none), and whether another client may get another one.
    :raises RefusedPath: there is no file that may be sent.
    """
    opened = open_file(file)
    beside = [coding for coding, end in ENDS.items() if _is_newer(file.path + end, opened)]
    for coding in codings:
        if coding in beside:
            with suppress(RefusedPath, OSError):
                better = open_file(evolve(file, path=file.path + ENDS[coding]))
                opened.close()
                return better, coding, True
    return opened, "", bool(beside)


def _is_newer(path: bytes, opened: OpenFile) -> bool:
    try:
        return os.stat(path).st_mtime_ns >= opened.modified
    except OSError:
        return False
