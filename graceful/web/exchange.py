"""One request and its answer: what is in flight.

An exchange begins with the first byte of its request and ends when the last byte of its answer has reached the
client's kernel, or cannot any more.  In between it passes through the hands of the reactor, of a thread or of
the event loop, and every one of them has to be able to say what became of it.  So the exchange holds the facts
(which client asks for what, since when, how far it is) and the framing of its answer, and nothing of how either is
transported or made.

The framing is where a server can lie.  It never does: no more bytes than announced, a body that cannot be
completed ends visibly short (RFC 9112 §6.3, §8), and no second status line in a started body.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from twisted.logger import Logger

from graceful.threads.async_exc import AsyncExc, Hook, clear_pending
from graceful.web.response_headers import (
    CONNECTION,
    DATE,
    LENGTH,
    OFFER,
    PLAIN,
    SERVER,
    bodiless,
    checked_line,
    known_length,
    known_line,
    known_name,
    known_status,
    learn_line,
    learn_name,
    learn_status,
    reason,
    remember_length,
)

if TYPE_CHECKING:
    import socket

    from twisted.internet.defer import Deferred

    from graceful.web.limits import Limits
    from graceful.web.write_token import WriteToken

log = Logger(namespace="graceful")


RECEIVING: Final = 0
QUEUED: Final = 1
APPLICATION: Final = 2
SENDING: Final = 3
LINGERING: Final = 4
DOWNLOADING: Final = 5
PARKED: Final = 6
PHASES: Final = ("receiving", "queued", "in the application", "sending", "lingering", "downloading", "parked")

# Loaded now: what is said when no descriptor is left cannot open a file for it.
codecs.lookup("unicode_escape")

_LENGTH: Final = re.compile(r"[0-9]+\Z")


class Disconnected(ConnectionError):
    """The client will not read the rest of this answer.  Ends its making; not an error of the application's."""


class HandOver(Protocol):
    """Takes an answer from a thread, for the event loop to send."""

    def takes(self, name: str) -> bool:
        """Whether an answer's field of this name is an offer."""

    def __call__(self, exchange: Exchange, result: Any) -> Callable[[], object] | None:
        """Look at an exchange's `offer`, or at its result, and prepare what it takes.  In a thread of the pool.

        :returns: what the thread calls after it has closed the result; None if the thread sends the answer itself.
        """


