"""The servers of one instance, in every backend of every HAProxy that knows it.

HAProxy's state has other writers.  A reload forgets that a server was taken out; an agent check puts it back within
an interval; an operator may have taken it out by hand, for a reason.  So the state that is found is remembered before
anything is changed, and restored; and while a server has to be out, the deploy checks again and again that it is.

A server that is out is not checked either: it closes its port while it finishes what it has, and a balancer with
`on-marked-down shutdown-sessions` would cut that for being down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from attrs import frozen

from graceful.deploy.haproxy import HAProxyError, ServerState, Traffic
from graceful.deploy.plan import PlannedInstance

#: The states in which HAProxy sends a server no new clients.
OUT: Final = ("drain", "maint")


class IRuntime(Protocol):
    """The part of :class:`graceful.deploy.haproxy.Runtime` that a deploy uses."""

    address: str

    def level(self) -> str: ...
    def servers(self, backend: str) -> dict[str, ServerState]: ...
    def traffic(self, backend: str, server: str) -> Traffic: ...
    def set_state(self, backend: str, server: str, state: str) -> None: ...
    def set_check(self, backend: str, server: str, kind: str, made: bool) -> None: ...


@frozen
class Found:
    """How a server was found, and how it has to be put back.

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
        """Names it uniquely among the servers of all HAProxys."""
        return f"{self.runtime.address} {self}"

    def look(self) -> ServerState:
        """Returns its state in HAProxy.

        :raises HAProxyError: there is no such server.
        """
        try:
            return self.runtime.servers(self.backend)[self.server]
        except KeyError:
            raise HAProxyError(f"HAProxy at {self.runtime.address}: there is no server {self}") from None

    def traffic(self) -> Traffic:
        """Returns the requests that have come to it."""
        return self.runtime.traffic(self.backend, self.server)

    def others_up(self) -> int:
        """Returns how many other servers of the backend get requests."""
        return sum(state.up for name, state in self.runtime.servers(self.backend).items() if name != self.server)


class BalancerServers:
    """The servers of an instance.

    Taken out, they are in `drain`; or in `maint` where clients are tied to their server and would still be sent
    to it.

    :param instance: the instance.
    :param runtimes: the HAProxys.
    """

    def __init__(self, instance: PlannedInstance, runtimes: Sequence[IRuntime]) -> None:
        self.all = [BalancerServer(runtime, *server) for runtime in runtimes for server in instance.servers]
        self._out_as: dict[BalancerServer, str] = {}

    def found(self) -> dict[str, Found]:
        """Returns how all servers are now, by key."""
        found = {}
        for server in self.all:
            state = server.look()
            found[server.key] = Found(state.state, state.checks)
        return found

    def enough_up(self, least: int) -> str | None:
        """Returns why the instance may not be taken out; None if it may."""
        for server in self.all:
            # A server that is out already gets no requests that others would have to take.
            if server.look().state == "ready" and server.others_up() < least:
                up = server.others_up()
                return f"{up} other server{'s are' if up != 1 else ' is'} up in {server.backend}, min_up is {least}"
        return None

    def take_out(self) -> list[BalancerServer]:
        """Take the instance out of the rotation and stop its checks.  Returns the servers that were in."""
        changed = []
        for server in self.all:
            state = server.look()
            if server not in self._out_as:
                self._out_as[server] = "maint" if server.traffic().cookie else "drain"
            wanted = self._out_as[server]
            if state.state not in OUT or (wanted == "maint" and state.state != "maint"):
                server.runtime.set_state(server.backend, server.server, wanted)
                changed.append(server)
            for kind in state.checks:
                server.runtime.set_check(server.backend, server.server, kind, False)
        return changed

    def requests(self) -> dict[BalancerServer, Traffic]:
        """Returns the traffic of each server."""
        return {server: server.traffic() for server in self.all}

    def insist(self, server: BalancerServer) -> None:
        """Set a server to `maint`, since requests of clients that are tied to it still come in `drain`."""
        self._out_as[server] = "maint"
        server.runtime.set_state(server.backend, server.server, "maint")

    def put_back(self, found: dict[str, Found]) -> None:
        """Put all servers back as they were found."""
        # Checks first, so that HAProxy soon knows again whether it is up.
        self.check_again(found)
        for server in self.all:
            was = found[server.key]
            if server.look().state != was.state:
                server.runtime.set_state(server.backend, server.server, was.state)

    def check_again(self, found: dict[str, Found]) -> None:
        """Restore the checks as they were found, and leave the servers out."""
        for server in self.all:
            state = server.look()
            for kind in found[server.key].checks:
                if kind in state.configured and kind not in state.checks:
                    server.runtime.set_check(server.backend, server.server, kind, True)
