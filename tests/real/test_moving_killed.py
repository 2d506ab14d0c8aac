"""A process is killed, or stopped for a while, in the middle of a hand-over: only what it had in its hands is lost.

The points are those where a function of the hand-over begins or ends; a first run counts them.  GRACEFUL_TEST_POINTS
says at how many of them, spread evenly, each process is killed and stopped; `make soak` does it at 25.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support.clients import Connection, get
from tests.support.command import status_of
from tests.support.docs_site import gone
from tests.support.home import Home
from tests.support.points import NOT_AT_ALL, Points, ask, spread
from tests.support.prober import Prober
from tests.support.processes import is_stopped
from tests.support.server import Server
from tests.support.waiting import wait_for

POINTS = int(os.environ.get("GRACEFUL_TEST_POINTS", "2"))
STOPPED_FOR = 5.0 if POINTS > 2 else 1.0
IDLE = 20
WAITS = 20.0


class HandOver:
    """A takeover with idle connections and a prober, in which one process meets a signal at a point.

    :param number: of the point; `NOT_AT_ALL` only counts.
    """

    def __init__(self, stack: ExitStack, home: Home, role: str, which: signal.Signals, number: int) -> None:
        self.points = Points(home, which, number)
        tried = self.points.environment
        # With `tls`, or the module that hides it would stand in the path before the one that counts points.
        self.old = stack.enter_context(Server(home, environment=tried if role == "old" else {}, tls=True))
        self.idle = [stack.enter_context(Connection(self.old.port)) for _ in range(IDLE)]
        for client in self.idle:
            assert int(client.get("/pid").body) == self.old.pid
        self.prober = stack.enter_context(Prober(self.old.port))
        self.points.begin()
        environment = tried if role == "new" else {}
        self.new = Server(home, "--takeover", port=self.old.port, environment=environment, wait_open=False, tls=True)
        stack.enter_context(self.new)
        self.hit = self.old if role == "old" else self.new

    def came_to_it(self) -> bool:
        """Whether the process has come to the point; if not, nothing else was seen of it than a takeover."""
        if self.points.came(lambda: gone(self.old.pid), WAITS):
            return True
        assert self.answers() == {self.new.pid: IDLE}
        self.close()
        return False

    def close(self) -> None:
        """Close the idle connections, so that no stop waits for them."""
        for client in self.idle:
            client.close()

    def answers(self) -> Counter[int | str]:
        """Ask once on each idle connection.  Returns how many have answered, by process, or else how it ended."""
        found = ask(self.idle)
        assert {how for how in found if isinstance(how, str)} <= {"stale", "reset"}, found
        return found


@pytest.fixture(scope="module")
def passed() -> dict[str, int]:
    """How many points each process passes."""
    counts = {}
    for role in ("old", "new"):
        home = Home(os.getuid())
        try:
            with ExitStack() as stack:
                over = HandOver(stack, home, role, signal.SIGKILL, NOT_AT_ALL)
                assert over.old.wait(WAITS) == 0
                assert over.answers() == {over.new.pid: IDLE}
                over.close()
                counts[role] = len(over.points.passed())
                assert counts[role] > 25, over.points.passed()
        finally:
            home.remove()
    return counts


@pytest.mark.parametrize("index", range(POINTS))
def test_a_killed_successor_loses_only_what_it_has_taken(
    home: Home, stack: ExitStack, passed: dict[str, int], index: int
) -> None:
    """Before it serves, nothing at all; afterwards, the connections that it has said it has taken."""
    over = HandOver(stack, home, "new", signal.SIGKILL, spread(passed["new"], index, POINTS))
    if not over.came_to_it():
        return
    assert over.new.wait(WAITS) == -signal.SIGKILL, over.points.passed()
    home.disturbed = True
    answers = over.answers()
    over.close()
    if not over.old.log.find_all("has taken over"):
        assert answers == {over.old.pid: IDLE}
        assert over.prober.lost == []
        return
    assert over.old.wait(WAITS) == 0
    line = over.old.wait_line(r"drained in .* abandoned(, (\d+) connections moved)?$")
    assert answers[over.old.pid] >= IDLE - int(line[2] or 0), (answers, over.points.passed())


@pytest.mark.parametrize("index", range(POINTS))
def test_a_killed_predecessor_loses_only_what_it_has_kept(
    home: Home, stack: ExitStack, passed: dict[str, int], index: int
) -> None:
    """The new process serves, on what it was given too; no further request is lost."""
    over = HandOver(stack, home, "old", signal.SIGKILL, spread(passed["old"], index, POINTS))
    if not over.came_to_it():
        return
    assert over.old.wait(WAITS) == -signal.SIGKILL, over.points.passed()
    home.disturbed = True
    wait_for(lambda: bool(over.new.log.find_all(r"open \(pid|cannot take over")), WAITS)
    if over.new.log.find_all("cannot take over"):  # it has no socket yet
        assert over.new.wait() == 1
        return
    assert int(get(over.old.port, "/pid").body) == over.new.pid
    answers = over.answers()
    over.close()
    moved = status_of(home)["moved"]["in"]
    assert moved - 1 <= answers[over.new.pid] <= moved, (answers, over.points.passed())  # one may be the prober's
    assert [how for _, how in over.prober.lost] in ([], ["stale"], ["reset"], ["truncated"])  # it was in its hands


@pytest.mark.parametrize("index", range(POINTS))
@pytest.mark.parametrize("role", ["old", "new"])
def test_a_process_that_pauses_loses_nothing(
    home: Home, stack: ExitStack, passed: dict[str, int], role: str, index: int
) -> None:
    """Everything waits for it, and goes on."""
    over = HandOver(stack, home, role, signal.SIGSTOP, spread(passed[role], index, POINTS))
    if not over.came_to_it():
        return
    wait_for(lambda: is_stopped(over.hit.pid), WAITS)
    time.sleep(STOPPED_FOR)  # It is the pause that is tried.
    over.hit.send_signal(signal.SIGCONT)
    wait_for(lambda: bool(over.old.log.find_all("has taken over") or over.new.log.find_all("has not answered for")))
    if over.old.log.find_all("has taken over"):
        # The predecessor waits for 2 s, and serves what is left itself until the time is over that it has announced.
        answers = over.answers()
        assert answers[over.old.pid] + answers[over.new.pid] == IDLE, answers
        if not over.old.log.find_all("does not ask any more"):
            assert over.old.wait(WAITS) == 0
            assert over.answers() == {over.new.pid: IDLE}
    else:  # the successor has waited for 5 s, and has given up
        assert over.new.wait() == 1
        assert over.answers() == {over.old.pid: IDLE}
    over.close()
    assert over.prober.lost == []
