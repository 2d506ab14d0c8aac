"""The system call in which a stuck thread waits, and how to end just that.

An exception raised in a thread is met when the thread next runs Python.  One that is in a system call meets it when
the call returns, which may be never: so what it waits for has to be ended as well.  That is

* a socket that it reads from, writes to or polls: shut down, which ends every wait for it, and leaves its number; one
  of datagrams gets an error instead, since the resolver of the C library reads the end of one as "look again", and
  does nothing else until its own time is over;
* a child process: it gets SIGTERM, and SIGKILL when that does not help.

Waits that Python's own code makes are in :mod:`graceful.takedown.python_waits`.

A wait may be over when one looks at it, and the descriptor may belong to another file by then.  So everything is
looked at twice: a wait is ended only if the thread has not run since it was found, as the kernel's counters show.
What belongs to the server itself is never touched.

Where the kernel does not tell what a thread waits for (`/proc` is not mounted, or hardened), sockets and other system
calls are left alone; conditions and children of `subprocess` are still found by the thread's Python frames.
"""

from __future__ import annotations

import os
import platform
import signal
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Final, NamedTuple

from attrs import frozen
from twisted.logger import Logger

log = Logger(namespace="graceful")

#: Device and inode: what stays the same for all descriptors of one socket.
Inode = tuple[int, int]
#: Entries of a poll, or descriptors of a select, that are looked at: a thread of an application has a few, and more
#: would hold the reactor thread up.
LONGEST_POLL: Final = 4096
#: The families whose datagrams are answered with an error where no socket is.
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_P_PID: Final = 1  # of waitid(2): the second argument is a process number


@frozen
class WaitingCalls:
    """The numbers of the system calls in which threads wait, on one kind of machine.

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


#: By the machine, as `uname -m` names it.
WAITING_CALLS: Final = {
    "x86_64": WaitingCalls(
        # read write readv writev connect accept sendto recvfrom sendmsg recvmsg accept4
        descriptor=frozenset({0, 1, 19, 20, 42, 43, 44, 45, 46, 47, 288}),
        poll=frozenset({7, 271}),
        select=frozenset({23, 270}),
        epoll=frozenset({232, 281, 441}),
        wait4=61,
        waitid=247,
    ),
    "aarch64": WaitingCalls(
        descriptor=frozenset({63, 64, 65, 66, 203, 202, 206, 207, 211, 212, 242}),
        poll=frozenset({73}),
        select=frozenset({72}),
        epoll=frozenset({22, 441}),
        wait4=260,
        waitid=95,
    ),
}


class BlockedCall(NamedTuple):
    """A thread in a system call, at one moment.  Two that are equal are the same wait.

    :ivar call: number, six arguments, stack pointer and program counter, as `/proc/self/task/N/syscall` has them.
    :ivar native: the thread, as the kernel numbers it.
    :ivar switches: how often the thread has been put to sleep and taken from the processor.
    """

    native: int
    call: tuple[int, ...]
    switches: tuple[str, ...]

    @property
    def place(self) -> tuple[int, ...]:
        """The call, its first arguments and the place in the code: the same each time in a loop of brief waits."""
        return (*self.call[:3], *self.call[-2:])


class KernelWaits:
    """Finds and ends what threads wait for.  Any thread; nothing here waits itself.

    :param own: returns the server's own sockets, which are never touched.
    :param proc: where the kernel tells about this process.
    :param machine: whose system calls.
    """

    def __init__(
        self, own: Callable[[], set[Inode]], proc: str = "/proc/self", machine: str = platform.machine()
    ) -> None:
        self._own = own
        self._known: set[Inode] | None = None
        self._proc = proc
        self._calls = WAITING_CALLS.get(machine)
        self._blind = False
        if self._calls is None:
            self._cannot_see(f"the system calls of {machine} are not known here")

    def begin_round(self) -> None:
        """Forget the server's own sockets, which may be others by now."""
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

    def look(self, native: int) -> BlockedCall | None:
        """Return the system call in which a thread is right now; None if it runs, or if the kernel does not tell.

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
        return BlockedCall(native, (int(call[0]), *(int(value, 16) for value in call[1:])), switches)

    def _read(self, path: str) -> str:
        with open(f"{self._proc}/{path}") as file:
            return file.read()

    def end(self, wait: BlockedCall, hard: bool) -> list[str]:
        """End a wait.

        :param hard: the wait was ended before, to no avail.
        :returns: what was done, in words.
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
                done.append(f"{_end_socket(duplicate)} socket {descriptor}")
            finally:
                os.close(duplicate)
        return done

    def _descriptors(self, wait: BlockedCall) -> list[int]:
        """Return the descriptors that a thread waits for."""
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
    """This process's memory, read so that a wrong address raises an error instead of ending the process."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        return os.pread(self._file, size, address)

    def close(self) -> None:
        os.close(self._file)


def _end_socket(descriptor: int) -> str:
    """End all waits for a socket; the descriptor stays open.

    :returns: what was done to it, in words.
    """
    end = socket.socket(fileno=descriptor)
    try:
        if end.type == socket.SOCK_DGRAM and end.family in _LOOPBACK:
            with suppress(OSError):
                _refuse(end)
                return "raised an error on"
        with suppress(OSError):  # an unconnected one raises an error, but its waits end all the same
            end.shutdown(socket.SHUT_RDWR)
        return "shut down"
    finally:
        end.detach()


def _refuse(end: socket.socket) -> None:
    """Have a socket of datagrams refused: its waits end with ECONNREFUSED.

    :raises OSError: this machine has no loopback address of that family.
    """
    with socket.socket(end.family, socket.SOCK_DGRAM) as deaf:
        deaf.bind((_LOOPBACK[end.family], 0))
        deaf.connect(deaf.getsockname())  # hears itself alone, and keeps its port from any other socket
        end.connect(deaf.getsockname())
        end.send(b"")


def end_child(pid: int, hard: bool) -> str:
    """Send a child SIGTERM, or SIGKILL.

    :param hard: it got SIGTERM before.
    :returns: what was done, in words.
    """
    number = signal.SIGKILL if hard else signal.SIGTERM
    try:
        os.kill(pid, number)
    except OSError as error:
        return f"child {pid} could not be ended: {error.strerror}"
    return f"sent {number.name} to child {pid}"
