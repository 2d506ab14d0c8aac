"""A server on its way out, followed to its end.

A server that drains ends by its own deadline, which it tells, and which an operator may move.  So the deploy asks
again and again for its latest exit, and sends kill -9 only when that has passed by a margin: to a process whose
interpreter, watchdog and kernel timer are all stuck, or one that is stopped (SIGSTOP).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from graceful.deploy.host import ProcessError, ServerHandle
from graceful.drain.state import State
from graceful.process.exit import latest_exit

#: Seconds that a server has if it never told its latest exit: what it has with the default options.
SUPPOSED: Final = latest_exit(0.0, 200.0)

#: Exit status of a server that ended without a last word, as `graceful wait gone` has it.
VANISHED: Final = 72

#: Seconds after kill -9 in which a process must be gone.
DIES_IN: Final = 30.0


class OldProcess:
    """Follows one server to its end; a server that is not leaving is left alone.

    :param process: the server.
    :param margin: seconds from its latest exit to kill -9.
    :ivar status: its last status; None if it never had one.
    :ivar silent: it does not answer just now.
    :ivar until: its latest exit, seconds of the host's clock.
    :ivar killed: this deploy has killed it.
    :ivar gone: it has ended.
    :ivar given_up: why it will not be followed any more; None if it is, or is gone.
    :ivar in_flight_at_kill: what it said was in flight when it was last heard of, if it had to be killed.
    """

    def __init__(self, process: ServerHandle, margin: float) -> None:
        self.process = process
        self.pid = process.pid
        self.status: Mapping[str, Any] | None = None
        self.silent = False
        self.until = 0.0
        self.killed = False
        self.gone = False
        self.began: float | None = None
        self.ended: float | None = None
        self.in_flight_at_kill: list[Mapping[str, Any]] = []
        self.word: Mapping[str, Any] | None = None
        self.given_up: str | None = None
        self._margin = margin
        self._listens = False
        self._listen()

    def look(self, now: float) -> None:
        """Ask for its status, and kill it if its time is over."""
        if self.gone:
            return
        if self.process.gone():
            self._ended(now)
            return
        try:
            self.status = self.process.status()
        except ProcessError:
            self.silent = True
        else:
            self.silent = False
            self.until = now + float(self.status["latest_exit"])
            self._listen()
            state = State.parse(self.status["state"])
            if state is None or state.draining:
                self.leaves(now)
        if self.leaving and now >= self.until + self._margin:
            self._kill(now)

    def leaves(self, now: float) -> None:
        """Take note that it is on its way out: by its own status, or since it was told to stop."""
        if self.began is None:
            self.began = now
            self.until = self.until or now + SUPPOSED

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out, and not gone."""
        return self.began is not None and not self.gone

    def _listen(self) -> None:
        if not self._listens:
            try:
                self.process.listen()
                self._listens = True
            except ProcessError:
                pass  # it is tried again when it answers

    def _kill(self, now: float) -> None:
        if not self.killed:
            self.killed = True
            self.in_flight_at_kill = list(self.status["in_flight"]) if self.status else []
            try:
                self.process.kill()
            except ProcessError as error:
                self.given_up = str(error)
        if now >= self.until + self._margin + DIES_IN:
            self.given_up = f"process {self.pid} does not end, not even by kill -9"

    def _ended(self, now: float) -> None:
        self.leaves(now)
        self.gone, self.ended = True, now
        self.word = self.process.last_word()
        self.process.close()

    @property
    def closed(self) -> bool:
        """Whether its listening sockets are closed."""
        state = State.parse(self.status["state"]) if self.status is not None else None
        return self.gone or (state is not None and state.closed)

    @property
    def idle(self) -> int | None:
        """How many idle connections it has; None if it does not answer."""
        if self.gone:
            return 0
        if self.silent or self.status is None:
            return None
        return int(self.status["connections"]["idle"])

    @property
    def in_flight(self) -> int:
        """How many exchanges it had in flight when it last answered."""
        return 0 if self.gone or self.status is None else int(self.status["in_flight_count"])

    @property
    def exit_status(self) -> int | None:
        """Its exit status; None while it lives, :data:`VANISHED` if it has ended without a last word."""
        if not self.gone:
            return None
        return VANISHED if self.word is None else int(self.word["exit_status"])

    def verdict(self) -> dict[str, Any]:
        """Returns how it ended, for the verdict of the deploy."""
        word = self.word or {}
        return {
            "pid": self.pid,
            "exit_status": self.exit_status,
            "seconds": None if self.ended is None or self.began is None else round(self.ended - self.began, 3),
            "finished": word.get("finished"),
            "taken_down": word.get("taken_down"),
            "abandoned": word.get("abandoned"),
            "reports": list(word.get("reports") or ()),
            "killed": self.killed,
            "lost": [
                {key: exchange.get(key) for key in ("id", "method", "path", "age", "peer")}
                for exchange in self.in_flight_at_kill
            ],
        }
