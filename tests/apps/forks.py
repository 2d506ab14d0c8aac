"""An application that makes child processes: see `PATHS`."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable

import basic

FORK = multiprocessing.get_context("fork")

#: A child from before the server accepts.
early = FORK.Process(target=time.sleep, args=(1000,), daemon=True)
early.start()


def child(ready: multiprocessing.synchronize.Event) -> None:
    """Be a child that does nothing."""
    ready.set()
    time.sleep(1000)


def terminate(environ: basic.Environ) -> str:
    """How children end that are sent each signal of the server's."""
    said = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        ready = FORK.Event()
        process = FORK.Process(target=child, args=(ready,))
        process.start()
        if number == signal.SIGINT:  # KeyboardInterrupt needs somewhere to be raised
            ready.wait()
        assert process.pid is not None
        for _ in range(10):  # CPython 3.13 and 3.14 may lose the first SIGINT in a child that a thread has made
            os.kill(process.pid, number)
            process.join(1)
            if process.exitcode is not None:
                break
        said.append(str(process.exitcode))
        process.kill()
        process.join()
    early.terminate()
    early.join(5)
    return " ".join([*said, str(early.exitcode)])


def pool(environ: basic.Environ) -> str:
    """What a pool of processes says, which ends them by SIGTERM."""
    with FORK.Pool(2) as workers:
        return str(workers.map(abs, [-1, -2]))


def environment(environ: basic.Environ) -> str:
    """What a child is told by the service manager."""
    command = "env | grep -E '^(NOTIFY|WATCHDOG|LISTEN)' || echo nothing"
    return subprocess.run(command, shell=True, capture_output=True, check=False).stdout.decode()


def hold(environ: basic.Environ) -> str:
    """Leave a child that outlives the server.  Says its number."""
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
        os._exit(0)
    return str(pid)


PATHS: dict[str, Callable[[basic.Environ], str]] = {
    "/terminate": terminate,
    "/pool": pool,
    "/environment": environment,
    "/hold": hold,
}


def application(environ: basic.Environ, start_response: basic.Start) -> Iterable[bytes]:
    """Do what the path says."""
    body = PATHS[environ["PATH_INFO"]](environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.encode()]
