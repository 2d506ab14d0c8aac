"""Garbage collection that suits a server: fewer runs, and none over what was imported.

CPython looks for reference cycles after every 700 containers that were allocated and not yet freed (2,000 since
3.13).  That suits a program that does one thing at a time.  A server with hundreds of requests in flight reaches the
threshold all the time, and each run examines objects in use and finds nothing: this server makes no cycles for a
request, and an exchange is freed with its last reference.  The imported modules live as long as the process, so
examining a framework's thousands of functions finds nothing either.

So the imported objects are frozen, and the collector runs less often.  The cost is memory: an application's own
cycles are not looked for before there are `YOUNG` new containers, a few megabytes.  The same holds while the server
is imported: a fifth of the time of a start went into the collector, which found next to nothing.
"""

from __future__ import annotations

import gc
from typing import Final

#: New containers after which the collector looks for cycles among them: a few megabytes.
YOUNG: Final = 10_000

#: The thresholds that CPython 3.10 to 3.12, and later ones, begin with; any others are the application's choice, or
#: those of the other collector that 3.14.0 to 3.14.4 had.
_DEFAULTS: Final = ((700, 10, 10), (2000, 10, 10))


def spare_imports() -> None:
    """Exempt what Twisted has imported from collection, and collect less often from now on.

    Call it before the server and the application are imported.
    """
    gc.freeze()
    _collect_less_often()


def freeze_startup_objects() -> None:
    """Exempt every object that exists now from collection, and collect less often.

    Call it in the process that serves, once the application is imported.  Thresholds that the application has set
    are kept.
    """
    gc.collect()
    gc.freeze()
    _collect_less_often()


def _collect_less_often() -> None:
    thresholds = gc.get_threshold()
    if thresholds in _DEFAULTS:
        gc.set_threshold(YOUNG, *thresholds[1:])
