"""The servers of one instance, in every backend of every HAProxy that knows it.

HAProxy's state is not ours alone.  A reload forgets that a server was taken out; an agent check puts it back within
an interval; somebody may have taken it out by hand, for a reason.  So what is found is remembered before anything is
changed, and put back as it was found; and while a server has to be out, we look again and again whether it still is.

A server that is out is not checked either: it closes its port while it finishes what it has, and a balancer with
`on-marked-down shutdown-sessions` would cut that for being down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from attrs import frozen

from graceful.deploy.haproxy import HAProxyError, ServerState, Traffic
from graceful.deploy.plan import PlannedInstance

OUT: Final = ("drain", "maint")


class IRuntime(Protocol):
    """What is used of a :class:`graceful.deploy.haproxy.Runtime`."""

    address: str

    def level(self) -> str: ...
    def servers(self, backend: str) -> dict[str, ServerState]: ...
    def traffic(self, backend: str, server: str) -> Traffic: ...
    def set_state(self, backend: str, server: str, state: str) -> None: ...
    def set_check(self, backend: str, server: str, kind: str, made: bool) -> None: ...


@frozen
class Found:
    """How a server was found, and is to be put back.

    :ivar state: `ready`, `drain` or `maint`.
    :ivar checks: the kinds of checks that were made.
    """

    state: str
    checks: tuple[str, ...] = ()


@frozen
class BalancerServer:
    """A server, in a backend, of one HAProxy."""

    runtime: IRuntime
    backend: str
    server: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.server}"

    @property
    def key(self) -> str:
        """Its name among those of all HAProxys."""
        return f"{self.runtime.address} {self}"

    def look(self) -> ServerState:
        """How it is now.

        :raises HAProxyError: there is no such server.
        """
        try:
            return self.runtime.servers(self.backend)[self.server]
        except KeyError:
            raise HAProxyError(f"HAProxy at {self.runtime.address}: there is no server {self}") from None

    def traffic(self) -> Traffic:
        """What has come to it."""
        return self.runtime.traffic(self.backend, self.server)

    def others_up(self) -> int:
        """How many other servers of the backend get requests."""
        return sum(state.up for name, state in self.runtime.servers(self.backend).items() if name != self.server)


class BalancerServers:
    """All places of an instance.

    Taken out, they are in `drain`; or in `maint` where clients are tied to their server and would still be sent
    to it.

    :param instance: which.
    :param runtimes: the HAProxys.
    """

    def __init__(self, instance: PlannedInstance, runtimes: Sequence[IRuntime]) -> None:
        self.all = [BalancerServer(runtime, *server) for runtime in runtimes for server in instance.servers]
        self._out_as: dict[BalancerServer, str] = {}

    def found(self) -> dict[str, Found]:
        """How everything is."""
        found = {}
        for place in self.all:
            state = place.look()
            found[place.key] = Found(state.state, state.checks)
        return found

    def enough_up(self, least: int) -> str | None:
        """Why the instance may not be taken out; None if it may."""
        for place in self.all:
            # One that is out already is not missed by anybody.
            if place.look().state == "ready" and place.others_up() < least:
                up = place.others_up()
                return f"{up} other server{'s are' if up != 1 else ' is'} up in {place.backend}, min_up is {least}"
        return None

    def take_out(self) -> list[BalancerServer]:
        """Take it out wherever it is in, and have it checked no more; where that had to be done."""
        changed = []
        for place in self.all:
            state = place.look()
            if place not in self._out_as:
                self._out_as[place] = "maint" if place.traffic().cookie else "drain"
            wanted = self._out_as[place]
            if state.state not in OUT or (wanted == "maint" and state.state != "maint"):
                place.runtime.set_state(place.backend, place.server, wanted)
                changed.append(place)
            for kind in state.checks:
                place.runtime.set_check(place.backend, place.server, kind, False)
        return changed

    def requests(self) -> dict[BalancerServer, Traffic]:
        """What has come to it, everywhere."""
        return {place: place.traffic() for place in self.all}

    def insist(self, place: BalancerServer) -> None:
        """Requests still come although it was taken out: take it out in a way that nobody is tied to."""
        self._out_as[place] = "maint"
        place.runtime.set_state(place.backend, place.server, "maint")

    def put_back(self, found: dict[str, Found]) -> None:
        """Put it back as it was found."""
        # Checks first, so that what is said of it is soon true again.
        self.check_again(found)
        for place in self.all:
            was = found[place.key]
            if place.look().state != was.state:
                place.runtime.set_state(place.backend, place.server, was.state)

    def check_again(self, found: dict[str, Found]) -> None:
        """Have it checked as it was found, and leave it out."""
        for place in self.all:
            state = place.look()
            for kind in found[place.key].checks:
                if kind in state.configured and kind not in state.checks:
                    place.runtime.set_check(place.backend, place.server, kind, True)
