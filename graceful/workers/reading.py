"""Reading before the reactor runs: what supervisors wait for while they start."""

from __future__ import annotations

import select
from collections.abc import Iterable

from twisted.internet.interfaces import IReadDescriptor


def read_what_comes(readers: Iterable[IReadDescriptor]) -> None:
    """Wait until there is something to read, and have it read.  Blocks.

    :param readers: those that are closed are left out.
    """
    by_descriptor = {reader.fileno(): reader for reader in readers if reader.fileno() >= 0}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    for descriptor, _ in poll.poll():
        if by_descriptor[descriptor].fileno() == descriptor:  # what was read first may have closed the next one
            by_descriptor[descriptor].doRead()
