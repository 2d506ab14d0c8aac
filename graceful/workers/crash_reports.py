"""Reports what was lost with a worker that died: the supervisor does, since the worker no longer can.

It knows no more than the worker has said last, up to a second before: what was in flight then, and how far it was.
What has come and been lost within that second is not known.  Each exchange is named in the log as one that was taken
down is, and gets a report, of the kind `lost`, with the same keys as far as they are known.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.process.exit import REPORTS
from graceful.reports.outlets import as_json
from graceful.reports.reporter import Reporter
from graceful.server.shutdown import LOOK_AGAIN
from graceful.workers.worker import WorkerProcess

log = Logger(namespace="graceful")


#: The kind of such a report, and the outcome of its exchange in the log.
LOST: Final = "lost"


class CrashReports:
    """Tells of losses.  Reactor thread.

    :param reports: publishes them.
    :param clock: times the end; monotonic.
    """

    def __init__(self, reports: Reporter, clock: IReactorTime) -> None:
        self._reports = reports
        self._clock = clock

    def of(self, worker: WorkerProcess) -> None:
        """A worker has died, without a last word."""
        seen: Sequence[dict[str, Any]] = worker.picture.get("in_flight", ())
        log.error(
            "worker {number}, process {pid}, has ended with {how}; it had {count} in flight when it was last asked",
            number=worker.number,
            pid=worker.pid,
            how=worker.how(),
            count=worker.lost,
        )
        lines = [self._tell(worker, exchange) for exchange in seen]
        if lines:
            log.info("interrupted: {json}", json=as_json(lines))

    def _tell(self, worker: WorkerProcess, exchange: dict[str, Any]) -> dict[str, Any]:
        """Report one exchange.  Returns how the log names it."""
        known = {
            "exchange": exchange["id"],
            "method": exchange["method"],
            "url": exchange["path"],
            "client": exchange["peer"],
            "phase": exchange["phase"],
            "sent": exchange["bytes_sent"],
        }
        number = None
        if self._reports.wanted:
            number = self._reports.new_id()
            self._reports.publisher.publish(
                {
                    **known,
                    "id": number,
                    "time": datetime.now(timezone.utc),
                    "kind": LOST,
                    "type": "WorkerLost",
                    "value": f"{worker}, has ended with {worker.how()}",
                    "reporter": "graceful",
                    "hostname": socket.gethostname(),
                    "pid": worker.pid,
                    "topic": f"{exchange['method']} {exchange['path']}",
                    "duration": exchange["age"],
                }
            )
        return {**known, "age": exchange["age"], "report": number, "outcome": LOST}

    def end(self, then: Callable[[], object]) -> None:
        """Wait a while until the reports are written, then call `then`."""
        publisher = self._reports.publisher
        publisher.end()
        until = self._clock.seconds() + REPORTS

        def look() -> None:
            if publisher.busy and self._clock.seconds() < until:
                self._clock.callLater(LOOK_AGAIN, look)
                return
            publisher.give_up()
            then()

        look()
