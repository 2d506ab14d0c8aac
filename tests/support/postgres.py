"""A PostgreSQL of the tests' own: a cluster in a temporary directory, reached by a Unix socket only."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.support.home import UNPRIVILEGED


def programs() -> Path:
    """Where `initdb` and `pg_ctl` are: Debian has them beside each other, for each version, and not in the path."""
    found = shutil.which("pg_ctl")
    candidates = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert candidates, "PostgreSQL is not installed: run `make system`"
    return candidates[-1]


class Postgres:
    """A server that runs inside of the `with` block.

    :ivar dsn: how clients connect to it.
    """

    def __enter__(self) -> Postgres:
        self.path = Path(tempfile.mkdtemp(prefix="graceful-pg-"))
        self.path.chmod(0o755)
        self._user: list[str] = []
        if os.getuid() == 0:  # which PostgreSQL refuses to be
            os.chown(self.path, UNPRIVILEGED, UNPRIVILEGED)
            self._user = ["setpriv", f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
        self.dsn = f"host={self.path} user=test dbname=postgres"
        try:
            self._run("initdb", "--no-sync", "--auth=trust", "--username=test", "--locale=C", "--encoding=UTF8")
            options = f"-c listen_addresses= -c fsync=off -c unix_socket_directories={self.path}"
            self._run("pg_ctl", "start", "--wait", "--options", options, "--log", str(self.path / "log"))
        except BaseException:
            shutil.rmtree(self.path)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run("pg_ctl", "stop", "--mode=immediate")
        shutil.rmtree(self.path)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(programs() / program), "--pgdata", str(self.path / "data"), *arguments]
        log = self.path / "said"
        with log.open("w") as said:  # not a pipe, which the server would keep open
            done = subprocess.run(command, stdout=said, stderr=said, cwd="/", timeout=60, check=False)
        assert done.returncode == 0, f"{program} failed: {log.read_text()}"
