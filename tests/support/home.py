"""The directory that a server under test lives in, and what it must leave behind there: nothing.

Pid files, socket files and temporary bodies that outlive their process are found months later, when a disk is
full or a start fails.  So every server of the real tests gets directories of its own for everything that it
may write, and each test ends by looking into them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

UNPRIVILEGED = 65534


class Home:
    """Directories for the servers of one test.

    :param uid: the user that the servers run as.
    :ivar run: their working directory, and so where twistd puts its pid file.
    :ivar temporary: their TMPDIR.
    :ivar spool: for request bodies, to be given with `--spool`.
    :ivar logs: for log files, which may stay.
    :ivar disturbed: whether a server was killed, and so had no chance to clean up.
    """

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.disturbed = False
        self.path = Path(tempfile.mkdtemp(prefix="graceful-test-"))
        self.run, self.temporary, self.spool, self.logs = (
            self.path / name for name in ("run", "tmp", "spool", "logs")
        )
        for path in (self.path, self.run, self.temporary, self.spool, self.logs):
            path.mkdir(mode=0o755, exist_ok=True)
            path.chmod(0o755)
            if uid != os.getuid():
                os.chown(path, uid, uid)

    def left_behind(self) -> list[str]:
        """Return the paths of what a server has left, without its logs."""
        found = []
        for directory in (self.run, self.temporary, self.spool):
            found += [str(path.relative_to(self.path)) for path in directory.rglob("*")]
        return sorted(found)

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.path)
