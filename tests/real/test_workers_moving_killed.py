"""A worker or its supervisor is killed, or stopped for a while, in the middle of a deploy of workers.

Only what the process had in its hands is lost.  The points are those of `test_moving_killed.py`, for a supervisor
those of its own code; GRACEFUL_TEST_POINTS says at how many each is killed and stopped.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support.clients import Connection
from tests.support.command import status_of
from tests.support.home import Home
from tests.support.points import NOT_AT_ALL, Points, ask, spread
from tests.support.prober import Prober
from tests.support.processes import children_of, is_stopped
from tests.support.server import Server
from tests.support.waiting import wait_for

POINTS = int(os.environ.get("GRACEFUL_TEST_POINTS", "1"))
STOPPED_FOR = 5.0 if POINTS > 2 else 1.0
IDLE = 20
WAITS = 30.0
DEPLOYED = "deployed: all workers run|no deploy: |the workers are gone"


class Deploy:
    """A deploy of two workers with idle connections and a prober, in which one process meets a signal at a point.

    :param role: `worker` or `supervisor`.
    :param number: of the point; `NOT_AT_ALL` only counts.
    """

    def __init__(self, stack: ExitStack, home: Home, role: str, which: signal.Signals, number: int) -> None:
        self.points = Points(home, which, number, role)
        # With `tls`, or the module that hides it would stand in the path before the one that counts points.
        options = ("--workers", "2", "--keep-alive", "60", "--takeover-timeout", "20")
        self.server = stack.enter_context(Server(home, *options, environment=self.points.environment, tls=True))
        self.former = workers_of(home)
        self.idle = [stack.enter_context(Connection(self.server.port)) for _ in range(IDLE)]
        self.answers()
        self.prober = stack.enter_context(Prober(self.server.port))
        self.points.begin()
        self.server.send_signal(signal.SIGHUP)

    def hit(self) -> bool:
        """Whether a process has come to the point, before the deploy was over."""
        return self.points.came(lambda: len(self.server.log.find_all("has drained and is gone")) == 2, WAITS)

    def answers(self) -> Counter[int | str]:
        """Ask once on each idle connection.  Returns how many have answered, by process, or else how it ended."""
        return ask(self.idle)

    def end(self) -> list[str]:
        """Close all connections.  Returns how requests of the prober were lost."""
        self.prober.end()
        for client in self.idle:
            client.close()
        return [how for _, how in self.prober.lost]


def workers_of(home: Home) -> list[int]:
    """Returns the workers that serve."""
    return [one["pid"] for one in status_of(home)["workers"] if one["state"] == "serving"]


@pytest.fixture(scope="module")
def passed() -> dict[str, int]:
    """How many points each process passes."""
    counts = {}
    for role in ("worker", "supervisor"):
        home = Home(os.getuid())
        try:
            with ExitStack() as stack:
                over = Deploy(stack, home, role, signal.SIGKILL, NOT_AT_ALL)
                over.server.wait_line("deployed: all workers run", timeout=WAITS)
                over.server.wait_line("has drained and is gone", count=2, timeout=WAITS)
                assert sum(over.answers()[pid] for pid in workers_of(home)) == IDLE
                assert over.end() == []
                counts[role] = max(int(line.split()[0]) for line in over.points.passed())
                assert counts[role] > 25, over.points.passed()
        finally:
            home.remove()
    return counts


@pytest.mark.parametrize("index", range(POINTS))
def test_a_worker_killed_in_a_deploy_takes_only_its_own_with_it(
    home: Home, stack: ExitStack, passed: dict[str, int], index: int
) -> None:
    """Two workers serve soon, a connection of the other one is never lost, and the next deploy succeeds."""
    home.disturbed = True
    over = Deploy(stack, home, "worker", signal.SIGKILL, spread(passed["worker"], index, POINTS))
    over.hit()
    over.server.wait_line(DEPLOYED, timeout=WAITS)
    wait_for(lambda: len(workers_of(home)) == 2, WAITS)
    answers = over.answers()
    # The killed worker's share may be all that were its own, or had moved to it; each of two has about a half.
    assert sum(count for what, count in answers.items() if isinstance(what, int)) >= IDLE // 4, (
        answers,
        over.points.passed(),
    )
    assert set(answers) <= {*workers_of(home), *over.former, "stale", "reset"}, answers
    over.server.send_signal(signal.SIGHUP)
    over.server.wait_line("deployed: all workers run", timeout=WAITS)
    lost = over.end()
    assert "refused" not in lost and len(lost) <= 2, lost  # a kill, and what the killed process had accepted


@pytest.mark.parametrize("index", range(POINTS))
def test_a_supervisor_killed_in_a_deploy_takes_no_request_with_it(
    home: Home, stack: ExitStack, passed: dict[str, int], index: int
) -> None:
    """It has read nothing itself: its workers answer what they have, and go."""
    home.disturbed = True
    over = Deploy(stack, home, "supervisor", signal.SIGKILL, spread(passed["supervisor"], index, POINTS))
    if over.hit():
        assert over.server.wait(WAITS) == -signal.SIGKILL, over.points.passed()
    answers = over.answers()
    assert not {"reset", "truncated", "timed out"} & set(answers), (answers, over.points.passed())
    assert set(over.end()) <= {"refused"}, over.prober.lost


@pytest.mark.parametrize("index", range(POINTS))
@pytest.mark.parametrize("role", ["worker", "supervisor"])
def test_a_deploy_with_a_process_that_pauses_loses_nothing(
    home: Home, stack: ExitStack, passed: dict[str, int], role: str, index: int
) -> None:
    """Everything waits for it, or goes on without it."""
    over = Deploy(stack, home, role, signal.SIGSTOP, spread(passed[role], index, POINTS))
    found: list[int] = []

    def stopped() -> bool:
        found[:] = [pid for pid in [over.server.pid, *children_of(over.server.pid)] if is_stopped(pid)]
        return bool(found)

    if over.hit():
        wait_for(stopped, WAITS)
        time.sleep(STOPPED_FOR)  # It is the pause that is tried.
        os.kill(found[0], signal.SIGCONT)
    over.server.wait_line(DEPLOYED, timeout=WAITS)
    answers = over.answers()
    assert sum(count for what, count in answers.items() if isinstance(what, int)) == IDLE, (
        answers,
        over.points.passed(),
    )
    assert over.end() == []
