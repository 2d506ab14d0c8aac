"""Clients of a benchmark that run in threads of their own until they are told that it is over."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Client(Protocol):
    """One of them.

    :ivar lost: how what it began has ended without an answer.
    """

    lost: Counter[str]

    def run(self) -> None:
        """Do its work until it is over.  In its thread."""


Kind = TypeVar("Kind", bound=Client)


class Crowd(Generic[Kind]):
    """Several clients of one kind, which have begun.

    :param make: makes a client, given the port that it connects to, and the event that says that it is over.
    :param port: the port.
    :param count: how many there are.
    """

    def __init__(self, make: Callable[[int, threading.Event], Kind], port: int, count: int) -> None:
        self._over = threading.Event()
        self._clients = [make(port, self._over) for _ in range(count)]
        self._threads = [threading.Thread(target=client.run) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each client end what it has begun."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def lost(self) -> Counter[str]:
        """How what the clients began has ended without an answer."""
        return sum((client.lost for client in self._clients), Counter())
