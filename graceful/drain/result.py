"""How a drain has gone."""

from __future__ import annotations

from attrs import frozen


@frozen
class DrainResult:
    """How a drain has gone.

    :ivar exit_status: the exit status of the process, or what it would be.
    :ivar seconds: how long the drain took.
    :ivar finished: exchanges that ended by themselves in it.
    :ivar taken_down: exchanges that were interrupted.
    :ivar abandoned: threads that did not end.
    :ivar reports: the ids of the reports on what was interrupted.
    """

    exit_status: int
    seconds: float
    finished: int
    taken_down: int
    abandoned: int
    reports: tuple[str, ...] = ()
