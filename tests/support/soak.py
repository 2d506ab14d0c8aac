"""A long run of deploys, kills and limits under five kinds of clients, and what a server keeps of it.

What one deploy leaves behind (a descriptor, a thread, some memory, a zombie) is too little to be seen in a test of
one deploy.  So a supervisor with two workers, which are also recycled after some requests, goes through one *event*
after the other, in turn:

========== ==========================================================================================
hang up    SIGHUP: both workers are replaced
takeover   another supervisor takes over
kill       a worker that is being started for a deploy is killed: the old one serves on
limit      no further process or thread may be started, by a pids cgroup, while SIGHUP asks for a deploy
stop       the supervisor and its workers are stopped (SIGSTOP) for a second
========== ==========================================================================================

None of them may cost a client a request.  Memory and descriptors are looked at between events.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from attrs import define, field, frozen

from tests.support.home import Home
from tests.support.load import Load, Report
from tests.support.processes import children_of, state_of
from tests.support.server import Server, resident
from tests.support.waiting import wait_for

OPTIONS = (
    *("--workers", "2", "--threads", "30", "--max-requests", "2000+-200"),
    *("--idle-grace", "1", "--takeover-timeout", "20"),
)
DEPLOYED = "deployed: all workers run"
ENDED = rf"{DEPLOYED}|no deploy: "
#: The hierarchy of the pids controller, where it has one of its own, and the one of all controllers.
PIDS = Path("/sys/fs/cgroup/pids")
UNIFIED = Path("/sys/fs/cgroup")
#: Seconds that a deploy may take, on a machine that does much else.
DEPLOY = 60.0


@frozen
class Look:
    """What the server's processes have at a moment.

    :ivar memory: resident bytes of the supervisor.
    :ivar descriptors: open descriptors of the supervisor.
    :ivar threads: threads of the supervisor.
    :ivar processes: its processes.
    :ivar zombies: those of them that have ended and were not collected.
    """

    memory: int
    descriptors: int
    threads: int
    processes: int
    zombies: int


@define
class Soak:
    """A run, and its result.

    :ivar happened: how often each event came to pass.
    :ivar looks: what the processes had between events.
    :ivar report: how the requests of all clients ended.
    """

    happened: Counter[str] = field(factory=Counter)
    looks: list[Look] = field(factory=list)
    report: Report | None = None

    def run(self, home: Home, seconds: float, every: float) -> None:
        """Let events happen until the time is over, and then stop the server.

        :param home: of the server.
        :param seconds: how long.
        :param every: seconds from the beginning of one event to the next.
        """
        with ExitStack() as stack:
            server = stack.enter_context(Server(home, *OPTIONS, fresh=True))
            load = stack.enter_context(Load(server.port))
            load.mark()
            events: list[tuple[str, Callable[[Server], None]]] = [
                ("hang up", hang_up),
                ("kill", kill_a_starting_worker),
                ("limit", deploy_at_a_limit),
                ("stop", stop_for_a_second),
            ]
            number, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                due = time.monotonic() + every
                if number % (len(events) + 1) == len(events):
                    server = self._take_over(stack, server)
                    self.happened["takeover"] += 1
                else:
                    name, happen = events[number % (len(events) + 1)]
                    happen(server)
                    self.happened[name] += 1
                number += 1
                load.mark()
                self.looks.append(look_at(server.pid))
                while time.monotonic() < due:
                    time.sleep(0.1)
            self.report = load.stop()
            server.terminate()
            assert server.wait(60) == 0
            home.disturbed = False

    @staticmethod
    def _take_over(stack: ExitStack, old: Server) -> Server:
        new = Server(old.home, "--takeover", *OPTIONS, port=old.port, wait_open=False, fresh=True)
        stack.enter_context(new)
        new.wait_line(r"took over from process (\d+)", timeout=DEPLOY)
        assert old.wait(60) == 0
        return new

    def check(self) -> None:
        """Assert that no request was lost, and that nothing grows."""
        assert self.report is not None
        self.report.check()
        third = max(1, len(self.looks) // 3)
        first, last = self.looks[:third], self.looks[-third:]
        for name, slack in (("memory", 8 << 20), ("descriptors", 6), ("threads", 2)):
            before = statistics.median(getattr(look, name) for look in first)
            after = statistics.median(getattr(look, name) for look in last)
            assert after <= before * 1.1 + slack, f"{name} has grown from {before} to {after}: {self.looks}"
        assert max(look.zombies for look in self.looks) == 0, self.looks
        assert max(look.processes for look in self.looks) <= 5, self.looks


# -- events -----------------------------------------------------------------------------------------------


def hang_up(server: Server) -> None:
    """Have both workers replaced."""
    start = len(server.log)
    server.send_signal(signal.SIGHUP)
    server.wait_line(DEPLOYED, timeout=DEPLOY, start=start)


def kill_a_starting_worker(server: Server) -> None:
    """Kill the first worker of a deploy before it serves."""
    before, start = set(children_of(server.pid)), len(server.log)
    server.send_signal(signal.SIGHUP)
    wait_for(lambda: bool(set(children_of(server.pid)) - before), DEPLOY)
    with suppress(ProcessLookupError):
        os.kill((set(children_of(server.pid)) - before).pop(), signal.SIGKILL)
    server.home.disturbed = True
    server.wait_line(ENDED, timeout=DEPLOY, start=start)


def deploy_at_a_limit(server: Server) -> None:
    """Ask for a deploy while the system refuses each process and thread."""
    start = len(server.log)
    with no_more_processes([server.pid, *children_of(server.pid)]):
        server.send_signal(signal.SIGHUP)
        server.wait_line(ENDED, timeout=DEPLOY, start=start)


def stop_for_a_second(server: Server) -> None:
    """Stop all processes, as a hypervisor does that moves the machine."""
    stopped = [server.pid, *children_of(server.pid)]
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        if number == signal.SIGSTOP:
            time.sleep(1.0)


@contextmanager
def no_more_processes(pids: list[int]) -> Iterator[None]:
    """Have these processes start no further process or thread, by a pids cgroup at its limit."""
    top = PIDS if PIDS.exists() else UNIFIED
    if top is UNIFIED:
        (top / "cgroup.subtree_control").write_text("+pids")
    group = top / f"graceful-soak-{os.getpid()}"
    before = {pid: top / cgroup_of(pid, top is UNIFIED) for pid in pids}
    group.mkdir()
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text((group / "pids.current").read_text())
        yield
    finally:
        (group / "pids.max").write_text("max")
        back = before[pids[0]]
        for member in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (back / "cgroup.procs").write_text(member)
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def cgroup_of(pid: int, unified: bool) -> str:
    """Returns the cgroup of a process, below the top of its hierarchy, cgroups(7)."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == ("" if unified else "pids"):
            return path.lstrip("/")
    return ""


# -- looking ----------------------------------------------------------------------------------------------


def look_at(pid: int) -> Look:
    """Returns what a supervisor and its workers have at this moment."""
    # A process that has just ended is a zombie for a moment.
    with suppress(AssertionError):
        wait_for(lambda: "Z" not in states_of(pid), 2)
    states = states_of(pid)
    return Look(
        resident(pid),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
        1 + len(states),
        states.count("Z"),
    )


def states_of(pid: int) -> list[str]:
    """Returns the state of each child of a process, proc(5)."""
    return [state for child in children_of(pid) if (state := state_of(child))]
