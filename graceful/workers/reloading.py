"""`--reload`: a deploy at each change of the application's files.

The first worker watches them, since it has imported them, and the supervisor deploys, as at SIGHUP: no request is
interrupted.  If the new code cannot be imported, the former goes on, and its workers show the error to browsers.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from graceful.workers.rolling_restart import RollingRestart
from graceful.workers.worker import WorkerProcess
from graceful.workers.worker_pool import STOPPING, WorkerPool

log = Logger(namespace="graceful")


class Reloading:
    """Deploys what has changed.  Reactor thread.

    :param pool: of the workers.
    :param rolling_restart: replaces them.
    """

    def __init__(self, pool: WorkerPool, rolling_restart: RollingRestart) -> None:
        self._pool = pool
        self._rolling_restart = rolling_restart
        self._error = ""

    def changed(self, files: Sequence[str]) -> None:
        """Deploy, since files have changed; if a deploy is under way, another one after it."""
        log.info("changed: {files}", files=", ".join(files))
        self._rolling_restart.begin()

    def worker_ended(self, worker: WorkerProcess) -> None:
        """Remember why a worker of a deploy could not start."""
        if self._rolling_restart.under_way and not worker.has_served:
            self._error = worker.error

    def import_failed(self, error: str) -> None:
        """Remember why no worker could start: what is to be imported once cannot be."""
        self._error = error

    def deploy_ended(self, why: str | None) -> None:
        """A deploy has ended, with the reason why it has failed or None."""
        if why is None or why == STOPPING:
            text = None
        else:
            text = self._error or why
        self._error = ""
        for worker in self._pool.serving():
            worker.say_broken(text)
