"""An application whose import takes until the test allows it to go on: see `support.gate`."""

from __future__ import annotations

import os

with open(os.environ["IMPORT_GATE"], "rb") as fifo:
    fifo.read()

from basic import application

__all__ = ["application"]
