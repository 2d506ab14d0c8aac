"""The reactor that looks into the hub first: both have their turn, whichever is ready."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IDelayedCall
from twisted.trial.unittest import SynchronousTestCase

from graceful.web.hub import BATCH, Hub
from graceful.web.hub_reactor import HubReactor
from tests.fast.web.test_hub import Reader


class Outer:
    """A hub that notes how it is polled."""

    def __init__(self) -> None:
        self.inner = -1
        self.turn = False
        self.polled: list[float] = []

    def enclose(self, inner: int) -> None:
        """Note what it is to watch."""
        self.inner = inner

    def poll(self, timeout: float) -> bool:
        """Note for how long."""
        self.polled.append(timeout)
        return self.turn


class Refusing(Outer):
    """A hub whose kernel has no room."""

    def enclose(self, inner: int) -> None:
        """Refuse."""
        raise OSError(28, os.strerror(28))


class Pipe(FileDescriptor):
    """A reader of the reactor's own, which is always ready."""

    def __init__(self, test: SynchronousTestCase, reactor: HubReactor) -> None:
        FileDescriptor.__init__(self, reactor)
        self.reading, writing = os.pipe()
        test.addCleanup(os.close, self.reading)
        test.addCleanup(os.close, writing)
        os.write(writing, b"x" * 100)
        self.calls = 0

    def fileno(self) -> int:
        """Its descriptor."""
        return self.reading

    def doRead(self) -> None:
        """Count."""
        self.calls += 1


class Case(SynchronousTestCase):
    """A reactor that is not installed."""

    def setUp(self) -> None:
        """Make it, and close what it has when the test is over."""
        self.reactor = HubReactor()
        self.pipe = Pipe(self, self.reactor)
        self.reactor.addReader(self.pipe)
        self.addCleanup(self.close)

    def close(self) -> None:
        """Close the epoll and the waker."""
        self.reactor.removeReader(self.pipe)
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


class AttachTests(Case):
    """A hub is attached, polls, and is detached."""

    def test_an_attached_hub_is_polled_in_place_of_the_reactor(self) -> None:
        """Its epoll has the reactor's in it, and the reactor is looked into only when its turn has come."""
        hub = Outer()
        self.assertTrue(self.reactor.attach(hub))
        self.assertEqual(hub.inner, self.reactor._poller.fileno())
        self.reactor.doIteration(0.25)
        self.reactor.doIteration(None)
        self.assertEqual(hub.polled, [0.25, -1.0])
        self.assertEqual(self.pipe.calls, 0)
        hub.turn = True
        self.reactor.doIteration(0.25)
        self.assertEqual(self.pipe.calls, 1)

    def test_a_second_hub_is_not_attached(self) -> None:
        """One epoll is the outer one; and only that hub ends it."""
        hub, second = Outer(), Outer()
        self.reactor.attach(hub)
        self.assertFalse(self.reactor.attach(second))
        self.assertFalse(self.reactor.detach(second))
        self.reactor.doIteration(0)
        self.assertEqual((len(hub.polled), second.polled), (1, []))

    def test_without_a_hub_it_is_the_usual_reactor(self) -> None:
        """Before one is attached, and behind that."""
        hub = Outer()
        self.reactor.doIteration(0)
        self.reactor.attach(hub)
        self.assertTrue(self.reactor.detach(hub))
        self.reactor.doIteration(0)
        self.assertEqual((self.pipe.calls, hub.polled), (2, []))

    def test_a_hub_that_the_kernel_refuses_is_not_attached(self) -> None:
        """The error ends the start; the reactor goes on as it was."""
        with self.assertRaises(OSError):
            self.reactor.attach(Refusing())
        self.reactor.doIteration(0)
        self.assertEqual(self.pipe.calls, 1)


class Batches(Outer):
    """A hub that does something in each of its batches, and says in the last one that it is the reactor's turn."""

    def __init__(self, *batches: Callable[[], object]) -> None:
        super().__init__()
        self._batches = list(batches)

    def poll(self, timeout: float) -> bool:
        """Work through the next batch."""
        self.polled.append(timeout)
        self._batches.pop(0)()
        return not self._batches


