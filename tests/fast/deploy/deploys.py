"""A machine for deploys that exists in memory: waiting turns its clock.

What happens on it is written down in one list, across processes, commands and HAProxys, so that a test can say in
which order things must come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import evolve

from graceful.deploy.haproxy import HAProxyError, ServerState, Traffic, Unreachable
from graceful.deploy.host import ProcessError, Reply
from graceful.deploy.journal import FoundServers
from graceful.deploy.orchestrator import Orchestrator
from graceful.deploy.plan import Plan, PlannedInstance

GOOD = Reply(200, "200 OK")


class MemoryProcess:
    """A server.

    :ivar finishes_in: seconds from its closing to its end; None for never.
    :ivar closes_in: seconds from an order to stop to `closed`.
    :ivar idle_for: seconds from its closing in which it has an idle connection.
    :ivar latest: its latest exit, seconds from an order to stop.
    :ivar silent: it does not answer.
    :ivar obeys: SIGTERM has an effect.
    """

    def __init__(self, machine: LocalHost, pid: int) -> None:
        self.pid = pid
        self.state = "serving"
        self.finishes_in: float | None = 0.0
        self.closes_in = 0.0
        self.idle_for = 0.0
        self.latest = 212.0
        self.silent = False
        self.obeys = True
        self.dead = False
        self.in_flight = [{"id": 7, "method": "GET", "path": "/slow", "age": 3.0, "peer": "192.0.2.7"}]
        self.word: dict[str, Any] | None = None
        self.taken_down = 0
        self.began: float | None = None
        self.closed = False
        self.machine = machine

    def status(self) -> Mapping[str, Any]:
        """Returns its status."""
        if self.silent or self.dead:
            raise ProcessError(f"process {self.pid} has not answered")
        now = self.machine.now
        since = 0.0 if self.began is None else now - self.began
        return {
            "state": self.state,
            "latest_exit": self.latest - since,
            "in_flight": self.in_flight,
            "in_flight_count": len(self.in_flight),
            "connections": {"idle": int(self.state == "serving" or since < self.closes_in + self.idle_for)},
        }

    def listen(self) -> None:
        """Nothing to do: the last word is there when it is asked for."""
        if self.silent:
            raise ProcessError(f"process {self.pid} has not answered")

    def stop(self, quiet: bool) -> None:
        """Begin to stop."""
        if self.silent:
            raise ProcessError(f"process {self.pid} has not answered")
        self.machine.happened(f"stop {self.pid}{' quiet' if quiet else ''}")
        self.leave()

    def leave(self) -> None:
        """Begin to stop, by an order or a signal."""
        if self.began is None:
            self.began = self.machine.now
            self.state = "closing"
            self.machine.later(self.closes_in, self.close_sockets)

    def close_sockets(self) -> None:
        """Its listening sockets are closed, and its control path is free."""
        self.state = "finishing"
        self.machine.happened(f"closed {self.pid}")
        if self.finishes_in is not None:
            self.machine.later(self.finishes_in, self.end)

    def end(self) -> None:
        """Its drain is over."""
        self.word = {"exit_status": 0, "finished": 1, "taken_down": self.taken_down, "abandoned": 0}
        if self.taken_down:
            self.word |= {"exit_status": 70, "reports": ["OOPS-1", "OOPS-2"]}
        self.dead = True

    def terminate(self) -> None:
        """SIGTERM."""
        self.machine.happened(f"TERM {self.pid}")
        if self.obeys:
            self.leave()

    def kill(self) -> None:
        """SIGKILL."""
        self.machine.happened(f"KILL {self.pid}")
        self.dead = True

    def gone(self) -> bool:
        """Whether it has ended."""
        return self.dead

    def last_word(self) -> Mapping[str, Any] | None:
        """Returns how its drain ended."""
        return self.word

    def close(self) -> None:
        """Close the connections to it."""


class MemoryCommand:
    """A command that has ended, or runs until the test says how it ends."""

    def __init__(self, status: int | None) -> None:
        self.ended: int | None = status

    def status(self) -> int | None:
        """Its exit status."""
        return self.ended

    def said(self) -> list[str]:
        """Returns its output."""
        return ["what it said"]

    def leave(self) -> None:
        """Let it run on."""


class MemoryQuestion:
    """A question that is answered at once."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def reply(self) -> Reply | None:
        """The answer."""
        return self._reply


