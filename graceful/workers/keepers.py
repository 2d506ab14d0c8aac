"""In each other's stead: where nobody works, a sibling accepts.

A connection that the kernel has put into the queue of a socket can be accepted by nobody but its holder (see
:mod:`graceful.workers.slot_sockets`).  So of clients whose worker has died, none shall wait for its successor's
    imports.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from graceful.workers.slot import Place
from graceful.workers.slot_sockets import Places
from graceful.workers.worker import SERVING, Worker


@frozen
class Keepers:
    """Finds them.  Reactor thread.

    :ivar places: where they are wanted.
    :ivar sockets: of all places.
    """

    places: Sequence[Place]
    sockets: Places

    def gone(self, worker: Worker) -> None:
        """What it has kept for others is without a keeper."""
        for place in self.places:
            if place.keeper is worker:
                place.keeper = None

    def cover(self) -> None:
        """Wherever nobody accepts, have somebody else do so: whoever does the least of that."""
        siblings = [one.worker for one in self.places if one.worker is not None and one.worker.state == SERVING]
        for place in self.places:
            if place.worker is None and place.keeper is None and siblings:
                place.keeper = keeper = min(siblings, key=lambda sibling: len(sibling.sockets))
                keeper.accept_also(self.sockets.own(place.number))

    def relieve(self, place: Place) -> None:
        """Its own worker accepts: what waits is for that one."""
        keeper, place.keeper = place.keeper, None
        if keeper is not None:
            keeper.release_sockets(self.sockets.own(place.number))