class MainLoopTests(Case):
    """While only the hub has something to do, Twisted's main loop makes no round."""

    def setUp(self) -> None:
        """Run, with a clock that stands still."""
        super().setUp()
        self.now = 0.0
        self.patch(self.reactor, "seconds", lambda: self.now)
        self.reactor.running, self.reactor._stopped = True, False
        self.calls: list[str] = []

    def detach(self) -> None:
        """Detach the hub that polls."""
        hub = self.reactor._hub
        assert hub is not None
        self.assertTrue(self.reactor.detach(hub))

    def run_batches(self, *batches: Callable[[], object]) -> Batches:
        """Have these batches worked through in one call of the main loop."""
        hub = Batches(*batches)
        self.reactor.attach(hub)
        self.reactor.doIteration(self.reactor.timeout())
        return hub

    def test_batches_follow_each_other_until_it_is_the_reactors_turn(self) -> None:
        """Each waits for as long as the first one."""
        hub = self.run_batches(*[lambda: None] * 3)
        self.assertEqual((hub.polled, self.pipe.calls), ([-1.0] * 3, 1))

    def test_a_timer_that_a_batch_sets_bounds_the_next_wait(self) -> None:
        """So do one that is moved forward, and the time that passes."""
        later = self.reactor.callLater(9, self.calls.append, "later")
        self.addCleanup(later.cancel)

        def pass_time() -> None:
            self.now += 1

        sooner: list[IDelayedCall] = []
        hub = self.run_batches(
            lambda: sooner.append(self.reactor.callLater(5, self.calls.append, "sooner")),
            lambda: sooner[0].reset(3),
            pass_time,
            lambda: None,
        )
        sooner[0].cancel()
        self.assertEqual(hub.polled, [9, 5, 3, 2])

    def test_a_timer_that_is_due_ends_the_batches(self) -> None:
        """The main loop calls it."""
        hub = self.run_batches(lambda: self.reactor.callLater(0, self.calls.append, "due"), lambda: None)
        self.assertEqual((len(hub.polled), self.pipe.calls), (1, 0))
        self.reactor.runUntilCurrent()
        self.assertEqual(self.calls, ["due"])

    def test_a_stop_ends_the_batches(self) -> None:
        """The main loop has to see it."""
        hub = self.run_batches(self.reactor.stop, lambda: None)
        self.assertEqual(len(hub.polled), 1)

    def test_a_crash_ends_the_batches(self) -> None:
        """As Twisted calls an end without a shutdown."""
        hub = self.run_batches(self.reactor.crash, lambda: None)
        self.assertEqual(len(hub.polled), 1)

    def test_a_hub_that_is_detached_in_a_batch_polls_no_more(self) -> None:
        """Its epoll is closed behind that."""
        hub = self.run_batches(self.detach, lambda: None)
        self.assertEqual(len(hub.polled), 1)


class HubTests(Case):
    """Real epolls, one in the other."""

    def hub(self, outer: bool) -> Hub:
        """A hub that has started."""
        hub = Hub(self.reactor)
        hub.start(outer)
        self.addCleanup(hub.stop)
        return hub

    def connect(self, hub: Hub, count: int) -> list[Reader]:
        """Connections of a hub that are always ready."""
        readers = [Reader(self) for _ in range(count)]
        for reader in readers:
            hub.add(reader)
            reader.client.send(b"x" * 100)
        return readers

    def test_both_have_their_turn(self) -> None:
        """A connection is read, and what the reactor watches, too."""
        (reader,) = self.connect(self.hub(True), 1)
        for _ in range(3):
            self.reactor.doIteration(0)
        self.assertEqual((len(reader.read), self.pipe.calls), (3, 3))

    def test_connections_that_are_always_ready_leave_the_reactor_its_turn(self) -> None:
        """However many they are."""
        readers = self.connect(self.hub(True), 3 * BATCH)
        for _ in range(3):
            self.reactor.doIteration(0)
        self.assertEqual(self.pipe.calls, 3)
        self.assertGreater(sum(len(reader.read) for reader in readers), 2 * BATCH)

    def test_a_quiet_reactor_is_not_looked_into(self) -> None:
        """While nothing of its own is ready, a batch costs one system call."""
        (reader,) = self.connect(self.hub(True), 1)
        self.reactor.removeReader(self.pipe)
        polled: list[object] = []
        self.patch(HubReactor.__mro__[1], "doPoll", lambda reactor, timeout: polled.append(timeout))
        self.reactor.doIteration(0)
        self.assertEqual((len(reader.read), polled), (1, []))

    def test_another_hub_is_a_reader(self) -> None:
        """One that is not to be the outer one, and one that comes too late for that."""
        for outer in (False, True):
            self.hub(True)
            (reader,) = self.connect(self.hub(outer), 1)
            self.reactor.doIteration(0)
            self.assertEqual(len(reader.read), 1)

    def test_a_hub_that_has_stopped_leaves_the_reactor_to_itself(self) -> None:
        """Also if it is a connection that stops it."""
        hub = Hub(self.reactor)
        hub.start(outer=True)
        (reader,) = self.connect(hub, 1)
        self.patch(reader, "readable", hub.stop)
        self.reactor.doIteration(0)
        self.reactor.doIteration(0)
        self.assertEqual(self.pipe.calls, 2)

    def test_it_waits_no_longer_than_it_may(self) -> None:
        """With nothing ready the time-out ends the wait."""
        self.hub(True)
        self.reactor.removeReader(self.pipe)
        self.reactor.doIteration(0.001)
        self.assertEqual(self.pipe.calls, 0)


class InstallTests(SynchronousTestCase):
    """It is installed where nobody has chosen."""

    def run_code(self, code: str) -> str:
        """What a program prints, in an interpreter of its own."""
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    def test_it_is_installed_unless_another_one_is(self) -> None:
        """A reactor that somebody has chosen stays."""
        code = (
            "{}; from graceful.web.hub_reactor import install_unless_chosen; install_unless_chosen(); "
            "from twisted.internet import reactor; print(type(reactor).__name__)"
        )
        self.assertEqual(self.run_code(code.format("pass")), "HubReactor")
        chosen = "from twisted.internet import pollreactor; pollreactor.install()"
        self.assertEqual(self.run_code(code.format(chosen)), "PollReactor")
