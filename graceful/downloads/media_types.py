"""The media types of files, by their names: read at start-up, so that no request reads them first.

Python completes its table from files such as `/etc/mime.types` when the table is first used.  At that moment the
process may have no descriptor left, or such a file may have a byte that is no UTF-8; then the request that asked
would fail, and each one after it.
"""

from __future__ import annotations

import mimetypes
import os
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="graceful")


#: The media type of a file whose name tells nothing (RFC 9110 §8.3).
UNKNOWN: Final = "application/octet-stream"


def load() -> None:
    """Read the system's files of media types.

    A file that cannot be read is logged and left out, for the application as well: Python would raise at each use.
    """
    for path in filter(os.path.isfile, list(mimetypes.knownfiles)):
        try:
            with open(path, encoding="utf-8") as file:
                file.read()
        except (OSError, ValueError) as error:
            log.warn("{path} cannot be read, so its media types are unknown: {error}", path=path, error=error)
            mimetypes.knownfiles.remove(path)
    mimetypes.init()


def media_type(path: str) -> str:
    """Returns the media type of a file.

    :param path: its name, or a path.
    """
    return mimetypes.guess_type(path)[0] or UNKNOWN
