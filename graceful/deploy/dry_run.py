"""Finds out what a deploy would do, and what would stop it, without touching anything."""

from __future__ import annotations

from collections.abc import Sequence

from graceful.deploy import DeployError
from graceful.deploy.balancer import BalancerServers, IRuntime
from graceful.deploy.host import Host, ProcessError
from graceful.deploy.journal import unfinished
from graceful.deploy.plan import Plan, PlannedInstance

_BALANCED = (
    "take it out of the rotation",
    "tell the old process to stop, and wait until its sockets are closed",
    "start: {start}",
    "wait for a new process at {control}",
    "ask {asked}",
    "wait until the old process has no idle connection left",
    "put it back into the rotation as it was found",
)
_TAKEOVER = ("start: {start}", "wait for a new process at {control}", "ask {asked}", "wait until the old one leaves")


def preview(plan: Plan, host: Host, runtimes: Sequence[IRuntime]) -> tuple[list[str], list[str]]:
    """Look at every instance.

    :returns: the plan in lines, and the problems that would stop it.
    """
    lines: list[str] = []
    problems: list[str] = []
    for runtime in runtimes:
        try:
            level = runtime.level()
            if level != "admin":
                problems.append(f"HAProxy at {runtime.address}: its stats socket is of level {level}, needs admin")
        except DeployError as error:
            problems.append(str(error))
    if problems:
        return lines, problems
    interrupted = unfinished(plan)
    if plan.before is not None:
        lines.append(f"before: {plan.before}")
    order = sorted(plan.instances, key=lambda instance: instance.name not in interrupted)
    for instance in order:
        lines.append(f"{instance.name}:")
        try:
            lines += [f"  {line}" for line in _now(instance, host, runtimes, instance.name in interrupted)]
        except DeployError as error:
            problems.append(f"{instance.name}: {error}")
        asked = " and ".join([url for url in (instance.health, *instance.checks) if url])
        for number, step in enumerate(_BALANCED if runtimes else _TAKEOVER, 1):
            if asked or "{asked}" not in step:
                text = step.format(start=instance.start, control=instance.control, asked=asked)
                lines.append(f"  {number}. {text}")
        if instance.rollback is not None:
            lines.append(f"  if that is no good: {instance.rollback}")
    lines.append(
        f"{plan.parallel} at once, {plan.min_up} others up at least, kill -9 {plan.margin:g} s after the latest exit"
    )
    return lines, problems


def _now(instance: PlannedInstance, host: Host, runtimes: Sequence[IRuntime], was_interrupted: bool) -> list[str]:
    """Returns lines that say how an instance is now."""
    lines = []
    servers = BalancerServers(instance, runtimes)
    for server in servers.all:
        state, traffic = server.look(), server.traffic()
        lines.append(f"now {server} is {state.state}, {traffic.status}, {server.others_up()} others up")
    process = host.serving(instance.control)
    if process is None:
        lines.append(f"now nobody answers at {instance.control}")
    else:
        try:
            status = process.status()
            lines.append(
                f"now process {process.pid} is {status['state']}, {status['in_flight_count']} in flight, "
                f"gone {status['latest_exit']:.0f} s after a stop at the latest"
            )
        except ProcessError as error:
            lines.append(f"now process {process.pid} does not answer: {error}")
        finally:
            process.close()
    if was_interrupted:
        lines.append("an earlier deploy has not brought it to its end: it is first")
    return lines
