"""Starting servers quickly: what they import is imported once, and each of them is a fork.

A start takes half a second of a processor, nearly all of it for importing the same modules, and a test run has more
than a thousand.  Most tests are about what a server does later.  So a process imports the modules, and becomes a
server by a fork: with its own command line, environment, directory and output, on its way through twistd's `run`.
Where a fork makes a difference (a daemon, another user, limits, descriptors, libraries, the start itself), the server
is started as people do; and so are workers, successors, and all that a shell starts.

This module is both sides: `Quick` starts the process that forks, `main` is that process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any


class Quick:
    """The process that forks servers.

    :param environment: what counts while Python starts and imports: its path, preloaded libraries.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()  # some tests start servers side by side
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._hear() == "ready"

    def __enter__(self) -> Quick:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.end()

    def end(self) -> None:
        """End it; not the servers."""
        self._process.communicate()

    def start(
        self,
        command: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        output: int | None = None,
    ) -> int:
        """Run a command line of twistd.

        :param output: the descriptor for what it prints.  With it, the server is a child of the nearest process above
            that adopts orphans, which can wait for it; without it, the server is this process's own child.
        :returns: the process.
        """
        said = {
            "command": list(command),
            "directory": str(directory),
            "environment": dict(environment),
            "output": os.devnull if output is None else f"/proc/{os.getpid()}/fd/{output}",
            "adopted": output is not None,
        }
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(said) + "\n")
            self._process.stdin.flush()
            return int(self._hear())

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return line.strip()


def main() -> int | str | None:
    """Fork a server for each line of standard input; returns, in each of these, the status that it exits with."""
    sys.path[0] = os.path.dirname(sys.executable)  # where the script `twistd` is
    from twisted.plugin import IPlugin, getPlugins
    from twisted.scripts import twistd

    from graceful.workers.preload import AND_IF_THERE, EVERY_WORKERS

    for module in ("graceful.options", "graceful.tap", *EVERY_WORKERS):
        import_module(module)
    for module in AND_IF_THERE:
        with suppress(ImportError):
            import_module(module)
    list(getPlugins(IPlugin))
    assert "twisted.internet.reactor" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    for line in sys.stdin:
        said = json.loads(line)
        output = os.open(said["output"], os.O_WRONLY)
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0 and (not said["adopted"] or os.fork() == 0):
            os.write(writes, str(os.getpid()).encode())
            for descriptor in (reads, writes):
                os.close(descriptor)
            _become(said, output)
            return twistd.run()  # type: ignore[no-any-return, func-returns-value, unused-ignore]
        if child == 0:
            os._exit(0)  # the server is adopted
        if said["adopted"]:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)
        for descriptor in (writes, output):
            os.close(descriptor)
        print(os.read(reads, 16).decode(), flush=True)
        os.close(reads)
    return None


def _become(said: dict[str, Any], output: int) -> None:
    """Make this process as one that has been started."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(said["directory"])
    os.environ.clear()
    os.environ.update(said["environment"])
    sys.argv[:] = said["command"]
    sys.orig_argv[:] = [sys.executable, *said["command"]]
    nothing = os.open(os.devnull, os.O_RDONLY)
    for standard, descriptor in enumerate((nothing, output, output)):
        os.dup2(descriptor, standard)
    os.close(nothing)
    os.close(output)


if __name__ == "__main__":
    sys.exit(main())
