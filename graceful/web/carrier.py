"""What an exchange needs of its surroundings: the connection that carries it, and the site that is served there.

An exchange is told apart from both: connections are of several kinds, plain, TLS or another server's, and each of
these builds on exchanges.  So what exchanges and the code that answers them call is named here.  What each request
needs is in base classes: in the compiled server a call of theirs is one in C, and a Protocol's a search for its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from graceful.web.answer_framing import FramingSite
from graceful.web.hub import Pollable

if TYPE_CHECKING:
    import socket

    from twisted.internet.defer import Deferred

    from graceful.web.limits import Limits
    from graceful.web.write_token import Answered, WriteToken


#: The exchanges that are carried; named by a variable, since an exchange names its connection.
E = TypeVar("E", bound="Answered")
E_contra = TypeVar("E_contra", contravariant=True)


class HandOver(Protocol[E_contra]):
    """Takes an answer from a thread, for the event loop to send."""

    def takes(self, name: str) -> bool:
        """Whether an answer's field of this name is an offer."""

    def __call__(self, exchange: E_contra, result: Any) -> Callable[[], object] | None:
        """Look at an exchange's `offer`, or at its result, and prepare what it takes.

        In a thread of the pool, or in that of the asyncio loop.

        :returns: what the thread calls after it has closed the result; None if the thread sends the answer itself.
        """


class Mover(Protocol[E_contra]):
    """Takes connections to another process (see :class:`graceful.takeover.connection_moves.ConnectionMoves`)."""

    def takes(self, connection: Any) -> bool:
        """Whether it takes a connection on which a request comes.  Reactor thread."""

    def holds(self, exchange: E_contra) -> bool:
        """Whether it keeps a request whose turn has come, for the other process to answer.  Any thread."""

    def tick(self, now: float) -> None:
        """Look at what has waited for too long.  Several times a second."""


class ServedSite(FramingSite, Generic[E]):
    """The site, as exchanges and the code that answers them use it (see :class:`graceful.web.site.Site`)."""

    hand_over: HandOver[E] | None
    pool_for: Any
    coroutines: Any
    websockets: Any
    limits: Limits
    run_id: str
    going_down: bool
    budget: Any
    mover: Mover[E] | None

    def takes(self, name: str) -> bool:
        """Whether a field of an answer is an offer to hand it over."""
        raise NotImplementedError

    def trusts(self, peer: tuple[str, int] | None) -> bool:
        """Whether what this client says about others is believed."""
        raise NotImplementedError

    def connection_gone(self) -> None:
        """A connection was closed; there is room for another."""
        raise NotImplementedError

    def parked(self, exchange: E | None) -> bool:
        """Whether the exchange waits with no thread and nothing to send.  Reactor thread."""
        raise NotImplementedError

    def dispatch(self, exchange: E) -> None:
        """It is this exchange's turn: have it answered."""
        raise NotImplementedError

    def answer(self, exchange: E, status: int, extra: str = "") -> None:
        """Answer with a short text of the server's own."""
        raise NotImplementedError

    def fail(self, exchange: E) -> None:
        """End an exchange whose answering has raised.  Any thread."""
        raise NotImplementedError

    def disconnected(self, exchange: E) -> None:
        """Tell the handler that the client is gone.  Reactor thread."""
        raise NotImplementedError

    def finished(self, exchange: E) -> None:
        """The exchange is over.  Any thread."""
        raise NotImplementedError

    def replaced(self, substitute: E) -> None:
        """From now on an exchange stands for the one with its number.  Reactor thread."""
        raise NotImplementedError

    def interrupted(self, exchange: E) -> None:
        """An exchange that was taken down is over.  Reactor thread."""
        raise NotImplementedError


class Carrier(Pollable, Generic[E]):
    """The connection, as exchanges and the code that answers them use it (see `graceful.web.connection.Connection`).

    It is named here so that an exchange need not know how it is transported.
    """

    __slots__ = (
        "active",
        "drained",
        "facts",
        "memo",
        "peer",
        "port",
        "scheme",
        "server",
        "site",
        "sock",
        "trusted",
        "write_token",
    )

    #: Whether a connection of this kind can move to another process: all of it is in the kernel.
    movable = True

    peer: str
    port: int
    server: tuple[str, int]
    scheme: str
    facts: Mapping[str, str] | None
    trusted: bool
    sock: socket.socket
    write_token: WriteToken[E]
    active: float
    memo: Any
    drained: Callable[[], None] | None
    site: ServedSite[E]

    def more_requests(self) -> bool:
        """Whether requests that have been read wait behind the current exchange.  Any thread."""
        raise NotImplementedError

    def under_way(self) -> list[E]:
        """The exchanges whose requests have not been received to their end.  Reactor thread."""
        raise NotImplementedError

    def refuse(self, status: int) -> E | None:
        """Answer the request under way with this status; None if there is none.  Reactor thread."""
        raise NotImplementedError

    def send(self, exchange: E, head: bytes, data: bytes, last: bool) -> None:
        """Send a piece of an answer; `last` ends it.  Raises `Disconnected`."""
        raise NotImplementedError

    def call(self, function: Callable[..., object], *args: object) -> None:
        """Call a function in the reactor thread.  Any thread."""
        raise NotImplementedError

    def cut(self, exchange: E) -> None:
        """End an answer short."""
        raise NotImplementedError

    def abort(self, only: E | None = None) -> None:
        """Reset the connection, or only if it is this exchange's turn.  Any thread."""
        raise NotImplementedError

    def close(self, reset: bool = False, only: E | None = None) -> bool:
        """Close the connection, or only if it is this exchange's turn.  Reactor thread."""
        raise NotImplementedError

    def half_close(self) -> None:
        """Close an idle connection, unless a request has come meanwhile.  Reactor thread."""
        raise NotImplementedError

    def idle(self) -> bool:
        """Whether nothing is owed to the client.  Reactor thread."""
        raise NotImplementedError

    def unsent(self) -> int:
        """Bytes that the client's kernel has not confirmed."""
        raise NotImplementedError

    def send_interim(self, data: bytes, exchange: E | None = None) -> bool:
        """Send an interim answer, if nothing is being answered, or the exchange is and its answer has not begun."""
        raise NotImplementedError

    def when_gone(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection is closed.  Reactor thread."""
        raise NotImplementedError

    def begin_pull(self, exchange: E, head: bytes, pull: Callable[[], bool]) -> None:
        """Have the reactor send a head, and then what `pull` sends.  Reactor thread."""
        raise NotImplementedError

    def pull_on(self, pull: Callable[[], bool]) -> None:
        """Have the reactor send what is left of a body that another process has begun.  Reactor thread."""
        raise NotImplementedError

    def pause_pull(self, paused: bool) -> None:
        """Stop calling `pull`, or go on.  Reactor thread."""
        raise NotImplementedError

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Give a part of a file to the kernel; returns how many bytes it took."""
        raise NotImplementedError

    def keep_unsent_low(self, low: bool) -> None:
        """Bound what the kernel holds of a long body."""
        raise NotImplementedError
