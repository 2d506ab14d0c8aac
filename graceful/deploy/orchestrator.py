"""A whole deploy: which instance is next, how many at once, when to stop, and the verdict.

All rollouts run in one thread, each going on when it is due.  So nothing here needs a lock, and two rollouts never
take the last two servers out at once.

A failure stops the deploy: rollouts under way are brought to their end, no other is begun.  So does the first Ctrl-C.
The second one leaves everything where it is, and tells where that is; the next deploy begins with what is unfinished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define

from graceful.deploy.balancer import IRuntime
from graceful.deploy.host import Host
from graceful.deploy.journal import FoundServers
from graceful.deploy.old_process import OldProcess
from graceful.deploy.plan import Plan
from graceful.deploy.rollout import Rollout
from graceful.deploy.steps import Steps, Tell

#: Seconds between two looks at a server that finishes what it has.
LOOK_EVERY: Final = 0.25

#: Seconds between two looks at a command, or while only old processes are left.
_IDLE: Final = 0.05


@define(eq=False)
class _Running:
    rollout: Rollout
    steps: Steps[None]
    due: float


class Orchestrator:
    """Deploys a plan.

    :param plan: says what, and how carefully.
    :param host: the machine.
    :param runtimes: the HAProxys.
    :param tell: called with an instance's name or None, the step, a text for people, and values for programs.
    :param found_servers: how HAProxy's servers were found, to be put back.
    :param look: called often with all rollouts, to show the progress.
    :ivar rollouts: in the order in which they are begun.
    :ivar interrupted: how often the operator has pressed Ctrl-C.
    """

    def __init__(
        self,
        plan: Plan,
        host: Host,
        runtimes: Sequence[IRuntime],
        tell: Tell,
        found_servers: FoundServers,
        look: Callable[[Sequence[Rollout]], object] = lambda rollouts: None,
    ) -> None:
        self.interrupted = 0
        self._plan = plan
        self._host = host
        self._tell = tell
        self._look = look
        self._running: list[_Running] = []
        self._looked = 0.0
        # Instances that an earlier deploy has left unfinished come first: they may be out of the rotation.
        instances = sorted(plan.instances, key=lambda instance: not found_servers.recall(instance.name))
        self.rollouts = [
            Rollout(instance, plan, host, runtimes, tell, found_servers, self._is_one_out) for instance in instances
        ]

    def _is_one_out(self) -> bool:
        return any(running.rollout.out for running in self._running)

    def interrupt(self) -> int:
        """Begin no other rollout; the second time, leave everything where it is.  In a signal handler.

        :returns: which time it is.
        """
        self.interrupted += 1
        return self.interrupted

    @property
    def failed(self) -> bool:
        """Whether the rollout of an instance has failed."""
        return any(rollout.result in ("failed", "rolled back") for rollout in self.rollouts)

    @property
    def old_processes(self) -> list[OldProcess]:
        """All servers that were replaced, or are being replaced."""
        return [old for rollout in self.rollouts for old in rollout.olds if old.leaving or old.gone]

    def run(self) -> dict[str, Any]:
        """Deploy, and return the verdict."""
        began, wall = self._host.seconds(), time.time()
        why = self._before()
        if why is None:
            self._roll_out()
            self._follow_old_processes()
        return self._verdict(wall, self._host.seconds() - began, why)

    def _before(self) -> str | None:
        """Run the command `before`.  Returns why the deploy must not go on; None if it may."""
        line = self._plan.before
        if line is None:
            return None
        self._tell(None, "before", line)
        command = self._host.run(line, "before")
        while (status := command.status()) is None:
            if self.interrupted > 1:
                return "interrupted; nothing was touched"
            self._wait(_IDLE)
        if status == 0:
            return None
        why = f"`before` has ended with status {status}, nothing was touched: {line}"
        self._tell(None, "failed", why, log=command.said())
        return why

    def _roll_out(self) -> None:
        waiting = list(self.rollouts)
        while waiting or self._running:
            if self.interrupted > 1:
                self._abandon()
                return
            stop = self.failed or self.interrupted
            if not self._running and stop:
                return
            while waiting and not stop and len(self._running) < self._plan.parallel:
                rollout = waiting.pop(0)
                self._running.append(_Running(rollout, rollout.run(), 0.0))
            self._go_on()
            self._look_at_old_processes()
            due = min((running.due for running in self._running), default=0.0)
            self._wait(max(0.0, due - self._host.seconds()))

    def _go_on(self) -> None:
        for running in list(self._running):
            if self._host.seconds() < running.due:
                continue
            try:
                running.due = self._host.seconds() + next(running.steps)
            except StopIteration:
                self._running.remove(running)

    def _wait(self, seconds: float) -> None:
        self._look(self.rollouts)
        self._host.sleep(max(seconds, 0.001))

    def _look_at_old_processes(self) -> None:
        """Look at the old processes of rollouts that are over, while other instances are deployed."""
        now = self._host.seconds()
        if now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        busy = {id(running.rollout) for running in self._running}
        for rollout in self.rollouts:
            if id(rollout) in busy:
                continue  # a running rollout looks itself
            for old in rollout.olds:
                if old.leaving and not old.given_up:
                    self._look_at(rollout, old, now)

    def _look_at(self, rollout: Rollout, old: OldProcess, now: float) -> None:
        killed = old.killed
        old.look(now)
        if old.killed and not killed:
            self._tell(rollout.name, "killed", f"process {old.pid} has outstayed its time: kill -9", **old.verdict())
        if old.given_up:
            self._tell(rollout.name, "warning", old.given_up, pid=old.pid)
        elif old.gone:
            self._tell(rollout.name, "gone", how_it_ended(old), **old.verdict())

    def _follow_old_processes(self) -> None:
        """Follow the old processes to their end."""
        said = False
        while leaving := [old for old in self.old_processes if old.leaving and not old.given_up]:
            if self.interrupted > 1:
                return
            if not said:
                said = True
                self._tell(
                    None, "finishing", f"{len(leaving)} old processes finish what they have", processes=len(leaving)
                )
            self._look_at_old_processes()
            self._wait(_IDLE)

    def _abandon(self) -> None:
        """Leave everything where it is."""
        for running in self._running:
            rollout = running.rollout
            where = "out of the rotation" if rollout.out else "in the rotation"
            self._tell(
                rollout.name,
                "interrupted",
                f"left in step {rollout.step!r}, {where}; run the command again to go on",
                left_in=rollout.step,
            )
            running.steps.close()
            rollout.result, rollout.why = "interrupted", f"in step {rollout.step}"
        self._running.clear()

    # -- the verdict --------------------------------------------------------------------------------------

    def _verdict(self, began: float, seconds: float, why: str | None) -> dict[str, Any]:
        for rollout in self.rollouts:
            for old in rollout.olds:
                old.process.close()
        deployed = all(rollout.result == "deployed" for rollout in self.rollouts)
        result = "deployed" if deployed else "failed" if self.failed or why else "interrupted"
        olds = [old.verdict() for old in self.old_processes]
        return {
            "result": result,
            "began": round(began, 3),
            "seconds": round(seconds, 3),
            "why": why,
            "finished": sum(old["finished"] or 0 for old in olds),
            "taken_down": sum(old["taken_down"] or 0 for old in olds),
            "killed": sum(old["killed"] for old in olds),
            "vanished": sum(old["exit_status"] == 72 and not old["killed"] for old in olds),
            "still_leaving": sum(old["exit_status"] is None for old in olds),
            "instances": [self._of(rollout) for rollout in self.rollouts],
        }

    def _of(self, rollout: Rollout) -> Mapping[str, Any]:
        took = None
        if rollout.began is not None and rollout.ended is not None:
            took = round(rollout.ended - rollout.began, 3)
        return {
            "name": rollout.name,
            "result": rollout.result,
            "why": rollout.why,
            "step": rollout.step,
            "seconds": took,
            "pid": rollout.new_pid,
            "old": [old.verdict() for old in rollout.olds if old.leaving or old.gone],
        }


def how_it_ended(old: OldProcess) -> str:
    """Returns how a server that was replaced has ended, in a line."""
    if old.killed:
        return f"process {old.pid} is gone, by kill -9"
    if old.word is None:
        return f"process {old.pid} has ended without a last word"
    return (
        f"process {old.pid} is gone: {old.word['finished']} finished, {old.word['taken_down']} taken down, "
        f"{old.word['abandoned']} abandoned"
    )


def interrupted_something(verdict: Mapping[str, Any]) -> bool:
    """Whether requests were interrupted, or may have been: what `--strict` minds."""
    return bool(verdict["taken_down"] or verdict["killed"] or verdict["vanished"])
