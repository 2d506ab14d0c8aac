"""The duty of process 1: to collect processes that have lost their parent.

In a PID namespace the kernel gives each orphan to process 1.  If that does not collect it when it ends, it stays in
the process table as a zombie, and a container whose requests start programs comes to its limit of processes.

Process 1 must not collect a child that other code waits for: `subprocess` and Twisted would lose its exit status.  A
child of this process belongs to the thread that has started it, and the kernel gives orphans to the main thread.  So
only the main thread's children are looked at, and one of them is collected when it has been a zombie for
:data:`UNCLAIMED` seconds: code that waits for a child collects it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.process.clock import monotonic_clock
from graceful.process.process_table import is_zombie

log = Logger(namespace="graceful")


#: Seconds between two looks.
LOOK: Final = 1.0
#: Seconds for which code of this process may leave an ended child uncollected before it counts as an orphan.
UNCLAIMED: Final = 5.0


def ended_children() -> set[int]:
    """Returns the zombies among the children of this process's main thread.

    :raises OSError: the system does not tell: it has no /proc, or a kernel without CONFIG_PROC_CHILDREN.
    """
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children", "rb") as file:
        children = file.read().split()
    return {int(pid) for pid in children if is_zombie(int(pid))}


def collect(pid: int) -> None:
    """Collect a zombie, waitpid(2); other code may just have done so."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def collect_orphans(reactor: Any) -> None:
    """Collect orphans for as long as the reactor runs, if this is process 1.

    :param reactor: Twisted's, which runs.
    """
    if os.getpid() == 1:
        clock = monotonic_clock(reactor)
        clock.start()
        reactor.addSystemEventTrigger("after", "shutdown", clock.stop)
        OrphanReaper(clock).start()


class OrphanReaper:
    """Collects orphans.  Reactor thread.

    :param clock: monotonic time.
    :param ended_children: returns the zombies that may be orphans.
    :param collect: collects one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        ended_children: Callable[[], set[int]] = ended_children,
        collect: Callable[[int], object] = collect,
    ) -> None:
        self._clock = clock
        self._ended_children = ended_children
        self._collect = collect
        self._since: dict[int, float] = {}  # when each zombie was first seen

    def start(self) -> None:
        """Begin to look."""
        self._clock.callLater(LOOK, self._look)

    def _look(self) -> None:
        now = self._clock.seconds()
        try:
            zombies = self._ended_children()
        except OSError as error:
            log.warn(
                "processes that lose their parent are not collected ({error}): run the container with an init"
                " (docker run --init)",
                error=error,
            )
            return
        self._clock.callLater(LOOK, self._look)
        self._since = {pid: self._since.get(pid, now) for pid in zombies}
        for pid, since in self._since.items():
            if now - since >= UNCLAIMED:
                self._collect(pid)
