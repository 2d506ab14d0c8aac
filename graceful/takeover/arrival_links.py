"""All that moves to this process: from its predecessor, from that one's workers, or from a worker that it replaces.

Each of them is asked in a thread of its own (:mod:`graceful.takeover.connection_arrivals`), and gets its share of the
room that is left, so that together they do not bring more connections than there may be.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.logger import Logger

from graceful.takeover.connection_arrivals import ConnectionArrivals, Destination, Source
from graceful.takeover.connection_links import Link
from graceful.takeover.receiving_client import ReceivingClient, has_ended
from graceful.threads.start import NoThread, start_thread
from graceful.web.carrying import Carried
from graceful.web.moving import MovedConnection

log = Logger(namespace="graceful")


class ArrivalLinks:
    """Takes connections in from any number of processes.

    It is the :class:`~graceful.takeover.connection_arrivals.Destination` of each, and for a single process it takes
    its predecessor's (:class:`graceful.takeover.predecessor.Taking`).

    :param destination: serves on the connections.
    :param call: calls a function in the reactor thread, from any thread.
    """

    #: How many processes take.
    count = 1

    def __init__(self, destination: Destination, call: Callable[..., object]) -> None:
        self._destination = destination
        self._call_in_reactor = call
        self._lock = threading.Lock()
        self._running: set[ConnectionArrivals] = set()
        self._on_their_way = 0  # taken, and not served yet
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether connections may be on their way.  Any thread."""
        with self._lock:
            return bool(self._running or self._on_their_way)

    def stop(self) -> None:
        """Take no more in: the rest stays where it is.  Any thread."""
        with self._lock:
            self._stopped, running = True, list(self._running)
        for arrivals in running:
            arrivals.stop()

    def take(self, links: Sequence[Link]) -> None:
        """Take in what moves on these links.  Any thread."""
        for link in links:
            client = ReceivingClient(f"process {link.pid}", None, link.sock)
            self.take_from(client, link.pid, partial(has_ended, link.process), partial(_close, client, link.process))

    def take_from(
        self, source: Source, pid: int, dead: Callable[[], bool], end: Callable[[], object] = lambda: None
    ) -> None:
        """Take in what one process gives.  Any thread.

        :param source: its control.
        :param pid: its process number.
        :param dead: returns whether it has ended, when it has hung up.
        :param end: called when nothing more comes, in any thread.
        """
        arrivals = ConnectionArrivals(source, pid, dead, self, self._call)

        def run() -> None:
            try:
                arrivals.run()
            finally:
                end()
                with self._lock:
                    self._running.discard(arrivals)

        with self._lock:
            if not self._stopped:
                self._running.add(arrivals)
        if arrivals not in self._running:
            end()
            return
        try:
            start_thread(run, "graceful arrivals", "the thread that takes connections in")
        except NoThread as error:
            log.error("no connections move from process {pid}: {error}", pid=pid, error=error)
            with self._lock:
                self._running.discard(arrivals)
            end()

    # -- a destination ------------------------------------------------------------------------------------

    def room(self) -> int:
        """Returns how many further connections one of the sources may bring.  Any thread."""
        with self._lock:
            return max(0, self._destination.room() - self._on_their_way) // max(1, len(self._running))

    def take_in(self, sock: socket.socket, moved: MovedConnection, carried: Carried | None = None) -> None:
        """Serve on a connection, with what of it is not in the kernel.  Reactor thread."""
        self._destination.take_in(sock, moved, carried)

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        with self._lock:
            self._on_their_way += 1
        self._call_in_reactor(self._serve, function, *args)

    def _serve(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        finally:
            with self._lock:
                self._on_their_way -= 1


def _close(client: ReceivingClient, process: int) -> None:
    client.close()
    if process >= 0:
        os.close(process)
