"""The garbage collector, set once for a process that serves.

CPython looks for reference cycles after every 700 containers that were made and not yet freed (2,000 in 3.13).  A
program that works at one thing is right with that.  A server has hundreds of requests in the air: it gets there all
the time, looks through what is just being used, and finds nothing.  Nothing of ours makes cycles for a request; an
exchange is freed when its last user lets go.  And what was imported stays as long as the process: looking through a
framework's thousands of functions again and again finds nothing either.

So what was imported is left out, and the collector looks less often.  What that may cost is memory: an application's
own cycles wait until there are `YOUNG` containers, a few megabytes, before they are looked for first.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 10_000
"""After how many new containers cycles are looked for among them."""

_OWN: Final = ((700, 10, 10), (2000, 10, 10))  # what CPython 3.10 to 3.12, and 3.13, begin with


def settle() -> None:
    """Leave out what there is by now, and look less often.

    To be called when the application is imported, in the process that serves.  Thresholds that the application has
    set are its own to choose, and stay.
    """
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    if thresholds in _OWN:
        gc.set_threshold(YOUNG, *thresholds[1:])
