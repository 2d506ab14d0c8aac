"""What a child that the application forks is relieved of: what belongs to the server alone.

`os.fork` copies the whole process, and `multiprocessing` uses it.  The copy would drain at SIGTERM, in a reactor that
does not run there: it could not be terminated, and a `multiprocessing.Pool` would wait for it for ever.  When the
server has closed its listening sockets, the copy would hold them open, so that clients connect and are never
answered; and clients' connections, which then do not end.  And each signal to the copy would wake the reactor.

A child that executes another program needs nothing of this: all descriptors are closed then, and handlers are reset.
The kernel's timers are not inherited at all.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import get_ident
from typing import Any, Final

#: The packages whose signal handlers mean the server.
_SERVER: Final = ("graceful", "twisted")


class ForkedChildren:
    """Relieves each child that this process forks from now on.

    :param descriptors: returns the descriptors that are the server's alone.
    :param register: registers a function to be called in each child, :func:`os.register_at_fork`.
    """

    def __init__(
        self,
        descriptors: Callable[[], Iterable[int]],
        register: Callable[..., object] = os.register_at_fork,
    ) -> None:
        self._descriptors = descriptors
        self._register = register

        self._masks: dict[int, set[int]] = {}  # of each thread that forks just now, as it was before

    def watch(self) -> None:
        """Begin.  It cannot be ended, and need not be: a server owns its process to the end."""
        self._register(before=self._block, after_in_parent=self._unblock, after_in_child=self.relieve)

    def _block(self) -> None:
        """Have signals to the child wait until it is relieved: the server's handler would swallow one."""
        self._masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def _unblock(self) -> None:
        mask = self._masks.pop(get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def relieve(self) -> None:
        """Let go of what is the server's.  In the child, whose only thread this is."""
        try:
            self._let_go()
        finally:
            self._unblock()
            self._masks.clear()
        # Last: KeyboardInterrupt that is raised in a hook ends nothing, since Python ignores it there.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _let_go(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            if _is_the_servers(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        # Not closed but replaced: an object of the server still has the number, and would close it once more when
        # something of the child's has it.
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in self._descriptors():
            if descriptor >= 0:
                with suppress(OSError):
                    os.dup2(nowhere, descriptor, inheritable=False)
        os.close(nowhere)


def _is_the_servers(handler: Any) -> bool:
    """Whether a signal handler is the server's, and not the application's own or the system's."""
    if handler is signal.default_int_handler or isinstance(handler, signal.Handlers):
        return False
    module = getattr(handler, "__module__", None) or ""
    return module.partition(".")[0] in _SERVER