class ServedSite(Protocol):
    """The site, as exchanges and the code that answers them use it (see :class:`graceful.web.site.Site`)."""

    hand_over: HandOver | None
    pool_for: Any
    limits: Limits
    run_id: str
    going_down: bool
    draining: bool
    tail_keep: str
    tail_close: str

    def tail(self, keep: bool, date: bool, server: bool) -> str:
        """The end of a head that lacks a field or two."""

    def takes(self, name: str) -> bool:
        """Whether a field of an answer is an offer to hand it over."""

    def answer(self, exchange: Exchange, status: int, extra: str = "") -> None:
        """Answer with a short text of the server's own."""

    def disconnected(self, exchange: Exchange) -> None:
        """Tell the handler that the client is gone.  Reactor thread."""

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over.  Any thread."""


class RequestSource(Protocol):
    """The receiving half of a connection, as exchanges and takedowns use it."""

    def more_requests(self) -> bool:
        """Whether requests that have been read wait behind the current exchange.  Any thread."""

    def under_way(self) -> list[Exchange]:
        """The exchanges whose requests have not been received to their end.  Reactor thread."""

    def refuse(self, status: int) -> Exchange | None:
        """Answer the request under way with this status; None if there is none.  Reactor thread."""


class Carrier(Protocol):
    """The connection, as exchanges and the code that answers them use it (see `graceful.web.connection.Connection`).

    It is named here so that an exchange need not know how it is transported.
    """

    peer: str
    port: int
    server: tuple[str, int]
    scheme: str
    trusted: bool
    sock: socket.socket
    write_token: WriteToken[Exchange]
    active: float
    memo: Any
    drained: Callable[[], None] | None

    @property
    def site(self) -> ServedSite:
        """The site that is served on it."""

    @property
    def receiver(self) -> RequestSource:
        """The half that reads."""

    def send(self, exchange: Exchange, head: bytes, data: bytes, last: bool) -> None:
        """Send a piece of an answer; `last` ends it.  Raises `Disconnected`."""

    def cut(self, exchange: Exchange) -> None:
        """End an answer short."""

    def abort(self) -> None:
        """Reset the connection.  Any thread."""

    def close(self, reset: bool = False, only: Exchange | None = None) -> bool:
        """Close the connection, or only if it is this exchange's turn.  Reactor thread."""

    def half_close(self) -> None:
        """Close an idle connection, unless a request has come meanwhile.  Reactor thread."""

    def idle(self) -> bool:
        """Whether nothing is owed to the client.  Reactor thread."""

    def unsent(self) -> int:
        """Bytes that the client's kernel has not confirmed."""

    def when_gone(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection is closed.  Reactor thread."""

    def begin_pull(self, exchange: Exchange, head: bytes, pull: Callable[[], bool]) -> None:
        """Have the reactor send a head, and then what `pull` sends.  Reactor thread."""

    def pause_pull(self, paused: bool) -> None:
        """Stop calling `pull`, or go on.  Reactor thread."""

    def push_file(self, fd: int, offset: int, count: int) -> int:
        """Give a part of a file to the kernel; returns how many bytes it took."""

    def keep_unsent_low(self, low: bool) -> None:
        """Bound what the kernel holds of a long body."""


class Exchange:
    """A request, its answer, and how far both are.

    The exchange belongs to the reactor thread until its request is complete and it is current on its connection;
    then to the thread that answers it.  Others only look (`id` to `sent` are what the register shows).

    The application finds it as `environ["graceful.exchange"]`, and may use its `id`, `request_id`, :meth:`remaining`
    and :meth:`on_takedown`.

    :ivar id: its number in this process.
    :ivar started: when the first byte came, monotonic seconds.
    :ivar arrived: when the last byte of its body came, monotonic seconds; 0.0 if it has none.
    :ivar ended: when the last byte of the answer went to the kernel, monotonic seconds; 0.0 until then.
    :ivar phase: index into `PHASES`.
    :ivar method: the method token.
    :ivar target: the request target as it was sent (RFC 9112 §3.2), without a URI's scheme and authority.
    :ivar version: `"1.1"` or `"1.0"`.
    :ivar headers: name and value of each field in order, names as sent, values without surrounding whitespace.
    :ivar trailers: fields that came behind a chunked body; never mixed with the headers.
    :ivar peer: the client's address, which a trusted proxy may have told; empty on a Unix socket.
    :ivar scheme: `http` or `https`, which a trusted proxy may have told.
    :ivar received: body bytes that have come.
    :ivar body: the request's body in memory, as pieces, or the file it was spooled to, or None.
    :ivar handler: the handler that answers it, for the thread that is to call it.
    :ivar mount: where its handler was found in a tree, and the path behind that, both decoded; None at the root.
    :ivar keep: whether the connection may carry another exchange after this one.
    :ivar status: the answer's status code, 0 until there is one.
    :ivar sent: body bytes handed over for sending.
    :ivar head: the answer's head as far as the application has said it; None until it has.
    :ivar begun: the head has gone out, or is on its way.
    :ivar error: a status that the server answers itself, without looking for an application; 0 otherwise.
    :ivar offer: the field, name and value, by which the application has handed its answer over; None if it has not.
    :ivar download: its body is streamed by the event loop, with no thread: a drain has another deadline for it.
    :ivar in_application: its thread is in the application's code, where :class:`graceful.Takedown` may be raised.
        Written by the thread alone.
    :ivar takedown: its takedown, once that has begun.  Written by the reactor thread.
    :ivar report: the id of the report about it, once there is one; the client is told.
    :ivar environ: the application's, while that runs.
    :ivar hooks: what the application wants to have called at its takedown; None if nothing.
    """

    __slots__ = (
        "_bare",
        "_flags",
        "_flushed",
        "_released",
        "arrived",
        "begun",
        "body",
        "chunked",
        "connection",
        "download",
        "ended",
        "environ",
        "error",
        "handler",
        "head",
        "headers",
        "hooks",
        "id",
        "in_application",
        "keep",
        "length",
        "method",
        "mount",
        "offer",
        "own_id",
        "peer",
        "phase",
        "received",
        "report",
        "scheme",
        "sent",
        "started",
        "status",
        "takedown",
        "target",
        "trailers",
        "version",
    )

    id: int
    _flags: int

    def __init__(self, connection: Carrier) -> None:
        self.connection = connection
        self.started = monotonic()
        self.ended = self.arrived = 0.0
        self.phase = RECEIVING
        self.method = "-"
        self.target = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.peer = connection.peer
        self.scheme = connection.scheme
        self.received = 0
        self.body: list[bytes] | IO[bytes] | None = None
        self.keep = True
        self.status = self.sent = self.error = 0
        self.length = -1
        self.begun = self.chunked = self._flushed = self._released = self.download = self.in_application = False
        self.takedown: AsyncExc | None = None
        self.hooks: list[Hook] | None = None
        self.environ: dict[str, Any] | None = None
        self.own_id: str | None = None
        self.report: str | None = None
        self.handler: Any = None
        self.mount: tuple[str, str] | None = None
        self.offer: tuple[str, str] | None = None
        self.head: str | None = None

    def __repr__(self) -> str:
        return f"<exchange {self.id} {self.method} {self.shown_target} {PHASES[self.phase]}>"

    @property
    def shown_target(self) -> str:
        """The target for people and logs, with nothing in it that could break a line."""
        return self.target.decode("latin-1").encode("unicode_escape").decode("ascii")

    @property
    def request_id(self) -> str:
        """The id that a trusted proxy gave it, or our own, unlike any other process's."""
        return self.own_id or f"{self.connection.site.run_id}-{self.id}"

    # -- for the application ------------------------------------------------------------------------------

    def remaining(self) -> float | None:
        """Seconds that are left for it, at least 0; None if it has no limit.  Any thread."""
        until = self.connection.site.limits.until(self)
        return None if until is None else max(0.0, until - monotonic())

    def on_takedown(self, function: Callable[[], object]) -> Hook:
        """Have a function called when this exchange is taken down, to end what its thread waits for.

        It is called once at most, in another thread, before :class:`graceful.Takedown` is raised, and not after the
        returned :class:`~graceful.threads.async_exc.Hook` was cancelled, or the exchange has ended.  Use it around
        just the wait that it can end::

            with exchange.on_takedown(connection.cancel):
                cursor.execute(query)

        :param function: takes no arguments, and should return soon.
        """
        if self.hooks is None:
            self.hooks = []
        return Hook(function, self.hooks)

    def push(self, data: bytes) -> None:
        """PEP 3333's `write`: what the application itself calls, and where it can therefore not be interrupted."""
        was, self.in_application = self.in_application, False
        try:
            if self.takedown is not None:
                clear_pending(self.takedown)
            self.write(data)
        finally:
            self.in_application = was

    # -- the answer: the thread that makes it -------------------------------------------------------------

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        """Say status and headers; nothing is sent before the first piece of the body, or its end.

        :param status: as PEP 3333 has it, `"200 OK"`.
        :param headers: names and values as str of latin-1 characters.  Hop-by-hop fields are dropped, but
            `Connection: close` is heeded.
        :raises ValueError, TypeError: something in them must not be sent.
        """
        length = -1
        self._flags = 0
        code, head = known_status(status) or learn_status(status)
        for name, value in headers:
            if name == "Content-Length":
                known = known_length(value)
                length = known if known is not None and length < 0 else self._announced(value, length)
                continue
            line = known_line((name, value))
            if line is None:
                kind = known_name(name)
                if kind is None:
                    kind = learn_name(name)
                if kind == LENGTH:
                    length = self._announced(value, length)
                    continue
                line = self._line(kind, name, value)
            head += line
        self.head, self.status, self.length = head, code, length

    @staticmethod
    def _announced(value: str, before: int) -> int:
        """What a Content-Length of the application's says."""
        if type(value) is not str:
            raise TypeError(f"header values must be str, not {value!r}")
        if value.isascii() and value.isdigit():
            length = int(value)
            if before in (-1, length):
                remember_length(value, length)
                return length
        raise ValueError(f"not a Content-Length: {value!r}")

    def _line(self, kind: int, name: str, value: str) -> str:
        """A field that has not been seen before, as a line of the head; empty if it is not the application's."""
        if kind == PLAIN:
            return learn_line(name, value)
        if kind in (DATE, SERVER):
            self._flags |= kind
            return checked_line(name, value)
        if kind == OFFER and self.connection.site.takes(name):
            self.offer = name.lower(), value
            return ""
        if kind == OFFER:
            return checked_line(name, value)
        if kind == CONNECTION and "close" in value.lower():
            self.keep = False
        return ""

    def fields(self) -> list[tuple[str, str]]:
        """The answer's fields as the application has given them, but for those that the server sends itself."""
        lines = (self.head or "").split("\r\n")[1:-1]
        return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]

    def _render(self, total: int) -> bytes:
        """The head as bytes, and the decision how the body is framed (RFC 9112 §6).

        :param total: the whole body's length, or -1 if it is not known yet.
        """
        head = self.head
        if head is None:
            raise AssertionError("a body was sent before start_response was called")
        code = self.status
        site = self.connection.site
        keep = self.keep
        if site.draining and keep:
            # What has been read is still answered; the last of it says close.
            keep = self.connection.receiver.more_requests()
        bare = self.method == "HEAD" or bodiless(code)
        self._bare = bare
        length = self.length
        if length < 0:
            if bare:
                if total > 0 and not bodiless(code):
                    head += f"Content-Length: {total}\r\n"
            elif total >= 0:
                self.length = total
                head += f"Content-Length: {total}\r\n"
            elif self.version == "1.0":
                keep = False
            else:
                self.chunked = True
                head += "Transfer-Encoding: chunked\r\n"
        elif code != 204:  # RFC 9110 §8.6
            head += f"Content-Length: {length}\r\n"
            if 0 <= total < length and not bare:
                keep = False
        self.keep = keep
        if self._flags:
            tail = site.tail(keep, date=not self._flags & DATE, server=not self._flags & SERVER)
        else:
            tail = site.tail_keep if keep else site.tail_close
        out = (head + tail).encode("latin-1")
        self.begun = True
        return out

    def _clip(self, data: bytes) -> bytes:
        """Never more bytes than announced: what is behind them would be taken for the next answer."""
        left = self.length - self.sent
        if len(data) > left:
            log.error(
                "{method} {target}: the application sends more than its Content-Length of {length} bytes; "
                "the rest is dropped",
                method=self.method,
                target=self.shown_target,
                length=self.length,
            )
            return data[:left]
        return data

    def bare(self) -> bool:
        """Whether the answer has no body, whatever its length (RFC 9112 §6.3)."""
        return self.method == "HEAD" or bodiless(self.status)

    def begin(self) -> bytes:
        """Return the head, for a caller that sends it and the body itself; the length has been announced."""
        assert self.length >= 0
        return self._render(-1)

    def write(self, data: bytes) -> None:
        """Send a piece of the body, of which more may follow; may wait for a slow client in a thread.

        :raises Disconnected: the client will not read it.
        """
        if type(data) is not bytes:
            raise TypeError(f"pieces of a body must be bytes, not {type(data).__name__}")
        if self.ended:
            raise Disconnected("the answer has ended already")
        head = b"" if self.begun else self._render(-1)
        if self._bare:
            data = b""
        elif self.chunked:
            self.sent += len(data)
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        else:
            if self.length >= 0:
                data = self._clip(data)
            self.sent += len(data)
        if head or data:
            self.connection.send(self, head, data, False)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece, which is the whole body of most answers, and end the framing.

        :raises Disconnected: the client will not read it.
        """
        if type(data) is not bytes:
            raise TypeError(f"pieces of a body must be bytes, not {type(data).__name__}")
        if not self.begun:
            head = self._render(len(data))
            if self._bare:
                data = b""
            elif len(data) != self.length:
                data = self._clip(data)
            self.sent = len(data)
        else:
            if data:
                self.write(data)
            head = b""
            if self.chunked:
                data = b"0\r\n\r\n"
            else:
                data = b""
                if self.sent < self.length and not self._bare:
                    self.keep = False
        self.ended = monotonic()
        self.phase = SENDING
        self.connection.send(self, head, data, True)

    def fail(self, code: int, extra: str = "") -> None:
        """Answer with a short text of the server's own, and close; or cut the body, if it has begun.

        :param code: the status.
        :param extra: more header lines, each with its line break.
        """
        if self.begun:
            self.cut()
            return
        self.keep = self.keep and code == 503
        if self.report is not None:
            extra += f"X-Oops-Id: {self.report}\r\n"
        text = f"{code} {reason(code)}"
        self.head = f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\n{extra}"
        self.status, self.length, self._flags = code, -1, 0
        self.finish(f"{text}\n".encode())

    # -- its end ------------------------------------------------------------------------------------------

    @property
    def released(self) -> bool:
        """Whether the side that answered is done with it."""
        return self._released

    def abandon(self) -> None:
        """Count the answer as sent, because the client will not read the rest of it; :meth:`release` ends it."""
        self._flushed = True

    def release(self) -> None:
        """The side that answered is done with the exchange, which ends now or with its last byte.  Any thread."""
        self._released = True
        if self._flushed:
            self.connection.site.finished(self)
        elif self.connection.write_token.lingering:
            self.phase = LINGERING

    def finish_and_release(self, data: bytes = b"") -> None:
        """Send the last piece, if the client still reads, and be done with the exchange."""
        try:
            self.finish(data)
        except Disconnected:
            self._flushed = True
        self.release()

    @property
    def framed(self) -> bool:
        """Whether the client can tell that the body is cut: its end is announced, or marked (RFC 9112 §8)."""
        return self.chunked or self.length >= 0

    def cut(self) -> None:
        """The body cannot be completed: what has been said goes out, and then it ends visibly short."""
        self.keep = False
        self.ended = self.ended or monotonic()
        if self.begun and not self._bare and not self.framed:
            # It would have ended with the connection: an orderly close would make it look whole.
            self.connection.abort()
        else:
            self.connection.cut(self)

    def describe(self, now: float) -> str:
        """One line for people: what it is, how old, how far."""
        size = ""
        if self.begun:
            of = f" of {self.length}" if self.download and self.length >= 0 else ""
            rate = f", {self.sent / max(now - self.started, 0.1) / 1024:.0f} KiB/s" if self.download else ""
            size = f", {self.sent}{of} bytes sent{rate}"
        return (
            f"exchange {self.id} {self.method} {self.shown_target} from {self.peer or 'unix'}: "
            f"{PHASES[self.phase]} for {now - self.started:.1f} s{size}"
        )
