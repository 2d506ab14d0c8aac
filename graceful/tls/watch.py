"""Renewed certificates are used without a deploy: their files are looked at again and again.

What renews a certificate writes two files, one after the other, or swaps a symbolic link.  So a pair that does not
fit is not worth a word at first: its key may come a moment later.  Only a pair that has stayed so is refused, in one
line of the log, until one of its files changes again; the certificate that is loaded stays.

Files are looked at and loaded in a thread that may wait for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from graceful.tls.certificates import BadCertificate, Certificate, Certificates, CertificateStore, Stamp

log = Logger(namespace="graceful")

#: Seconds between two looks.
LOOK: Final = 2.0
#: Seconds for which files that do not fit may go on changing before that is said.
SETTLED: Final = 10.0

#: Calls a function in a thread, and then another one in the reactor thread, with the exception or None.
Do = Callable[[Callable[[], object], Callable[[BaseException | None], None]], object]


@define
class _Refusal:
    """Files that cannot be used.

    :ivar stamps: the files, as they were.
    :ivar since: when they were first seen so, monotonic seconds.
    :ivar why: the line for the operator.
    :ivar said: whether it was logged.
    """

    stamps: tuple[Stamp, ...]
    since: float
    why: str
    said: bool = False


@define
class _Look:
    """What a thread has found: nothing, if the files are as they were.

    :ivar stamps: the files.
    :ivar loaded: the certificates in them; None if these cannot be used.
    :ivar why: why not.
    """

    stamps: tuple[Stamp, ...] = ()
    loaded: tuple[Certificate, ...] | None = None
    why: str = ""


class CertificateWatch:
    """Replaces certificates whose files have changed.  Reactor thread.

    :param clock: monotonic.
    :param store: the certificates.
    :param do: see :class:`graceful.threads.disk.DiskThreads`.
    """

    def __init__(self, clock: IReactorTime, store: CertificateStore, do: Do) -> None:
        self._clock = clock
        self._store = store
        self._do = do
        self._refusals: dict[Certificates, _Refusal] = {}
        self._timer: IDelayedCall | None = None
        self._looks = False

    def start(self) -> None:
        """Look from now on, if there are certificates."""
        if self._store.sets:
            self._looks = True
            self._timer = self._clock.callLater(LOOK, self._look)

    def stop(self) -> None:
        """Look no more, not even when a look that is under way has ended."""
        self._looks = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        looks = DeferredList([self._look_at(one, False) for one in self._store.sets.values()])
        looks.addCallback(lambda ignored: self._again())

    def _again(self) -> None:
        """Look again later: not before the disk has answered."""
        if self._looks:
            self._timer = self._clock.callLater(LOOK, self._look)

    def reload(self) -> Deferred[dict[str, Any]]:
        """Load all certificates again, changed or not.

        :returns: fires with `certificates`, those that are used now, and `refused`, why others are not.
        """
        looks = DeferredList([self._look_at(one, True) for one in self._store.sets.values()])
        return looks.addCallback(
            lambda found: {"certificates": self._store.describe(), "refused": [why for _, why in found if why]}
        )

    def _look_at(self, certificates: Certificates, ordered: bool) -> Deferred[str]:
        """Load certificates if their files have changed, or if that is ordered.

        :returns: fires with why they cannot be used; empty if they can, or are as they were.
        """
        looked: Deferred[str] = Deferred()
        known = certificates.stamps
        refusal = self._refusals.get(certificates)
        found = _Look()

        def look() -> None:
            stamps = certificates.look()
            if stamps == (known if refusal is None else refusal.stamps) and not ordered:
                return
            found.stamps = stamps
            try:
                found.stamps, found.loaded = certificates.load()
            except BadCertificate as error:
                found.why = str(error)
                found.stamps = () if error.passing else found.stamps  # so that the next look tries again

        def done(error: BaseException | None) -> None:
            if error is not None:
                found.why = str(error)
            looked.callback(self._found(certificates, found, ordered))

        self._do(look, done)
        return looked

    def _found(self, certificates: Certificates, found: _Look, ordered: bool) -> str:
        now = self._clock.seconds()
        if found.loaded is not None:
            self._refusals.pop(certificates, None)
            certificates.use(found.stamps, found.loaded)
            for one in found.loaded:
                log.info(
                    "certificate {path} is loaded again: {names}, until {ends:%Y-%m-%d}",
                    path=one.path,
                    names=", ".join(one.about.names),
                    ends=datetime.fromtimestamp(one.about.ends, timezone.utc),
                )
            return ""
        refusal = self._refusals.get(certificates)
        if found.why and (refusal is None or ordered or refusal.stamps != found.stamps):
            since = refusal.since if refusal is not None and not refusal.said else now
            refusal = self._refusals[certificates] = _Refusal(found.stamps, since, found.why)
        if refusal is not None and not refusal.said and (ordered or now - refusal.since >= SETTLED):
            refusal.said = True
            log.error("{why}: the certificate of before is used on", why=refusal.why)
        return found.why
