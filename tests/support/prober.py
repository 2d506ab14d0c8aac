"""A client that asks for `/` all the time, on fresh connections: was the server ever away, or slow?"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tests.support.clients import Connection, Failure

PAUSE = 0.002
"""Seconds between an answer and the next request."""


class Prober:
    """Asks until it is ended, in a thread of its own, which alone writes what it has seen.

    :param port: where it connects to.
    :ivar took: for each answer, when its request began, and how long the answer took; monotonic seconds, seconds.
    :ivar lost: for each request that was not answered, when that was known, and how it ended.
    """

    def __init__(self, port: int) -> None:
        self.took: list[tuple[float, float]] = []
        self.lost: list[tuple[float, str]] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.end()

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            began = time.monotonic()
            try:
                with Connection(self._port) as connection:
                    answer = connection.get("/", "Connection: close")
                    took = time.monotonic() - began
                    if not answer.says_close:
                        raise Failure("bad", "Connection: close was not confirmed")
                    connection.end()
            except Failure as failure:
                self.lost.append((time.monotonic(), failure.outcome))
            else:
                self.took.append((began, took))

    def split(self, spans: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
        """Returns how long answers took within some spans, and outside of them; sorted, seconds.

        :param spans: the beginning and the end of each, monotonic seconds.
        """
        within: list[float] = []
        outside: list[float] = []
        for began, took in self.took:
            meanwhile = any(start <= began + took and began <= end for start, end in spans)
            (within if meanwhile else outside).append(took)
        return sorted(within), sorted(outside)
