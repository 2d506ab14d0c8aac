"""A forked child is relieved of what is the server's, and its parent of nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.forked_children import ForkedChildren
from graceful.process.signals import Signals


class ForkedChildrenTests(SynchronousTestCase):
    """Forks of this process, with the hooks called as Python does."""

    def setUp(self) -> None:
        """Install handlers of the server's, and one of the application's."""
        for number in (*range(1, 4), signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGWINCH):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        Signals(None, lambda *ignored: None).install()  # type: ignore[arg-type]
        signal.signal(signal.SIGWINCH, lambda *ignored: None)
        self.hooks: dict[str, Callable[[], object]] = {}
        self.readable, self.writable = os.pipe()
        self.addCleanup(os.close, self.readable)
        self.addCleanup(os.close, self.writable)
        ForkedChildren(lambda: [self.writable, -1], self.register).watch()

    def register(self, **hooks: Any) -> None:
        """As `os.register_at_fork`, but not for ever."""
        self.hooks = hooks

    def in_child(self, ask: Callable[[], bool]) -> bool:
        """Returns the answer of a child."""
        self.hooks["before"]()
        pid = os.fork()
        if pid == 0:
            answer = False
            try:
                self.hooks["after_in_child"]()
                answer = ask()
            finally:
                os._exit(not answer)
        self.hooks["after_in_parent"]()
        return os.waitpid(pid, 0)[1] == 0

    def test_signals_have_their_default_actions_in_the_child(self) -> None:
        """The server's handlers are gone, the application's stays; in the parent all are as before."""
        before = {number: signal.getsignal(number) for number in signal.valid_signals()}

        def ask() -> bool:
            ours = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
            return (
                all(signal.getsignal(number) is signal.SIG_DFL for number in ours)
                and signal.getsignal(signal.SIGINT) is signal.default_int_handler
                and signal.getsignal(signal.SIGWINCH) is before[signal.SIGWINCH]
                and signal.set_wakeup_fd(-1) == -1
            )

        self.assertTrue(self.in_child(ask))
        self.assertEqual({number: signal.getsignal(number) for number in signal.valid_signals()}, before)

    def test_no_signal_stays_blocked(self) -> None:
        """The signals that wait for the fork come behind it, in the child and in the parent."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.assertTrue(self.in_child(lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask))
        self.assertEqual(signal.pthread_sigmask(signal.SIG_BLOCK, []), mask)

    def test_the_servers_descriptors_lead_nowhere_in_the_child(self) -> None:
        """What is written there reaches nothing; in the parent they are as before."""
        self.assertTrue(self.in_child(lambda: os.write(self.writable, b"child") == 5))
        os.write(self.writable, b"parent")
        self.assertEqual(os.read(self.readable, 100), b"parent")
