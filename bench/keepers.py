"""Clients that keep one connection through everything, and count how often they had to open it again.

A client that is told `Connection: close`, or finds its connection closed when it wants to ask, opens another one and
loses nothing; but each costs a handshake, a slow start, and with TLS a good deal more, and a balancer's whole pool at
once is a wave.  A request that was sent on a connection that the server then closed without an answer is lost.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Final

from attrs import define, field

sys.path.insert(0, str(Path(__file__).parent.parent))

from crowd import Crowd
from tests.support.clients import Connection, Failure

#: Seconds between an answer and the next request, at most: a connection is idle at most of the time.
THINKS_FOR: Final = 0.5


@define(eq=False)
class Keeper:
    """A client with one connection: a thread, and what it has seen; only its thread writes.

    :ivar answered: how many requests were answered.
    :ivar opened: how many connections it has opened.
    :ivar lost: how the other requests ended.
    """

    port: int
    over: threading.Event
    answered: int = 0
    opened: int = 0
    lost: Counter[str] = field(factory=Counter)

    def run(self) -> None:
        """Ask, think, and ask again until it is over."""
        kept: Connection | None = None
        while not self.over.wait(random.uniform(0, THINKS_FOR)):
            try:
                kept = self._ask(kept)
            except Failure as failure:
                self.lost[failure.outcome] += 1
                kept = None
        if kept is not None:
            kept.close()

    def _ask(self, kept: Connection | None) -> Connection | None:
        if kept is not None and kept.closed_while_idle():
            kept.close()
            kept = None
        if kept is None:
            kept = Connection(self.port)
            self.opened += 1
        try:
            answer = kept.get("/")
        except BaseException:
            kept.close()
            raise
        self.answered += 1
        if answer.status != 200:
            kept.close()
            raise Failure("bad", f"{answer.status} {answer.reason}")
        if answer.says_close:
            kept.close()
            return None
        return kept


class Keepers(Crowd[Keeper]):
    """Several such clients, in threads.

    :param port: where they connect to.
    :param count: how many there are.
    """

    def __init__(self, port: int, count: int) -> None:
        super().__init__(Keeper, port, count)

    @property
    def answered(self) -> int:
        """How many requests were answered."""
        return sum(client.answered for client in self._clients)

    @property
    def opened_again(self) -> int:
        """How many connections were opened besides each client's first."""
        return sum(max(0, client.opened - 1) for client in self._clients)