class MemoryHAProxy:
    """A HAProxy.

    :ivar lost: it does not answer.
    :ivar calm: requests come only to servers that get them.
    """

    def __init__(self, machine: LocalHost, servers: Mapping[str, Sequence[str]], address: str = "haproxy") -> None:
        self.address = address
        self.lost = False
        self.calm = True
        self.cookie = ""
        self.machine = machine
        self.backends = {
            backend: {name: ServerState("ready", True) for name in names} for backend, names in servers.items()
        }

    def level(self) -> str:
        """Returns the level of the connection."""
        self.check()
        return "admin"

    def check(self) -> None:
        """Answer, if it does."""
        if self.lost:
            raise Unreachable(f"HAProxy at {self.address}: Connection refused")

    def servers(self, backend: str) -> dict[str, ServerState]:
        """Its servers."""
        self.check()
        try:
            return dict(self.backends[backend])
        except KeyError:
            raise HAProxyError(f"HAProxy at {self.address}: Can't find backend.") from None

    def traffic(self, backend: str, server: str) -> Traffic:
        """Requests come all the time, to those that get them."""
        state = self.servers(backend)[server]
        comes = state.up or (not self.calm and state.state != "maint")
        status = "UP" if state.running else "DOWN"
        return Traffic(round(self.machine.now * 100) if comes else 0, 0, status, "L4OK", self.cookie)

    def set_state(self, backend: str, server: str, state: str) -> None:
        """Put it in, or out."""
        self.change(backend, server, state=state)
        self.machine.happened(f"{backend}/{server} {state}" + ("" if self.address == "haproxy" else self.address))
        process = self.machine.serving_at.get(server)
        if state == "ready" and process is not None:
            assert process.state == "serving", "requests would go to a process that leaves"

    def set_check(self, backend: str, server: str, kind: str, made: bool) -> None:
        """Check it, or not."""
        checks = set(self.backends[backend][server].checks) - {kind} | ({kind} if made else set())
        self.change(backend, server, checks=tuple(sorted(checks)))
        self.machine.happened(f"{backend}/{server} {kind} {'on' if made else 'off'}")

    def change(self, backend: str, server: str, **values: Any) -> None:
        """Have something be otherwise."""
        self.check()
        self.backends[backend][server] = evolve(self.backends[backend][server], **values)


