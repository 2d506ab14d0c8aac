"""What a stuck thread waits for, and how to end just that.

An exception raised in a thread is met when the thread next runs Python.  One that is in a system call meets it when
the call returns, which may be never: so what it waits for has to be ended as well.  That is

* a socket that it reads from, writes to or polls: shut down, which ends every wait for it, and leaves its number;
* a `threading.Condition`, which is what `Event`, `Queue`, `Semaphore` and `Future` are made of: the wait's own
  private lock is released;
* a child process: it gets SIGTERM, and SIGKILL when that does not help.

A wait may be over in the moment in which one looks at it, and the descriptor be somebody else's then.  So everything
is looked at twice: what is ended is what the thread was waiting for, *without having run in between*, as the kernel
counts it.  And what belongs to the server itself is never touched.

Where the kernel does not tell what a thread waits for (`/proc` is not mounted, or hardened), sockets and other system
calls are left alone; conditions and children of `subprocess` are found all the same, by the thread's Python frames.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from types import FrameType
from typing import Any, Final, NamedTuple

from attrs import frozen
from twisted.logger import Logger

log = Logger(namespace="graceful")


Inode = tuple[int, int]
LONGEST_POLL: Final = 4096
_P_PID: Final = 1
_WAITING: Final = threading.Condition.wait.__code__
_FOR_CHILD: Final = frozenset(
    getattr(subprocess.Popen, name).__code__
    for name in ("communicate", "_communicate", "wait", "_wait", "_try_wait")
    if hasattr(subprocess.Popen, name)
)
_DELICATE: Final = frozenset(
    function.__code__.co_filename for function in (threading.Thread.start, logging.getLogger, importlib.import_module)
) | {"<frozen importlib._bootstrap>"}
_PLAIN_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))


@frozen
class Calls:
    """Numbers of the system calls in which threads wait.

    :ivar descriptor: the first argument is the descriptor.
    :ivar poll: an array of `struct pollfd`, and its length.
    :ivar select: how many descriptors, and three bit sets.
    :ivar epoll: the first argument is the epoll's descriptor.
    :ivar wait4: the first argument is a child's process number.
    :ivar waitid: the first argument tells what the second one is.
    """

    descriptor: frozenset[int]
    poll: frozenset[int]
    select: frozenset[int]
    epoll: frozenset[int]
    wait4: int
    waitid: int


#: By what `uname -m` says.
CALLS: Final = {
    "x86_64": Calls(
        # read write readv writev connect accept sendto recvfrom sendmsg recvmsg accept4
        descriptor=frozenset({0, 1, 19, 20, 42, 43, 44, 45, 46, 47, 288}),
        poll=frozenset({7, 271}),
        select=frozenset({23, 270}),
        epoll=frozenset({232, 281, 441}),
        wait4=61,
        waitid=247,
    ),
    "aarch64": Calls(
        descriptor=frozenset({63, 64, 65, 66, 203, 202, 206, 207, 211, 212, 242}),
        poll=frozenset({73}),
        select=frozenset({72}),
        epoll=frozenset({22, 441}),
        wait4=260,
        waitid=95,
    ),
}


class Wait(NamedTuple):
    """A thread in a system call, at one moment.  Two that are equal are one and the same wait.

    :ivar call: number, six arguments, stack pointer and program counter, as `/proc/self/task/N/syscall` has them.
    :ivar switches: how often the thread has been put to sleep and taken from the processor.
    """

    native: int
    call: tuple[int, ...]
    switches: tuple[str, ...]

    @property
    def place(self) -> tuple[int, ...]:
        """The call, what it is about, and from where it is made: the same each time in a loop that waits briefly."""
        return (*self.call[:3], *self.call[-2:])


class Waits:
    """Finds and ends what threads wait for.  Any thread; nothing here waits itself.

    :param own: the server's own sockets, by device and inode: they are never touched.
    :param proc: where the kernel tells about this process.
    :param machine: whose system calls.
    """

    def __init__(
        self, own: Callable[[], set[Inode]], proc: str = "/proc/self", machine: str = platform.machine()
    ) -> None:
        self._own = own
        self._known: set[Inode] | None = None
        self._proc = proc
        self._calls = CALLS.get(machine)
        self._blind = False
        if self._calls is None:
            self._cannot_see(f"the system calls of {machine} are not known here")

    def again(self) -> None:
        """A round begins: the server may have other sockets by now."""
        self._known = None

    def _cannot_see(self, why: object) -> None:
        if not self._blind:
            self._blind = True
            log.warn(
                "what threads wait for in the kernel cannot be seen ({why}): a takedown ends conditions and children"
                " of subprocess, but no sockets",
                why=why,
            )

    # -- in the kernel ------------------------------------------------------------------------------------

    def look(self, native: int) -> Wait | None:
        """The system call in which a thread is right now; None if it runs, or if the kernel does not tell.

        :param native: the thread's number, as `threading.get_native_id()` has it.
        """
        if self._calls is None:
            return None
        try:
            call = self._read(f"task/{native}/syscall").split()
            if len(call) < 9:
                return None  # "running", or "-1" and two pointers: on a fault, not in a call
            status = self._read(f"task/{native}/status").splitlines()
        except FileNotFoundError:
            if not os.path.exists(self._proc):
                self._cannot_see(f"there is no {self._proc}")
            return None
        except OSError as error:
            if error.errno is not None and os.path.exists(f"{self._proc}/task/{native}"):
                self._cannot_see(error)
            return None
        switches = tuple(line for line in status if "ctxt_switches" in line)
        return Wait(native, (int(call[0]), *(int(value, 16) for value in call[1:])), switches)

    def _read(self, path: str) -> str:
        with open(f"{self._proc}/{path}") as file:
            return file.read()

    def end(self, wait: Wait, hard: bool) -> list[str]:
        """End a wait; returned is what was done, in words.

        :param hard: it was tried before.
        """
        assert self._calls is not None
        number, first, second = wait.call[:3]
        if number in (self._calls.wait4, self._calls.waitid):
            pid = first if number == self._calls.wait4 else second if first == _P_PID else 0
            # 0 and -1 are for any child: we do not know whose it is.
            return [end_child(pid, hard)] if 0 < pid < 1 << 31 and self.look(wait.native) == wait else []
        done = []
        for descriptor in self._descriptors(wait):
            try:
                duplicate = os.dup(descriptor)
            except OSError:
                continue
            try:
                about = os.fstat(duplicate)
                if not stat.S_ISSOCK(about.st_mode):
                    continue
                if self._known is None:
                    self._known = self._own()
                if (about.st_dev, about.st_ino) in self._known or self.look(wait.native) != wait:
                    continue
                if _shut(duplicate):
                    done.append(f"shut down socket {descriptor}")
            finally:
                os.close(duplicate)
        return done

    def _descriptors(self, wait: Wait) -> list[int]:
        """What a thread waits for in the kernel."""
        calls = self._calls
        assert calls is not None
        number, first, second, third, fourth = wait.call[:5]
        try:
            if number in calls.descriptor:
                return [first]
            if number in calls.poll:
                raw = self._memory(first, 8 * min(second, LONGEST_POLL))
                return [descriptor for descriptor, _, _ in struct.iter_unpack("iHH", raw) if descriptor >= 0]
            if number in calls.select:
                size = (min(first, LONGEST_POLL) + 63) // 64 * 8
                sets = [self._memory(address, size) for address in (second, third, fourth) if address]
                return [n for n in range(first) if any(bits[n // 8] >> n % 8 & 1 for bits in sets)]
            if number in calls.epoll:
                lines = self._read(f"fdinfo/{first}").splitlines()
                return [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
        except (OSError, IndexError, struct.error, OverflowError):
            pass  # it has moved on
        return []

    def _memory(self, address: int, size: int) -> bytes:
        with closing(_Memory(f"{self._proc}/mem")) as memory:
            return memory.read(address, size)


class _Memory:
    """Our own memory, read so that a wrong address is an error and not the end."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        return os.pread(self._file, size, address)

    def close(self) -> None:
        os.close(self._file)


