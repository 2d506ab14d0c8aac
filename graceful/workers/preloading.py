"""`--preload`: one fork server for each release that workers run.

A deploy starts another one, since it is to load new code; the former one ends with the last of its workers.

Without a fork server workers cost memory and nothing else.  So if one is lost, or if the application is such that it
cannot be forked, workers are started as without `--preload`, and the log says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from graceful.process.origin import Origin
from graceful.workers.fork_server import ForkedProcess, ForkServer

log = Logger(namespace="graceful")


class Preloading:
    """The fork servers of an instance.  Reactor thread; before it runs, the main thread.

    :param reactor: Twisted's.
    :param clock: monotonic.
    :param timeout: seconds that an import may take in a deploy.
    :param wanted: whether there are to be any; if not, each worker imports its release.
    :param make: makes one.
    :ivar error: why the last import has failed, with its stack; empty if that is not known.
    """

    def __init__(
        self,
        reactor: Any,
        clock: Any,
        timeout: float,
        wanted: bool = True,
        make: Callable[..., ForkServer] = ForkServer,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._timeout = timeout
        self._wanted = wanted
        self._make = make
        self._all: list[ForkServer] = []
        self._importing: ForkServer | None = None  # in a deploy, which waits for `_imported`
        self._imported: Deferred[str | None]
        self._late: IDelayedCall
        self.error = ""

    # -- imports ------------------------------------------------------------------------------------------

    def start(self, release: Origin) -> str | None:
        """Have the first release imported.  Blocks: before the reactor runs.

        :returns: why no worker could import it; None if one can.
        """
        if not self._wanted:
            return None
        try:
            server = self._begin(release)
        except OSError as error:
            _each_imports(error.strerror or str(error))
            return None
        server.wait_until_imported()
        return self._why_not(server)

    def preload(self, release: Origin) -> Deferred[str | None]:
        """Have the next release imported.

        :returns: fires with the reason why no worker could import it, or with None.
        """
        if not self._wanted:
            return succeed(None)
        try:
            self._importing = self._begin(release)
        except OSError as error:
            _each_imports(error.strerror or str(error))
            return succeed(None)
        self._imported = Deferred()
        self._late = self._clock.callLater(self._timeout, self._too_late, self._importing)
        return self._imported

    def stop_importing(self, why: str) -> None:
        """Give up an import that is under way."""
        server = self._importing
        if server is not None:
            server.retire()
            self._answer(why)

    def _begin(self, release: Origin) -> ForkServer:
        self.error = ""
        server = self._make(release, self._reactor, self._changed)
        self._all.append(server)
        return server

    def _too_late(self, server: ForkServer) -> None:
        server.kill()
        server.fail(f"it has not been imported within {self._timeout:g} s")

    def _changed(self, server: ForkServer) -> None:
        """A fork server has imported its release, or is lost."""
        if server is self._importing:
            self._answer(self._why_not(server))
        elif server.imported and server.lost:
            log.error(
                "the {server}, is lost: {why}; until the next deploy, new workers import the application",
                server=server,
                why=server.why,
            )

    def _answer(self, why: str | None) -> None:
        self._importing = None
        if self._late.active():
            self._late.cancel()
        self._imported.callback(why)

    def _why_not(self, server: ForkServer) -> str | None:
        """Returns why no worker could import what a fork server should have; logs what only costs memory."""
        if server.failed:
            self.error = server.error
            return server.why
        if server.lost:
            _each_imports(server.why)
        else:
            log.info("{server}, has imported {release}", server=server, release=server.release.application)
        return None

    # -- workers ------------------------------------------------------------------------------------------

    def fork(self, release: Origin, number: int, line: int, control: int) -> ForkedProcess | None:
        """Make a worker's process (:meth:`ForkServer.fork`).  Returns None if it has to be started without."""
        for server in self._all:
            if server.release is release and server.imported and not server.lost:
                try:
                    return server.fork(number, line, control)
                except OSError as error:
                    log.warn("worker {number} is not forked: {error}", number=number, error=error)
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Returns them for the status, oldest first."""
        return [
            {
                "pid": server.pid,
                "application": server.release.application,
                "workers": len(server.forked),
                "state": server.state,
            }
            for server in self._all
            if server.there and (server.forked or not server.lost)
        ]

    # -- the end ------------------------------------------------------------------------------------------

    def keep_only(self, release: Origin) -> None:
        """Have the others end, each with the last of its workers."""
        for server in self._all:
            if server.release is not release:
                server.retire()
        self._all = [server for server in self._all if server.there]

    def close(self) -> None:
        """Have all of them end: no worker is left, or none is wanted."""
        for server in self._all:
            server.retire()


def _each_imports(why: str) -> None:
    log.warn("no preload: {why}; each worker imports the application", why=why)
