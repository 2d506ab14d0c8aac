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

from collections.abc import Callable, Sequence

from graceful.deploy import DeployError
from graceful.deploy.balancer import BalancerServers, IRuntime
from graceful.deploy.host import Host, ProcessError
from graceful.deploy.journal import FoundServers
from graceful.deploy.newcomer import Newcomer
from graceful.deploy.old_process import OldProcess
from graceful.deploy.plan import Plan, PlannedInstance
from graceful.deploy.rotation import Rotation
from graceful.deploy.steps import TICK, BadVersion, Failed, StepLog, Steps, Tell


class Rollout:
    """Replaces one instance.

    :param instance: the instance.
    :param plan: says how carefully.
    :param host: the machine.
    :param runtimes: the HAProxys; none for a deploy by takeover.
    :param tell: called with the instance's name, the step, a text for people, and values for programs.
    :param found_servers: how HAProxy's servers were found, to be put back.
    :param others_out: whether another instance of this deploy is out of the rotation just now.
    :ivar result: `untouched`, `under way`, `deployed`, `rolled back` or `failed`.
    :ivar why: why it failed.
    :ivar lines: the end of the log that says more.
    :ivar olds: the servers that it has replaced.
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
        self.result = "untouched"
        self.why: str | None = None
        self.lines: list[str] = []
        self.olds: list[OldProcess] = []
        self.began: float | None = None
        self.ended: float | None = None
        self._plan = plan
        self._host = host
        self._log = StepLog(instance.name, tell)
        servers = BalancerServers(instance, runtimes)
        self._rotation = Rotation(
            instance.name, servers, host, found_servers, self._log, plan.min_up, plan.start_within
        )
        self._newcomer = Newcomer(instance, host, plan.start_within, self._log, self._pause)
        self._others_out = others_out

    @property
    def step(self) -> str:
        """The name of the step it is in."""
        return self._log.step

    @property
    def out(self) -> bool:
        """Whether it may be out of the rotation."""
        return self._rotation.out

    @property
    def new_pid(self) -> int | None:
        """The process that serves now; None if none was started."""
        return self._newcomer.pid

    # -- the way ------------------------------------------------------------------------------------------

    def run(self) -> Steps[None]:
        """Run all steps.  The result is in the attributes; nothing is raised."""
        self.result, self.began = "under way", self._host.seconds()
        try:
            try:
                yield from self._behind_balancer() if self._rotation.balanced else self._by_takeover()
                self.result = "deployed"
                took = self._host.seconds() - self.began
                self._log.tell("done", f"deployed in {took:.1f} s: process {self.new_pid}", seconds=round(took, 3))
            except DeployError as error:
                yield from self._fail(error)
        except DeployError as error:
            self._log.tell("failed", str(error))
        finally:
            self.ended = self._host.seconds()
            self._newcomer.close()
            if self.result == "under way":
                self.result = "failed"

    def _behind_balancer(self) -> Steps[None]:
        yield from self._rotation.may_go_out(self._others_out)
        yield from self._rotation.take_out()
        yield from self._rotation.settle()
        yield from self._stop()
        yield from self._start(self.instance.start, "start")
        yield from self._go_in()

    def _by_takeover(self) -> Steps[None]:
        self._find_olds()
        yield from self._start(self.instance.start, "start")
        yield from self._newcomer.check("checked")
        serving = [old for old in self.olds if not old.closed]
        if not (yield from self._until(lambda: all(old.closed for old in serving), self._plan.start_within)):
            pids = ", ".join(str(old.pid) for old in serving if not old.closed)
            raise Failed(f"process {self.new_pid} serves, and process {pids} does too: does `start` have --takeover?")
        self._log.tell("took over", f"process {self.new_pid} has taken over")

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
            self._log.tell("note", f"nobody answers at {self.instance.control}: it is down already")
        for old in self.olds:
            self._log.enter("stop", f"process {old.pid} is told to stop, {old.in_flight} in flight", pid=old.pid)
            self._tell_to_stop(old)
        yield from self._ends(lambda old: old.closed)
        for old in self.olds:
            if old.killed:
                self._log.tell("killed", f"process {old.pid} had to be killed before its sockets were closed")
            else:
                text = f"process {old.pid} has closed its sockets, {old.in_flight} in flight"
                self._log.enter("closed", text, pid=old.pid, in_flight=old.in_flight)

    def _tell_to_stop(self, old: OldProcess) -> None:
        old.leaves(self._host.seconds())
        try:
            old.process.stop(quiet=True)
        except ProcessError as error:
            self._log.tell("warning", f"{error}; SIGTERM is sent to process {old.pid}", pid=old.pid)
            old.process.terminate()

    def _ends(self, true: Callable[[OldProcess], bool]) -> Steps[None]:
        """Wait until something is true of all old processes.  It becomes true in time: kill -9 is the last step."""
        while waiting := [old for old in self.olds if not true(old)]:
            for old in waiting:
                if old.given_up:
                    raise Failed(old.given_up)
            yield from self._pause()

    # -- the new one --------------------------------------------------------------------------------------

    def _start(self, line: str, word: str) -> Steps[None]:
        yield from self._newcomer.start(line, {old.pid for old in self.olds}, word)

    def _go_in(self) -> Steps[None]:
        """Check the new process, wait until the old one has no idle connection, and put the servers back."""
        yield from self._newcomer.check("checked")
        if self.olds:
            yield from self._ends(lambda old: old.idle == 0)
            self._log.enter("quiet", "no idle connection to the old process is left")
        yield from self._rotation.go_in(lambda: self._newcomer.check("checked again"))

    # -- when it fails ------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> Steps[None]:
        """Leave a defined state, and tell which."""
        self.why, self.lines = str(error), getattr(error, "lines", [])
        self.result = "failed"
        self._log.tell("failed", self.why, log=self.lines)
        if isinstance(error, BadVersion) and self.instance.rollback is not None:
            yield from self._roll_back(self.instance.rollback)
            return
        if not self.out:
            return
        if not self.olds and not self.new_pid and self.step in ("drain", "waiting"):
            # The old one was not touched yet.
            yield from self._rotation.put_back()
            self._log.tell("note", "back in the rotation as it was found; nothing was stopped")
            return
        yield from self._rotation.stay_out()
        self._log.tell(
            "note", f"stays out of the rotation: {self._rotation}; the next deploy puts it back as it was found"
        )

    def _roll_back(self, line: str) -> Steps[None]:
        """Start the previous version instead."""
        new = self._newcomer.let_go() if self._rotation.balanced else None
        if new is not None:
            # It gets no requests, so it ends at once.  In a takeover, the previous version makes it end.
            self.olds.append(OldProcess(new, self._plan.margin))
            self._tell_to_stop(self.olds[-1])
            yield from self._ends(lambda old: old.closed)
        try:
            yield from self._start(line, "rollback")
            if self._rotation.balanced:
                yield from self._go_in()
            else:
                yield from self._newcomer.check("checked")
        except DeployError as error:
            self._log.tell("failed", f"rollback: {error}", log=getattr(error, "lines", []))
            if self._rotation.balanced:
                yield from self._rotation.stay_out()
                self._log.tell("note", "stays out of the rotation; the next deploy puts it back as it was found")
            return
        self.result = "rolled back"
        self._log.tell("rolled back", f"the version before serves: process {self.new_pid}", pid=self.new_pid)

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
        yield from self._rotation.hold()