def _shut(descriptor: int) -> bool:
    """Shut a socket down in both directions; the descriptor stays open.

    An unconnected one says that it is not, and wakes who waits for it all the same.
    """
    end = socket.socket(fileno=descriptor)
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    finally:
        end.detach()
    return True


# -- in Python --------------------------------------------------------------------------------------------


def _frames(thread: int) -> Iterator[FrameType]:
    """The frames of a thread, innermost first."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back


def delicate(thread: int) -> bool:
    """Whether a thread is where no exception may be raised: in code that takes the locks of the whole process.

    `Condition.__enter__`, a handler of `logging` and the import system take a lock by a plain call, before the block
    that releases it has begun.  An exception that comes while they wait for it would leave it locked for ever.
    """
    frame = next(_frames(thread), None)
    return frame is not None and frame.f_code.co_filename in _DELICATE and frame.f_code is not _WAITING


def in_condition(thread: int) -> tuple[Any, Any] | None:
    """The `Condition` that a thread waits for, and the private lock of its wait; None if it does not."""
    frame = next(_frames(thread), None)
    if frame is None or frame.f_code is not _WAITING:
        return None
    found = frame.f_locals
    return (found.get("self"), found["waiter"]) if "waiter" in found else None


def leave_condition(condition: Any, waiter: Any, fire: Callable[[], bool]) -> bool:
    """End a thread's wait for a `Condition`, and have the exception raised that it meets then.

    It is taken off the list of those who wait, under the condition's own lock: a `notify` that is meant for one of
    them must reach one that still lives.  False: not now; it was notified already, or somebody holds the lock.
    """
    lock: Any = getattr(condition, "_lock", None)
    if type(lock) not in _PLAIN_LOCKS or not lock.acquire(blocking=False):
        return False
    try:
        if waiter not in condition._waiters or not fire():
            return False
        condition._waiters.remove(waiter)
        waiter.release()
        return True
    finally:
        lock.release()


def child_of(thread: int) -> subprocess.Popen[Any] | None:
    """The child process for which a thread waits in `subprocess`; None if it does not."""
    for frame in _frames(thread):
        if frame.f_code in _FOR_CHILD:
            process = frame.f_locals.get("self")
            if isinstance(process, subprocess.Popen) and process.returncode is None and process.pid:
                return process
    return None


def end_child(pid: int, hard: bool) -> str:
    """Have a child end; returned is what was done, in words.

    :param hard: it was asked before.
    """
    number = signal.SIGKILL if hard else signal.SIGTERM
    try:
        os.kill(pid, number)
    except OSError as error:
        return f"child {pid} could not be ended: {error.strerror}"
    return f"sent {number.name} to child {pid}"
