"""What was counted goes on to the successor, so that no counter goes down and nothing is lost.

Most of it goes along at the takeover.  What is counted in the drain after that follows at its end, when the successor
has the control path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from graceful.control.client import ClientError, ControlClient
from graceful.control.metrics import Metrics
from graceful.control.totals import Totals

log = Logger(namespace="graceful")

#: Seconds that a successor has to hear what its predecessor has counted: less than the exit may take.
COUNTED_IN: Final = 1.0


class CountHandover:
    """Tells the successor what was counted, and goes on from what a predecessor has told.  Reactor thread.

    :param metrics: know what was counted.
    :param successor: returns the path at which the successor takes orders.
    """

    def __init__(self, metrics: Metrics, successor: Callable[[], str]) -> None:
        self._metrics = metrics
        self._successor = successor
        self._handed: Totals | None = None  # what the successor was told

    def inherit(self, told: object) -> None:
        """Go on counting from what a predecessor has counted."""
        self._metrics.inherit(Totals.read(told))

    def hand_over(self) -> dict[str, Any]:
        """Returns what was counted so far, here and by predecessors, for the successor that goes on counting."""
        self._handed = self._metrics.totals()
        return self._handed.told()

    def leave(self) -> None:
        """Tell the successor what was counted since the takeover, or its counters would never have it."""
        if self._handed is None:
            return
        rest = self._metrics.totals().since(self._handed)
        try:
            with ControlClient(self._successor(), COUNTED_IN) as client:
                client.post("/counted", timeout=COUNTED_IN, counted=rest.told())
        except ClientError as error:
            log.warn("the successor has not heard what was counted since: {error}", error=error)
