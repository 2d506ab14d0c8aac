"""An application whose import takes until the test allows it to go on: see `tests.support.gate`.

It does not block in one system call, as hardly any slow import does: it runs Python code all the time.
"""

from __future__ import annotations

import os
import time

descriptor = os.open(os.environ["IMPORT_GATE"], os.O_RDONLY)
os.set_blocking(descriptor, False)
while True:
    try:
        if not os.read(descriptor, 1):
            break
    except BlockingIOError:
        time.sleep(0.01)
os.close(descriptor)

from basic import application  # noqa: E402

__all__ = ["application"]
