"""What threads wait for in the kernel: found in real threads, and ended only if they still wait for that."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from twisted.logger import capturedLogs, formatEvent

from graceful.takedown import kernel_waits
from graceful.takedown.kernel_waits import WAITING_CALLS, BlockedCall, Inode, KernelWaits
from graceful.takedown.python_waits import in_condition
from tests.apps import silent_resolver
from tests.fast.takedown.waiting_threads import SOON, ThreadCase
from tests.support.waiting import wait_for


class KernelTests(ThreadCase):
    """System calls."""

    def setUp(self) -> None:
        """Nothing is our own."""
        self.own: set[Inode] = set()
        self.waits = KernelWaits(lambda: self.own)

    def asleep(self, thread: threading.Thread) -> BlockedCall:
        """Return what a thread waits for, as soon as it does."""
        assert thread.native_id is not None
        found: list[BlockedCall | None] = [None, None]

        def same() -> bool:
            found[0], found[1] = found[1], self.waits.look(thread.native_id or 0)
            return found[0] is not None and found[0] == found[1] and in_condition(thread.ident or 0) is None

        wait_for(same)
        assert found[1] is not None
        return found[1]

    def ends(self, function: Callable[[], Any]) -> list[str]:
        """Check that the wait can be ended; what was done."""
        thread = self.waiting(function)
        done = self.waits.end(self.asleep(thread), False)
        thread.join(SOON)
        self.assertFalse(thread.is_alive(), done)
        return done

    def test_shuts_down_waited_for_socket(self) -> None:
        """A socket that is waited for in any way is shut down, and stays open."""
        for wait in (
            lambda mine: mine.recv(1),
            lambda mine: select.select([mine], [], []),
            lambda mine: _poll(mine),
            lambda mine: _epoll(mine),
            lambda mine: mine.sendall(b"x" * (1 << 24)),
            lambda mine: os.read(mine.fileno(), 1),
        ):
            mine, _ = self.pair()
            number = mine.fileno()
            self.assertEqual(self.ends(lambda mine=mine, wait=wait: wait(mine)), [f"shut down socket {number}"])
            self.assertEqual(mine.fileno(), number)

    def test_shuts_down_a_listening_socket(self) -> None:
        """A thread that accepts connections goes on when the listening socket is shut down."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.assertEqual(self.ends(listener.accept), [f"shut down socket {listener.fileno()}"])

    def test_a_socket_of_datagrams_gets_an_error(self) -> None:
        """A wait for datagrams ends with an error, connected or not, and the socket stays open."""
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            for connected in (False, True):
                with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
                    datagrams.bind((address, 0))
                    if connected:
                        datagrams.connect((address, 9))

                    def wait(datagrams: socket.socket = datagrams) -> None:
                        with self.assertRaises(ConnectionRefusedError):
                            datagrams.recv(1)

                    self.assertEqual(self.ends(wait), [f"raised an error on socket {datagrams.fileno()}"])
                    self.assertGreater(datagrams.fileno(), 0)
        self.assertEqual(self.errors, [])

    def test_a_socket_of_datagrams_without_a_loopback_address_is_shut_down(self) -> None:
        """Where no error can be had (a Unix socket, or a machine without that family), it is shut down."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with mine, other:
            self.assertEqual(self.ends(lambda: mine.recv(1)), [f"shut down socket {mine.fileno()}"])
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            mock.patch.dict(kernel_waits._LOOPBACK, {socket.AF_INET: "192.0.2.1"}),
        ):
            datagrams.bind(("127.0.0.1", 0))
            self.assertEqual(self.ends(lambda: datagrams.recv(1)), [f"shut down socket {datagrams.fileno()}"])

    def test_a_name_that_is_looked_up_is_given_up(self) -> None:
        """The C library gives a name up at an error; the end of its socket would have it look again, in a loop."""
        thread = self.waiting(silent_resolver.look_up)

        def ended() -> bool:
            if wait := self.waits.look(thread.native_id or 0):
                self.waits.end(wait, False)
            return not thread.is_alive()

        wait_for(ended)
        self.assertIsInstance(self.errors[0], socket.gaierror)

    def test_sends_child_sigterm_then_sigkill(self) -> None:
        """A child process that is waited for gets SIGTERM, and SIGKILL the next time."""
        for hard, name in ((False, "SIGTERM"), (True, "SIGKILL")):
            pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)
            thread = self.waiting(lambda pid=pid: os.waitpid(pid, 0))
            self.assertEqual(self.waits.end(self.asleep(thread), hard), [f"sent {name} to child {pid}"])
            thread.join(SOON)
            self.assertFalse(thread.is_alive())

    def test_leaves_wait_for_any_child(self) -> None:
        """A wait for any child goes on: it is unknown whose the children are."""
        pid = os.posix_spawnp("sleep", ["sleep", "1000"], os.environ)

        def wait_for_any() -> None:
            while os.waitpid(-1, 0)[0] != pid:
                pass  # another test has left it behind

        thread = self.waiting(wait_for_any)
        self.assertEqual(self.waits.end(self.asleep(thread), True), [])
        self.assertTrue(thread.is_alive())
        os.kill(pid, 9)
        thread.join(SOON)

    def test_never_touches_own_sockets(self) -> None:
        """The server's own sockets are never touched, under any number."""
        mine, other = self.pair()
        about = os.fstat(mine.fileno())
        self.own.add((about.st_dev, about.st_ino))
        self.waits.begin_round()
        again = mine.dup()
        self.addCleanup(again.close)
        for one in (mine, again):
            thread = self.waiting(lambda one=one: one.recv(1))
            self.assertEqual(self.waits.end(self.asleep(thread), True), [])
            self.assertTrue(thread.is_alive())
            other.send(b"x")
            thread.join(SOON)

    def test_leaves_thread_that_has_run(self) -> None:
        """A thread that has run since it was looked at is left alone, though it waits for the same again."""
        mine, other = self.pair()
        buffer = bytearray(1)
        thread = self.waiting(lambda: [mine.recv_into(buffer) for _ in range(3)])
        first = self.asleep(thread)
        other.send(b"w")
        wait_for(lambda: self.waits.look(first.native) not in (None, first))
        wait = self.asleep(thread)  # the first call may be made at another place of the stack (CPython 3.15)
        other.send(b"x")
        wait_for(lambda: self.waits.look(wait.native) not in (None, wait))
        later = self.asleep(thread)
        self.assertEqual(later.call, wait.call)
        self.assertEqual(self.waits.end(wait, True), [])
        other.send(b"y")
        thread.join(SOON)
        self.assertEqual(self.errors, [])

    def test_leaves_pipes_locks_and_sleep(self) -> None:
        """Pipes, locks and sleep are left alone."""
        reading, writing = os.pipe()
        thread = self.waiting(lambda: os.read(reading, 1))
        self.assertEqual(self.waits.end(self.asleep(thread), True), [])
        os.write(writing, b"x")
        thread.join(SOON)
        os.close(reading)
        os.close(writing)

    def test_ended_thread_waits_for_nothing(self) -> None:
        """A thread that is gone waits for nothing."""
        self.assertIsNone(self.waits.look(1 << 30))

    def test_wrong_address_is_harmless(self) -> None:
        """An invalid address does no harm."""
        call = next(iter(WAITING_CALLS["x86_64"].poll))
        waits = KernelWaits(set, machine="x86_64")
        self.assertEqual(waits.end(BlockedCall(1, (call, 16, 1, 0, 0, 0, 0, 0, 0), ()), False), [])

    def test_logs_once_that_it_cannot_see(self) -> None:
        """Where the kernel does not tell, it is said once, and nothing is touched."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        blind = Path(directory.name)
        task = blind / "task" / "5"
        task.mkdir(parents=True)
        (task / "syscall").mkdir()  # which cannot be read
        for waits, why in (
            (lambda: KernelWaits(set, proc="/nonexistent"), "there is no /nonexistent"),
            (lambda: KernelWaits(set, machine="pdp11"), "pdp11"),
            (lambda: KernelWaits(set, proc=str(blind)), "Is a directory"),
        ):
            with capturedLogs() as events:
                one = waits()
                self.assertEqual([one.look(5), one.look(5)], [None, None])
            (line,) = [formatEvent(event) for event in events]
            self.assertIn("cannot be seen", line)
            self.assertIn(why, line)


def _poll(mine: socket.socket) -> None:
    poller = select.poll()
    poller.register(mine, select.POLLIN)
    poller.poll()


def _epoll(mine: socket.socket) -> None:
    with select.epoll() as poller:
        poller.register(mine, select.EPOLLIN)
        poller.poll()
