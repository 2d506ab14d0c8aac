"""Looks at another thread while it cannot go on: whole, exact, and without keeping anything alive."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.threads import one_pass
from graceful.threads.one_pass import Variable, frames_of, set_exception_at, variables_of

LONG = 10.0
"""Seconds after which a test gives up."""


class Target(Exception):
    """Raised in another thread."""


class OtherThreadTests(SynchronousTestCase):
    """A thread that runs what a test wants."""

    def setUp(self) -> None:
        """Have none yet."""
        self.goes_on, self.begun = threading.Event(), threading.Event()
        self.raised: list[str] = []

    def run_in_thread(self, function: Callable[[], object]) -> int:
        """Returns the thread in which a function runs, once that has begun."""

        def run() -> None:
            try:
                function()
            except Target:
                self.raised.append("raised")

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join, LONG)
        self.addCleanup(self.goes_on.set)
        assert self.begun.wait(LONG)
        return thread.ident or 0

    def waits(self) -> None:
        """Wait for the test in one place."""
        kept = self
        self.begun.set()
        while not self.goes_on.is_set():
            time.sleep(0.01)
        del kept

    def frame_of_waits(self, thread: int) -> Any:
        """The frame of that function, once it is the innermost one."""
        until = time.monotonic() + LONG
        while (frames := frames_of(thread))[0].f_code is not OtherThreadTests.waits.__code__:
            self.assertLess(time.monotonic(), until)
        return frames[0]

    def test_frames_reach_to_the_beginning_of_the_thread(self) -> None:
        """Also those of a generator that yields all the time, which has no way back to its caller then."""
        over = threading.Event()
        self.addCleanup(over.set)
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1e-6)

        def yields() -> Iterator[int]:
            while True:
                yield 1

        def works() -> None:
            generator = yields()
            self.begun.set()
            while not over.is_set():
                next(generator)

        thread = self.run_in_thread(works)
        outermost = {frames_of(thread)[-1].f_code.co_name for _ in range(5000)}
        over.set()
        self.assertEqual(outermost, {"_bootstrap"})

    def test_a_thread_that_has_ended_has_no_frames(self) -> None:
        """As one that never was."""
        self.assertEqual(frames_of(1), [])

    def test_the_exception_is_set_where_the_thread_was_seen(self) -> None:
        """In the same frame, at the same instruction."""
        thread = self.run_in_thread(self.waits)
        frame = self.frame_of_waits(thread)
        self.assertFalse(set_exception_at(thread, sys._getframe(), frame.f_lasti, Target))
        self.assertFalse(set_exception_at(thread, frame, -2, Target))
        self.assertFalse(set_exception_at(1, frame, frame.f_lasti, Target))
        self.assertEqual(self.raised, [])
        until = time.monotonic() + LONG
        while not set_exception_at(thread, self.frame_of_waits(thread), frame.f_lasti, Target):
            self.assertLess(time.monotonic(), until)
        while not self.raised:
            self.assertLess(time.monotonic(), until)

    def test_a_variable_must_still_refer_to_its_value(self) -> None:
        """A function that serves one request after another stays in one frame."""
        thread = self.run_in_thread(self.waits)
        frame = self.frame_of_waits(thread)
        other = Variable(frame, "kept", object())
        none = Variable(frame, "unknown", self)
        for variable in (other, none):
            self.assertFalse(set_exception_at(thread, frame, frame.f_lasti, Target, variable))
        until = time.monotonic() + LONG
        own = Variable(frame, "kept", self)
        while not set_exception_at(thread, self.frame_of_waits(thread), frame.f_lasti, Target, own):
            self.assertLess(time.monotonic(), until)

    def test_a_look_keeps_nothing_alive(self) -> None:
        """What a function has forgotten is gone, though its variables were looked at before."""

        class Big:
            pass

        found: list[weakref.ref[Big]] = []
        looked, forgotten = threading.Event(), threading.Event()

        def function() -> None:
            big: Big | None = Big()
            found.append(weakref.ref(big))  # type: ignore[arg-type]
            self.begun.set()
            looked.wait(LONG)
            big = None
            forgotten.set()
            self.goes_on.wait(LONG)

        thread = self.run_in_thread(function)
        frame = next(frame for frame in frames_of(thread) if frame.f_code is function.__code__)
        seen = variables_of(frame)
        self.assertIn("big", [variable.name for variable in seen])
        big = next(variable for variable in seen if variable.name == "big")
        set_exception_at(thread, frame, -2, Target, big)
        del seen, big
        looked.set()
        forgotten.wait(LONG)
        self.assertIsNone(found[0]())

    def test_no_garbage_is_collected_in_a_pass(self) -> None:
        """A finalizer could let the thread go on; afterwards the collector is as the application has set it."""

        def is_enabled(ignored: object) -> bool:
            return gc.isenabled()

        self.assertEqual(one_pass._undisturbed(is_enabled, None), sys.version_info >= (3, 12))
        self.assertTrue(gc.isenabled())
        gc.disable()
        self.addCleanup(gc.enable)
        self.assertFalse(one_pass._undisturbed(is_enabled, None))
        self.assertFalse(gc.isenabled())
