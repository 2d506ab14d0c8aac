"""The servers of one instance at HAProxy: taken out of the rotation, held out, and put back as they were found.

How they were found is on record before they are touched, so that a deploy that is interrupted can be finished by the
next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from graceful.deploy import DeployError
from graceful.deploy.balancer import BalancerServer, BalancerServers, Found
from graceful.deploy.haproxy import Unreachable
from graceful.deploy.host import Host
from graceful.deploy.journal import FoundServers
from graceful.deploy.steps import TICK, BadVersion, Failed, StepLog, Steps, T

#: Seconds in which requests that were on their way to a server must have come, and in which none may have come.
SETTLES_IN: Final = 1.0
CALM: Final = 0.2

#: Seconds after which we look whether HAProxy still has what it was told.
HOLD_EVERY: Final = 1.0

#: Seconds that a HAProxy that does not answer has to come back.
COMES_BACK_IN: Final = 30.0

#: Seconds in which traffic should be seen; a quiet site has none.
TRAFFIC_IN: Final = 2.0


class Rotation:
    """Takes one instance out of the rotation, and puts it back; a HAProxy that restarts is asked again.

    :param name: of the instance.
    :param servers: HAProxy's; none for a deploy by takeover.
    :param host: has the time.
    :param found_servers: how HAProxy's servers were found, to be put back.
    :param log: tells the steps.
    :param min_up: how many others must be up.
    :param up_within: seconds within which HAProxy must hold a server to be up.
    :ivar out: it may be out of the rotation.
    """

    def __init__(
        self,
        name: str,
        servers: BalancerServers,
        host: Host,
        found_servers: FoundServers,
        log: StepLog,
        min_up: int,
        up_within: float,
    ) -> None:
        self.out = False
        self._name = name
        self._servers = servers
        self._host = host
        self._found_servers = found_servers
        self._log = log
        self._min_up = min_up
        self._up_within = up_within
        self._found: dict[str, Found] = {}
        self._held = 0.0

    @property
    def balanced(self) -> bool:
        """Whether HAProxy is in front of the instance."""
        return bool(self._servers.all)

    def __str__(self) -> str:
        return ", ".join(str(server) for server in self._servers.all)

    # -- out ----------------------------------------------------------------------------------------------

    def may_go_out(self, others_out: Callable[[], bool]) -> Steps[None]:
        """Wait until as many others are up as there must be.

        :param others_out: whether another instance of this deploy is out of the rotation just now.
        """
        self._log.enter("waiting")
        while why := (yield from self._patiently(lambda: self._servers.enough_up(self._min_up))):
            if not others_out():
                raise Failed(f"not taken out of the rotation: {why}")
            self._log.note_once(f"waits: {why}")
            yield TICK * 4

    def take_out(self) -> Steps[None]:
        """Take the servers out, once it is on record how they were found."""
        now = yield from self._patiently(self._servers.found)
        before = self._found_servers.recall(self._name)
        for key, found in now.items():
            if found.state != "ready" and key in before:
                self._found[key] = before[key]
                self._log.tell(
                    "note", f"an earlier deploy has left it in {found.state}: {key}, was {before[key].state}"
                )
            else:
                self._found[key] = found
        self._found_servers.remember(self._name, self._found)
        self.out = True
        servers = ", ".join(f"{server} {self._found[server.key].state}" for server in self._servers.all)
        self._log.enter("drain", f"out of the rotation; found {servers}")
        yield from self._patiently(self._servers.take_out)
        self._held = self._host.seconds()

    def settle(self) -> Steps[None]:
        """Wait for requests that are on their way, and make sure that no others come."""
        before = yield from self._patiently(self._servers.requests)
        calm_since = self._host.seconds()
        end = calm_since + SETTLES_IN
        busy: list[BalancerServer] = []
        while self._host.seconds() < end:
            yield TICK
            now = yield from self._patiently(self._servers.requests)
            busy = [
                server
                for server, traffic in now.items()
                if traffic.queued or traffic.requests != before[server].requests
            ]
            before = now
            if busy:
                calm_since = self._host.seconds()
            elif self._host.seconds() - calm_since >= CALM:
                return
        for server in busy:
            yield from self._patiently(lambda server=server: self._servers.insist(server))  # type: ignore[misc]
            self._log.tell("note", f"requests still come to {server} in drain, clients are tied to it: set to maint")

    def hold(self) -> Steps[None]:
        """Take the servers out again if HAProxy has them back meanwhile; looks once a second."""
        now = self._host.seconds()
        if self.out and now - self._held >= HOLD_EVERY:
            self._held = now
            for server in (yield from self._patiently(self._servers.take_out)):
                self._log.tell("warning", f"{server} was back in the rotation, and is taken out again")

    # -- in -----------------------------------------------------------------------------------------------

    def go_in(self, check: Callable[[], Steps[None]]) -> Steps[None]:
        """Put the servers back as they were found, and wait for requests; take them out again if that fails.

        :param check: asks the application itself; called if requests can come.
        """
        before = yield from self._patiently(self._servers.requests)
        yield from self._patiently(lambda: self._servers.put_back(self._found))
        back = [server for server in self._servers.all if self._found[server.key].state == "ready"]
        servers = ", ".join(f"{server} {self._found[server.key].state}" for server in self._servers.all)
        self._log.enter("ready", f"back as it was found: {servers}")
        self.out = False
        try:
            yield from self._traffic(back, {server: traffic.requests for server, traffic in before.items()})
            if back:
                yield from check()
        except DeployError:
            self.out = True
            yield from self._patiently(self._servers.take_out)
            raise
        self._found_servers.forget(self._name)

    def _traffic(self, servers: list[BalancerServer], before: dict[BalancerServer, int]) -> Steps[None]:
        """Wait until requests come; on a quiet site none may come, but HAProxy must hold the server to be up."""
        began = self._host.seconds()
        for server in servers:
            while True:
                up = yield from self._patiently(lambda server=server: server.look().running)  # type: ignore[misc]
                traffic = yield from self._patiently(server.traffic)
                passed = self._host.seconds() - began
                if up and traffic.requests > before[server]:
                    break
                if traffic.requests < before[server]:
                    before[server] = 0  # HAProxy was restarted, and counts from zero
                    continue
                if up and passed >= TRAFFIC_IN:
                    self._log.tell("note", f"no traffic seen at {server} in {TRAFFIC_IN:g} s")
                    break
                if passed >= self._up_within:
                    raise BadVersion(f"HAProxy holds {server} to be {traffic.status} {traffic.check}".rstrip())
                yield TICK
        if servers:
            self._log.enter("traffic", "requests come")

    def put_back(self) -> Steps[None]:
        """Put the servers back as they were found, since the instance was not touched."""
        yield from self._patiently(lambda: self._servers.put_back(self._found))
        self.out = False
        self._found_servers.forget(self._name)

    def stay_out(self) -> Steps[None]:
        """Leave the servers out of the rotation, for the next deploy, which puts them back as they were found."""
        yield from self._patiently(lambda: self._servers.check_again(self._found))

    # -- waiting ------------------------------------------------------------------------------------------

    def _patiently(self, ask: Callable[[], T]) -> Steps[T]:
        """Ask HAProxy, and ask again while it restarts."""
        end = self._host.seconds() + COMES_BACK_IN
        said = False
        while True:
            try:
                return ask()
            except Unreachable as error:
                if self._host.seconds() >= end:
                    raise
                if not said:
                    said = True
                    self._log.tell("warning", f"{error}; it has {COMES_BACK_IN:g} s to come back")
            yield TICK * 4
