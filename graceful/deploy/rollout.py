"""The rollout of one instance: steps, each with a time limit and a defined state if it fails.

Behind HAProxy:

    out of the rotation → settled → told to stop → closed → the next one started → healthy, checked
        → the old one has no idle connection left → in the rotation as it was found → traffic

The order has reasons, each of them measured:

- A rollout does not wait until HAProxy counts no sessions.  That blocks on long requests, never ends for downloads,
  and is wrong after a reload.  The server's own register is right, and the server is told to stop at once.
- The new process starts as soon as the sockets of the old one are closed; the old one may finish for an hour.
- HAProxy keeps idle connections to the old process, and would use them again after `ready`: new requests to old code.
  So the old process is told that HAProxy sends nothing any more, and the rollout waits until it has no idle
  connection.
- Health proves that a process is there, not that the application works: that is what the checks are for.

Without HAProxy, the next one takes the sockets over from the old one: started → good → the old one is closing.

A rollout is a generator: it yields the seconds until it wants to go on, and never blocks.  All it does to the machine
goes through :class:`graceful.deploy.host.Host`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeVar

from graceful.deploy import DeployError
from graceful.deploy.balancer import BalancerServer, BalancerServers, Found, IRuntime
from graceful.deploy.haproxy import Unreachable
from graceful.deploy.host import Command, Host, ProcessError, ServerHandle
from graceful.deploy.journal import FoundServers
from graceful.deploy.old_process import OldProcess
from graceful.deploy.plan import Plan, PlannedInstance
from graceful.drain import State

T = TypeVar("T")
Steps = Generator[float, None, T]
Tell = Callable[..., object]

#: Seconds between two looks: a deploy has many waits, and none should be felt.
TICK: Final = 0.05

#: Seconds in which requests that were on their way to a server must have come, and in which none may have come.
SETTLES_IN: Final = 1.0
CALM: Final = 0.2

#: Seconds after which we look whether HAProxy still has what it was told.
HOLD_EVERY: Final = 1.0

#: Seconds that a HAProxy that does not answer has to come back.
COMES_BACK_IN: Final = 30.0

#: Seconds in which traffic should be seen; a quiet site has none.
TRAFFIC_IN: Final = 2.0

#: How often a check is made before it counts as failed, and the seconds between: an application may warm up.
TRIES: Final = 3
BETWEEN_TRIES: Final = 0.5


class Failed(DeployError):
    """The rollout cannot go on.

    :ivar lines: the end of a log that may say more.
    """

    def __init__(self, text: str, lines: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.lines = list(lines)


class BadVersion(Failed):
    """The new version does not start, or does not work: a rollback may help."""


class Rollout:
    """Replaces one instance.

    :param instance: the instance.
    :param plan: says how carefully.
    :param host: the machine.
    :param runtimes: the HAProxys; none for a deploy by takeover.
    :param tell: called with the instance's name, the step, a text for people, and values for programs.
    :param found_servers: how HAProxy's servers were found, to be put back.
    :param others_out: whether another instance of this deploy is out of the rotation just now.
    :ivar step: the name of the step it is in.
    :ivar text: the last thing that was told.
    :ivar out: it may be out of the rotation.
    :ivar result: `untouched`, `under way`, `deployed`, `rolled back` or `failed`.
    :ivar why: why it failed.
    :ivar lines: the end of the log that says more.
    :ivar olds: the servers that it has replaced.
    :ivar new_pid: the process that serves now.
    """

    def __init__(
        self,
        instance: PlannedInstance,
        plan: Plan,
        host: Host,
        runtimes: Sequence[IRuntime],
        tell: Tell,
        found_servers: FoundServers,
        others_out: Callable[[], bool] = lambda: False,
    ) -> None:
        self.instance = instance
        self.name = instance.name
        self.step = "waiting"
        self.text = ""
        self.out = False
        self.result = "untouched"
        self.why: str | None = None
        self.lines: list[str] = []
        self.olds: list[OldProcess] = []
        self.new_pid: int | None = None
        self.began: float | None = None
        self.ended: float | None = None
        self._plan = plan
        self._host = host
        self._servers = BalancerServers(instance, runtimes)
        self._tell_all = tell
        self._found_servers = found_servers
        self._others_out = others_out
        self._found: dict[str, Found] = {}
        self._held = 0.0
        self._new: ServerHandle | None = None

    # -- the way ------------------------------------------------------------------------------------------

    def run(self) -> Steps[None]:
        """Run all steps.  The result is in the attributes; nothing is raised."""
        self.result, self.began = "under way", self._host.seconds()
        try:
            try:
                yield from self._behind_balancer() if self._servers.all else self._by_takeover()
                self.result = "deployed"
                took = self._host.seconds() - self.began
                self._tell("done", f"deployed in {took:.1f} s: process {self.new_pid}", seconds=round(took, 3))
            except DeployError as error:
                yield from self._fail(error)
        except DeployError as error:
            self._tell("failed", str(error))
        finally:
            self.ended = self._host.seconds()
            if self._new is not None:
                self._new.close()
            if self.result == "under way":
                self.result = "failed"

    def _behind_balancer(self) -> Steps[None]:
        yield from self._may_go_out()
        yield from self._take_out()
        yield from self._settle()
        yield from self._stop()
        yield from self._start(self.instance.start)
        yield from self._go_in()

    def _by_takeover(self) -> Steps[None]:
        self._find_olds()
        yield from self._start(self.instance.start)
        yield from self._check("checked")
        serving = [old for old in self.olds if not old.closed]
        if not (yield from self._until(lambda: all(old.closed for old in serving), self._plan.start_within)):
            pids = ", ".join(str(old.pid) for old in serving if not old.closed)
            raise Failed(f"process {self.new_pid} serves, and process {pids} does too: does `start` have --takeover?")
        self._tell("took over", f"process {self.new_pid} has taken over")

    # -- out ----------------------------------------------------------------------------------------------

    def _may_go_out(self) -> Steps[None]:
        """Wait until as many others are up as there must be."""
        self._step("waiting")
        while why := (yield from self._patiently(lambda: self._servers.enough_up(self._plan.min_up))):
            if not self._others_out():
                raise Failed(f"not taken out of the rotation: {why}")
            self._note_once(f"waits: {why}")
            yield TICK * 4

    def _take_out(self) -> Steps[None]:
        now = yield from self._patiently(self._servers.found)
        before = self._found_servers.recall(self.name)
        for key, found in now.items():
            if found.state != "ready" and key in before:
                self._found[key] = before[key]
                self._tell("note", f"an earlier deploy has left it in {found.state}: {key}, was {before[key].state}")
            else:
                self._found[key] = found
        self._found_servers.remember(self.name, self._found)
        self.out = True
        servers = ", ".join(f"{server} {self._found[server.key].state}" for server in self._servers.all)
        self._step("drain", f"out of the rotation; found {servers}")
        yield from self._patiently(self._servers.take_out)
        self._held = self._host.seconds()

    def _settle(self) -> Steps[None]:
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
            self._tell("note", f"requests still come to {server} in drain, clients are tied to it: set to maint")

    # -- the old one --------------------------------------------------------------------------------------

    def _find_olds(self) -> None:
        now = self._host.seconds()
        main = self._host.serving(self.instance.control)
        processes = ([main] if main is not None else []) + self._host.leaving(self.instance.control)
        self.olds = [OldProcess(process, self._plan.margin) for process in processes]
        for old in self.olds:
            old.look(now)

    def _stop(self) -> Steps[None]:
        """Tell the old process to stop, and wait until its sockets are closed."""
        self._find_olds()
        if not self.olds:
            self._tell("note", f"nobody answers at {self.instance.control}: it is down already")
        for old in self.olds:
            self._step("stop", f"process {old.pid} is told to stop, {old.in_flight} in flight", pid=old.pid)
            self._tell_to_stop(old)
        yield from self._ends(lambda old: old.closed)
        for old in self.olds:
            if old.killed:
                self._tell("killed", f"process {old.pid} had to be killed before its sockets were closed")
            else:
                text = f"process {old.pid} has closed its sockets, {old.in_flight} in flight"
                self._step("closed", text, pid=old.pid, in_flight=old.in_flight)

    def _tell_to_stop(self, old: OldProcess) -> None:
        old.leaves(self._host.seconds())
        try:
            old.process.stop(quiet=True)
        except ProcessError as error:
            self._tell("warning", f"{error}; SIGTERM is sent to process {old.pid}", pid=old.pid)
            old.process.terminate()

    def _ends(self, true: Callable[[OldProcess], bool]) -> Steps[None]:
        """Wait until something is true of all old processes.  It becomes true in time: kill -9 is the last step."""
        while waiting := [old for old in self.olds if not true(old)]:
            for old in waiting:
                if old.given_up:
                    raise Failed(old.given_up)
            yield from self._pause()

    # -- the new one --------------------------------------------------------------------------------------

    def _start(self, line: str, word: str = "start") -> Steps[None]:
        """Start the new process, and wait until it serves and is healthy."""
        self._step(word, line)
        known = {old.pid for old in self.olds} | ({self.new_pid} if self.new_pid else set())
        end = self._host.seconds() + self._plan.start_within
        command = self._host.run(line, self.name)
        try:
            while True:
                status = command.status()
                if status:
                    raise BadVersion(f"{word} has ended with status {status}: {line}", self._tail(command))
                new = self._newcomer(known)
                if new is not None:
                    break
                if self._host.seconds() >= end:
                    raise BadVersion(self._why_none_serves(word, status), self._tail(command))
                yield from self._pause()
            self._new, self.new_pid = new, new.pid
            self._step("serving", f"process {new.pid} serves", pid=new.pid)
            yield from self._healthy(new, command, end)
        finally:
            command.leave()

    def _newcomer(self, known: set[int]) -> ServerHandle | None:
        """Returns a process that serves and was not there before; None if there is none yet."""
        try:
            process = self._host.serving(self.instance.control)
        except ProcessError:
            return None
        if process is None:
            return None
        try:
            if process.pid not in known and process.status()["state"] == State.SERVING:
                return process
        except ProcessError:
            pass  # it is still starting
        process.close()
        return None

    def _why_none_serves(self, word: str, status: int | None) -> str:
        where = f"no new process serves at {self.instance.control} after {self._plan.start_within:g} s"
        if status is None:
            return f"{word} still runs, and {where}"
        return (
            f"{word} returned 0, but {where}; under systemd, `start` of a unit that still stops does nothing: "
            "use one that is gone by then, or `systemctl reload` with a takeover"
        )

    def _healthy(self, new: ServerHandle, command: Command, end: float) -> Steps[None]:
        url = self.instance.health
        if url is None:
            return
        while True:
            reply = yield from self._answer(url)
            if reply.status == 200:
                break
            if new.gone():
                raise BadVersion(f"process {new.pid} has ended again", self._tail(command))
            if self._host.seconds() >= end:
                raise BadVersion(f"{url} says {reply.text}", self._tail(command))
            yield from self._pause()
        self._step("healthy", f"{url} is good")

    def _check(self, word: str) -> Steps[None]:
        """Ask the application itself, several times, since it may have to warm up."""
        for url in self.instance.checks:
            for tries_left in reversed(range(TRIES)):
                reply = yield from self._answer(url)
                if reply.status == self.instance.expect:
                    break
                if not tries_left:
                    raise BadVersion(f"{url} says {reply.text}, expected {self.instance.expect}", self._tail(None))
                yield from self._until(lambda: False, BETWEEN_TRIES)
        if self.instance.checks:
            self._step(word, f"{len(self.instance.checks)} checks are good")

    def _answer(self, url: str) -> Steps[Any]:
        question = self._host.ask(url)
        while (reply := question.reply()) is None:
            yield from self._pause()
        return reply

    def _tail(self, command: Command | None) -> list[str]:
        if self.instance.log is not None:
            return self._host.tail(self.instance.log)
        return command.said() if command is not None else []

    # -- in -----------------------------------------------------------------------------------------------

    def _go_in(self) -> Steps[None]:
        """Check the new process, wait until the old one has no idle connection, and put the server back."""
        yield from self._check("checked")
        if self.olds:
            yield from self._ends(lambda old: old.idle == 0)
            self._step("quiet", "no idle connection to the old process is left")
        before = yield from self._patiently(self._servers.requests)
        yield from self._patiently(lambda: self._servers.put_back(self._found))
        back = [server for server in self._servers.all if self._found[server.key].state == "ready"]
        servers = ", ".join(f"{server} {self._found[server.key].state}" for server in self._servers.all)
        self._step("ready", f"back as it was found: {servers}")
        self.out = False
        try:
            yield from self._traffic(back, {server: traffic.requests for server, traffic in before.items()})
            if back:
                yield from self._check("checked again")
        except DeployError:
            self.out = True
            yield from self._patiently(self._servers.take_out)
            raise
        self._found_servers.forget(self.name)

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
                    self._tell("note", f"no traffic seen at {server} in {TRAFFIC_IN:g} s")
                    break
                if passed >= self._plan.start_within:
                    raise BadVersion(f"HAProxy holds {server} to be {traffic.status} {traffic.check}".rstrip())
                yield TICK
        if servers:
            self._step("traffic", "requests come")

    # -- when it fails ------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> Steps[None]:
        """Leave a defined state, and tell which."""
        self.why, self.lines = str(error), getattr(error, "lines", [])
        self.result = "failed"
        self._tell("failed", self.why, log=self.lines)
        if isinstance(error, BadVersion) and self.instance.rollback is not None:
            yield from self._roll_back(self.instance.rollback)
            return
        if not self.out:
            return
        if not self.olds and not self.new_pid and self.step in ("drain", "waiting"):
            # The old one was not touched yet.
            yield from self._patiently(lambda: self._servers.put_back(self._found))
            self.out = False
            self._found_servers.forget(self.name)
            self._tell("note", "back in the rotation as it was found; nothing was stopped")
            return
        yield from self._patiently(lambda: self._servers.check_again(self._found))
        servers = ", ".join(str(server) for server in self._servers.all)
        self._tell("note", f"stays out of the rotation: {servers}; the next deploy puts it back as it was found")

    def _roll_back(self, line: str) -> Steps[None]:
        """Start the previous version instead."""
        new = self._new
        if new is not None and not new.gone() and self._servers.all:
            # It gets no requests, so it ends at once.  In a takeover, the previous version makes it end.
            self._new = None
            self.olds.append(OldProcess(new, self._plan.margin))
            self._tell_to_stop(self.olds[-1])
            yield from self._ends(lambda old: old.closed)
        try:
            yield from self._start(line, "rollback")
            if self._servers.all:
                yield from self._go_in()
            else:
                yield from self._check("checked")
        except DeployError as error:
            self._tell("failed", f"rollback: {error}", log=getattr(error, "lines", []))
            if self._servers.all:
                yield from self._patiently(lambda: self._servers.check_again(self._found))
                self._tell("note", "stays out of the rotation; the next deploy puts it back as it was found")
            return
        self.result = "rolled back"
        self._tell("rolled back", f"the version before serves: process {self.new_pid}", pid=self.new_pid)

    # -- waiting ------------------------------------------------------------------------------------------

    def _until(self, true: Callable[[], bool], timeout: float) -> Steps[bool]:
        """Wait until something is true.  Returns False if it is not after `timeout` seconds."""
        end = self._host.seconds() + timeout
        while not true():
            if self._host.seconds() >= end:
                return False
            yield from self._pause()
        return True

    def _pause(self) -> Steps[None]:
        """Wait a tick; look after the old processes, and check that the servers are still out of the rotation."""
        yield TICK
        now = self._host.seconds()
        for old in self.olds:
            old.look(now)
        if self.out and now - self._held >= HOLD_EVERY:
            self._held = now
            for server in (yield from self._patiently(self._servers.take_out)):
                self._tell("warning", f"{server} was back in the rotation, and is taken out again")

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
                    self._tell("warning", f"{error}; it has {COMES_BACK_IN:g} s to come back")
            yield TICK * 4

    # -- telling ------------------------------------------------------------------------------------------

    def _step(self, step: str, text: str = "", **values: Any) -> None:
        self.step = step
        if text:
            self._tell(step, text, **values)

    def _tell(self, step: str, text: str, **values: Any) -> None:
        self.text = text
        self._tell_all(self.name, step, text, **values)

    def _note_once(self, text: str) -> None:
        if self.text != text:
            self._tell("note", text)
