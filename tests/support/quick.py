"""Starting servers quickly: what they import is imported once, and each of them is a fork.

A test that kills fifty servers at the start is about what they do to others, not about how long Python takes to find
its modules.  This module is both sides: `Quick` starts the process that forks, `main` is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Quick:
    """The process that forks servers.

    :param directory: where they run.
    :param environment: theirs.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.quick", str(directory)],
            cwd=Path(__file__).parent.parent.parent,
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hear()

    def __enter__(self) -> Quick:
        return self

    def __exit__(self, *ignored: object) -> None:
        self._process.communicate()

    def start(self, command: Sequence[str], **environment: str) -> int:
        """Run a command line of twistd, with some variables set; its process number."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([list(command), environment]) + "\n")
        self._process.stdin.flush()
        return int(self._hear())

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return line


def main(directory: str) -> None:
    """Fork a server for each line of standard input."""
    from twisted.scripts import twistd

    import graceful.server.app_server

    assert graceful.server.app_server and "twisted.internet.reactor" not in sys.modules
    os.chdir(directory)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(nothing, descriptor)
        sys.argv, environment = json.loads(line)
        os.environ.update(environment)
        twistd.run()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
