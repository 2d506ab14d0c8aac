"""`graceful deploy`: reads the file, deploys it, shows the progress, and ends with the verdict."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from graceful.commands.common import DONE, FAILED, UNREACHABLE, say
from graceful.deploy import DeployError
from graceful.deploy.dry_run import preview
from graceful.deploy.haproxy import Runtime
from graceful.deploy.journal import Journal
from graceful.deploy.local_host import LocalHost
from graceful.deploy.orchestrator import Orchestrator, interrupted_something
from graceful.deploy.plan import Plan, PlanError, read
from graceful.deploy.progress import Lines, ProgressEvents
from graceful.deploy.rollout import Rollout

#: Exit status with `--strict`: deployed, but something was interrupted.
INTERRUPTED_SOMETHING: Final = 3

#: Signals that interrupt a deploy: Ctrl-C, and what ends a job from outside.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def deploy(arguments: argparse.Namespace) -> int:
    """Deploy a file."""
    try:
        plan = read(arguments.file)
    except PlanError as error:
        say(str(error))
        return UNREACHABLE
    try:
        host, runtimes = LocalHost(plan), [Runtime(address) for address in plan.haproxy]
        if arguments.dry_run:
            return _dry_run(plan, host, runtimes)
        return _deploy(arguments, plan, host, runtimes)
    except DeployError as error:
        say(str(error))
        return FAILED


def _dry_run(plan: Plan, host: LocalHost, runtimes: list[Runtime]) -> int:
    lines, problems = preview(plan, host, runtimes)
    print("\n".join(lines))
    for problem in problems:
        say(problem)
    return FAILED if problems else DONE


def _deploy(arguments: argparse.Namespace, plan: Plan, host: LocalHost, runtimes: list[Runtime]) -> int:
    journal = Journal(plan)
    try:
        # A problem that is found before anything is touched is no failed deploy, and is not in the history.
        _, problems = preview(plan, host, runtimes)
        for problem in problems:
            say(problem)
        if problems:
            return FAILED
        with _progress(arguments.json, plan) as progress:
            orchestrator = Orchestrator(
                plan, host, runtimes, progress.tell, journal, getattr(progress, "look", _nothing)
            )
            with _interruptible(orchestrator, progress):
                verdict = orchestrator.run()
            progress.verdict(verdict)
        journal.append(verdict)
    finally:
        journal.close()
    if verdict["result"] != "deployed":
        return FAILED
    return INTERRUPTED_SOMETHING if arguments.strict and interrupted_something(verdict) else DONE


def _nothing(rollouts: Sequence[Rollout]) -> None:
    pass


@contextmanager
def _progress(as_json: bool, plan: Plan) -> Iterator[Any]:
    """Yields what shows the progress: a live table on a terminal, if `rich` is installed."""
    width = max(len(instance.name) for instance in plan.instances)
    if as_json:
        yield ProgressEvents(sys.stdout)
        return
    if sys.stdout.isatty():
        try:
            from rich.console import Console

            from graceful.deploy.live_table import LiveTable
        except ImportError:
            pass
        else:
            with LiveTable(Console(), width) as table:
                yield table
            return
    yield Lines(sys.stdout, width)


@contextmanager
def _interruptible(orchestrator: Orchestrator, progress: Any) -> Iterator[None]:
    """Let the first signal end the deploy in order, and the second at once."""

    def interrupt(number: int, frame: object) -> None:
        if orchestrator.interrupt() == 1:
            text = "what is under way is brought to its end, nothing else is begun; once more leaves it where it is"
        else:
            text = "leaving everything where it is"
        progress.tell(None, "interrupted", text)

    # nohup(1) has SIGHUP ignored, and it stays ignored.
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