class LocalHost:
    """A :class:`graceful.deploy.host.Host`.

    :ivar now: the time.
    :ivar events: what has happened, in its order.
    :ivar commands: what a command does: called with nothing, its exit status is returned.
    :ivar replies: what a URL is answered with; good, if nothing is said.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.events: list[str] = []
        self.told: list[tuple[str | None, str, str]] = []
        self.serving_at: dict[str, MemoryProcess | None] = {}
        self.leaving_at: dict[str, list[MemoryProcess]] = {}
        self.commands: dict[str, Callable[[], int | None]] = {}
        self.replies: dict[str, Reply] = {}
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._pid = 100
        self.asleep = 0

    # -- what a test does ---------------------------------------------------------------------------------

    def happened(self, what: str) -> None:
        """Write something down."""
        self.events.append(what)

    def tell(self, name: str | None, step: str, text: str, **values: Any) -> None:
        """Record an event of the deploy."""
        self.told.append((name, step, text))

    def said(self, step: str) -> list[str]:
        """Returns the texts of a step."""
        return [text for _, word, text in self.told if word == step]

    def later(self, seconds: float, do: Callable[[], object]) -> None:
        """Have something happen when it is time."""
        if seconds <= 0:
            do()
        else:
            self._later.append((self.now + seconds, len(self._later), do))

    def process(self, control: str) -> MemoryProcess:
        """Have a new server answer; one that has closed its sockets gives it the path."""
        self._pid += 1
        process = MemoryProcess(self, self._pid)
        old = self.serving_at.get(control)
        if old is not None and not old.dead:
            assert old.state == "finishing", "the port is taken"
            self.leaving_at.setdefault(control, []).append(old)
        self.serving_at[control] = process
        return process

    def starts(self, control: str, after: float = 1.0) -> Callable[[], int | None]:
        """Do what a command does that starts a server."""

        def run() -> int:
            self.later(after, lambda: self.process(control))
            return 0

        return run

    # -- Host ---------------------------------------------------------------------------------------------

    def seconds(self) -> float:
        """The time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, and what it brings happen."""
        self.asleep += 1
        assert self.asleep < 200_000, f"it never ends: {self.told[-5:]}"
        end = self.now + seconds
        while True:
            due = [event for event in self._later if event[0] <= end]
            if not due:
                break
            event = min(due)
            self._later.remove(event)
            self.now = event[0]
            event[2]()
        self.now = end

    def serving(self, control: str) -> MemoryProcess | None:
        """Returns the server that answers."""
        process = self.serving_at.get(control)
        return process if process is not None and not process.dead and process.state != "finishing" else None

    def leaving(self, control: str) -> list[MemoryProcess]:
        """Returns the servers that leave."""
        found = list(self.leaving_at.get(control, []))
        process = self.serving_at.get(control)
        if process is not None and process.state == "finishing":
            found.append(process)
        return [process for process in found if not process.dead]

    def run(self, command: str, name: str) -> MemoryCommand:
        """Run a command."""
        self.happened(command)
        return MemoryCommand(self.commands[command]())

    def ask(self, url: str) -> MemoryQuestion:
        """Ask a URL."""
        self.happened(url)
        return MemoryQuestion(self.replies.get(url, GOOD))

    def tail(self, path: str) -> list[str]:
        """A log."""
        return [f"the end of {path}"]


class Rehearsal:
    """A site in memory, and a deploy of it.

    :ivar machine: the machine.
    :ivar haproxys: the HAProxys.
    :ivar olds: the servers at the beginning, by the names of their instances.
    """

    def __init__(self, count: int = 2, haproxys: int = 1, takeover: bool = False, **plan: Any) -> None:
        self.machine = LocalHost()
        names = [f"app{number}" for number in range(1, count + 1)]
        backends = {"app": names}
        addresses = ["haproxy"] if haproxys == 1 else [f"@{number}" for number in range(haproxys)]
        self.haproxys = [MemoryHAProxy(self.machine, backends, address) for address in addresses]
        if takeover:
            self.haproxys = []
        self.olds = {name: self.machine.process(name) for name in names}
        instances = [
            PlannedInstance(
                name=name,
                control=name,
                start=f"start {name}",
                servers=() if takeover else (("app", name),),
                health=f"http://{name}/health",
                checks=(f"http://{name}/login",),
            )
            for name in names
        ]
        for name in names:
            self.machine.commands[f"start {name}"] = self.machine.starts(name)
        self.plan = Plan(path="/deploy.toml", instances=tuple(instances), haproxy=tuple(addresses), **plan)
        self.found_servers = FoundServers()
        self.conductor: Orchestrator | None = None

    @property
    def haproxy(self) -> MemoryHAProxy:
        """The only HAProxy."""
        return self.haproxys[0]

    def change(self, **values: Any) -> None:
        """Have the instances be otherwise in the plan."""
        self.plan = evolve(self.plan, instances=tuple(evolve(instance, **values) for instance in self.plan.instances))

    def conduct(self) -> Orchestrator:
        """Returns the orchestrator."""
        self.conductor = Orchestrator(self.plan, self.machine, self.haproxys, self.machine.tell, self.found_servers)
        return self.conductor

    def deploy(self) -> dict[str, Any]:
        """Deploy it."""
        return self.conduct().run()

    def states(self) -> list[str]:
        """Returns the servers of the first HAProxy."""
        return [state.state for state in self.haproxy.backends["app"].values()]
