"""The reactor gives way to a busy loop, so that the two threads do not take turns for each request.

Both need the interpreter's lock.  Each answer that the loop sends lets that lock go for a moment and brings its
client's next request, for which the reactor wakes up, takes the lock, and adds one call: two or three changes of
thread a request, which cost more than all that the reactor does for it.  So a reactor whose loop is busy already, or
has just been left a crowd of calls, waits until the loop has come round, and then finds a whole batch of requests.

It loses nothing by that: Python code that runs in the loop would keep the lock from it meanwhile.  A loop that does
not come round, since its application blocks it, is waited for only once.
"""

from __future__ import annotations

import threading
from typing import Final

#: Calls for a loop that has been idle, from which on the reactor waits; for fewer it would be woken nearly as often.
CROWD: Final = 3
#: Seconds: as long as a thread that holds the interpreter's lock may keep it (`sys.getswitchinterval`).
LONGEST: Final = 0.005


class GiveWay:
    """Where the reactor thread waits for a loop.

    Each side first writes its own field and then reads the other's, so no wait is overlooked.
    """

    __slots__ = ("_busy", "_late", "_lock", "_waiting")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._busy = self._late = self._waiting = False

    # -- the reactor thread -------------------------------------------------------------------------------

    def left(self, calls: int) -> bool:
        """The loop has calls, and is about to be woken.  Returns whether :meth:`wait` is to follow that.

        :param calls: how many.
        """
        wait = (self._busy or calls >= CROWD) and not self._late
        self._busy = True
        return wait

    def wait(self) -> None:
        """Wait until the loop has come round, for at most :data:`LONGEST` seconds."""
        self._waiting = True
        if self._busy and not self._lock.acquire(timeout=LONGEST):
            self._late = True
        self._waiting = False

    # -- the loop's thread --------------------------------------------------------------------------------

    def come_round(self) -> None:
        """The loop has done what was ready when it took its calls."""
        self._busy = self._late = False
        if self._waiting and self._lock.locked():
            self._lock.release()
