"""Deploying with workers: at SIGHUP the next release comes in one worker at a time, and there is a way back.

Each new worker is ready before the former one stops accepting, and only one is started at a time: so there is never
less capacity than before, and no more memory in use than for one worker more.  If one fails, what was replaced
already is replaced once more, by the release from before, so that an instance never serves two of them for long; and
where even that fails, whatever is started next is of that release.  A deploy is called done when the last former
worker has closed its sockets: whatever asks then is answered by the new release.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from graceful.process.origin import Origin
from graceful.workers.slot import Slot
from graceful.workers.worker_pool import STOPPING, WorkerPool

log = Logger(namespace="graceful")


class RollingRestart:
    """Replaces all workers.  Reactor thread.

    :param pool: whose workers.
    :param origin: how the supervisor was started; its paths are resolved again for each deploy.
    :param may_not: says why there can be no deploy now, or None.
    :param ended: called when a deploy has ended, with None or the reason why it has failed.
    :param preload: has a release imported, for all of its workers; returns why none of them could import it, or None.
    :ivar release: what is served.
    """

    def __init__(
        self,
        pool: WorkerPool,
        origin: Origin,
        release: Origin,
        may_not: Callable[[], str | None],
        ended: Callable[[str | None], object] = lambda why: None,
        preload: Callable[[Origin], Deferred[str | None]] = lambda release: succeed(None),
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._may_not = may_not
        self.under_way = False
        self._again = False  # another deploy was asked for while this one is under way
        self.release = release
        self._ended = ended
        self._preload = preload

    def begin(self) -> None:
        """Deploy what the paths lead to; if a deploy is under way, after that, which may be of another release."""
        if self.under_way:
            self._again = True
            log.info("deploy: one is under way; another one follows it")
            return
        why = self._may_not()
        if why is not None:
            log.error("no deploy: {why}; the workers serve on", why=why)
            return
        release = self._origin.fixed()
        log.info(
            "deploy: workers that run {new} (was {old}), one at a time",
            new=release.application,
            old=self.release.application,
        )
        Deferred.fromCoroutine(self._roll(release)).addErrback(
            lambda failure: log.failure("trouble in a deploy", failure)
        )

    async def _roll(self, release: Origin) -> None:
        failed: str | None = STOPPING
        self.under_way = True
        try:
            failed = await self._replace_all(release)
        finally:
            self.under_way = False
            again, self._again = self._again, False
            self._ended(failed)
            if again and failed != STOPPING:
                self.begin()

    async def _replace_all(self, release: Origin) -> str | None:
        """Replace all workers, or none for long.  Returns why they were not replaced."""
        failed, replaced = await self._forward(release)
        if failed is None:
            self.release = release
            await self._pool.former_closed()
            log.info("deployed: all workers run {new}", new=release.application)
        elif failed == STOPPING:
            log.info("no deploy: {why}", why=failed)
        else:
            await self._back(failed, replaced)
        return failed

    async def _back(self, failed: str, replaced: list[Slot]) -> None:
        log.error(
            "no deploy: {why}; {back}",
            why=failed,
            back=f"back to the old release in {len(replaced)}" if replaced else "the old release serves on",
        )
        whys = [await self._pool.replace(slot, self.release) for slot in replaced]
        why = next((why for why in whys if why is not None), None)
        if why is not None and why != STOPPING:
            log.critical("no way back in all places: {why}", why=why)
        elif replaced and why is None:
            await self._pool.former_closed()
            log.info("all workers run {old} again", old=self.release.application)

    async def _forward(self, release: Origin) -> tuple[str | None, list[Slot]]:
        """Replace one worker after the other.  Returns why one could not be replaced, and the slots that were."""
        replaced: list[Slot] = []
        why = await self._preload(release)
        if why is not None:
            return why, replaced
        for slot in self._pool.slots:
            why = await self._pool.replace(slot, release)
            if why is not None:
                slot.release = self.release
                return why, replaced
            replaced.append(slot)
        return None, replaced
