"""One request and its answer: what is in flight.

An exchange begins with the first byte of its request and ends when the last byte of its answer has reached the
client's kernel, or cannot any more.  In between it passes through the hands of the reactor, of a thread or of
the event loop, and every one of them has to be able to say what became of it.  So the exchange holds the facts:
which client asks for what, since when, how far it is.  How its answer is framed is its base class's matter, and how
either is transported the connection's.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from graceful.logs.access_lines import client_of
from graceful.threads.async_exc import AsyncExc, Hook, clear_pending
from graceful.web.answer_framing import AnswerFraming
from graceful.web.disconnected import Disconnected
from graceful.web.known_heads import ComposedFields, KnownFields
from graceful.web.response_headers import reason
from graceful.web.trace_context import trace_id

if TYPE_CHECKING:
    from graceful.web.body_stream import BodyStream
    from graceful.web.carrier import Carrier

log = Logger(namespace="graceful")


RECEIVING: Final = 0
QUEUED: Final = 1
APPLICATION: Final = 2
SENDING: Final = 3
LINGERING: Final = 4
DOWNLOADING: Final = 5
PARKED: Final = 6
WEBSOCKET: Final = 7
PHASES: Final = (
    "receiving",
    "queued",
    "in the application",
    "sending",
    "lingering",
    "downloading",
    "parked",
    "websocket",
)

# Loaded now: what is said when no descriptor is left cannot open a file for it.
codecs.lookup("unicode_escape")

#: Fields that say which program the client is, and where it comes from; see `shown_client`.
_OF_CLIENT: Final = frozenset((b"user-agent", b"referer"))

# What describes the request, and the exchange as a whole: a substitute has it in common with what it stands for.
_OF_REQUEST: Final = (
    "arrived",
    "headers",
    "id",
    "keep",
    "line",
    "method",
    "own_id",
    "peer",
    "received",
    "report",
    "scheme",
    "started",
    "taken_down",
    "target",
    "trailers",
    "upgrade",
    "version",
)


# What is only there if it is measured.
_MEASURED: Final = ("entered", "waited", "waited_before")


class Exchange(AnswerFraming):
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
    :ivar target: the request target as it was sent (RFC 9112 §3.2), without a URI's scheme and authority.
    :ivar headers: name and value of each field in order, names as sent, values without surrounding whitespace.
    :ivar line: its request line, if that has come before and is harmless to logs; else empty.
    :ivar trailers: fields that came behind a chunked body; never mixed with the headers.
    :ivar peer: the client's address, which a trusted proxy may have told; empty on a Unix socket.
    :ivar scheme: `http` or `https`, which a trusted proxy may have told.
    :ivar received: body bytes that have come.
    :ivar body: the request's body in memory, as pieces, or the file it was spooled to, or the stream that it still
        comes through, or None.
    :ivar upgrade: its client asks to go on with WebSocket: until it is answered, nothing behind it is read as HTTP.
    :ivar handler: the handler that answers it, for the thread that is to call it.
    :ivar mount: where its handler was found in a tree, and the path behind that, both decoded; None at the root.
    :ivar sent: body bytes handed over for sending.
    :ivar error: a status that the server answers itself, without looking for an application; 0 otherwise.
    :ivar download: its body is streamed by the event loop, with no thread: a drain has another deadline for it.
    :ivar in_application: its thread is in the application's code, where :class:`graceful.Takedown` may be raised.
        Written by the thread alone.
    :ivar takedown: its takedown, once that has begun.  Written by the reactor thread.
    :ivar taken_down: its time was over before its answer was complete.  Written by the reactor thread.
    :ivar report: the id of the report about it, once there is one; the client is told.
    :ivar environ: the application's, while that runs.
    :ivar entered: when its turn came, monotonic seconds; only there if times in the queue are measured, as are
    :ivar waited, waited_before: the seconds that it has waited for the application, and in a proxy before.
    :ivar hooks: what the application wants to have called at its takedown; None if nothing.
    """

    __slots__ = (
        "_flushed",
        "_released",
        "arrived",
        "body",
        "connection",
        "download",
        "entered",
        "environ",
        "error",
        "handler",
        "hooks",
        "id",
        "in_application",
        "mount",
        "own_id",
        "phase",
        "received",
        "report",
        "takedown",
        "taken_down",
        "trailers",
        "upgrade",
        "waited",
        "waited_before",
    )

    id: int
    entered: float
    waited: float
    waited_before: float

    #: Whether its answer goes on in this process, which makes it from its beginning.
    resumes = False

    def __init__(self, connection: Carrier[Exchange]) -> None:
        AnswerFraming.__init__(self)  # `super()` would take a hundredth of a small request's time
        self.connection = connection
        self.started = monotonic()
        self.ended = self.arrived = 0.0
        self.phase = RECEIVING
        self.target = b""
        self.line = ""
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.peer = connection.peer
        self.scheme = connection.scheme
        self.received = 0
        self.body: list[bytes] | IO[bytes] | BodyStream | None = None
        self.sent = self.error = 0
        self._flushed = self._released = self.download = self.upgrade = False
        self.in_application = self.taken_down = False
        self.takedown: AsyncExc | None = None
        self.hooks: list[Hook] | None = None
        self.environ: dict[str, Any] | None = None
        self.own_id: str | None = None
        self.report: str | None = None
        self.handler: Any = None
        self.mount: tuple[str, str] | None = None

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

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that it belongs to, by its `traceparent`; None if it has none."""
        return trace_id(self.headers)

    @property
    def shown_client(self) -> str:
        """What the access log says of its client; requests with the same head share that."""
        headers = self.headers
        if type(headers) is ComposedFields and headers.rest is not None:
            for _, (name, _) in headers.own:
                if name.lower() in _OF_CLIENT:
                    return client_of(headers)
            headers = headers.rest
        if type(headers) is not KnownFields:
            return client_of(headers)
        client = headers.shown_client
        if client is None:
            client = headers.shown_client = client_of(headers)
        return client

    def substitute(self) -> Exchange:
        """Return an exchange that is answered in place of this one.

        Logs, metrics and status read it instead, so it carries all that is known of the request.
        """
        substitute = type(self)(self.connection)
        for name in _OF_REQUEST:
            setattr(substitute, name, getattr(self, name))
        for name in _MEASURED:
            if hasattr(self, name):
                setattr(substitute, name, getattr(self, name))
        return substitute

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

    def _takes(self, name: str) -> bool:
        """Whether a field of this name is an offer of the application's to hand its answer over."""
        return self.connection.site.takes(name)

    def _stays_in_drain(self) -> bool:
        """What has been read is still answered; the last of it says close, unless the connection moves."""
        connection = self.connection
        return (connection.movable and connection.site.mover is not None) or connection.more_requests()

    def begin(self) -> bytes:
        """Return the head, for a caller that sends it and the body itself; the length has been announced."""
        assert self.length >= 0
        return self._render(-1, self.connection.site)

    def leave_http(self) -> None:
        """Make the answer 101 (RFC 9110 §15.2.2): the caller sends its head, behind which is another protocol."""
        self.status, self.phase = 101, WEBSOCKET
        self.begun, self.keep, self._bare = True, False, False

    def write(self, data: bytes) -> None:
        """Send a piece of the body, of which more may follow; may wait for a slow client in a thread.

        :raises Disconnected: the client will not read it.
        """
        if type(data) is not bytes:
            raise TypeError(f"pieces of a body must be bytes, not {type(data).__name__}")
        if self.ended:
            raise Disconnected("the answer has ended already")
        head = b"" if self.begun else self._render(-1, self.connection.site)
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

    def finish(self, data: bytes = b"", trailers: str = "") -> None:
        """Send the last piece, which is the whole body of most answers, and end the framing.

        :param trailers: lines behind a chunked body that has begun, each with its line break.
        :raises Disconnected: the client will not read it.
        """
        if type(data) is not bytes:
            raise TypeError(f"pieces of a body must be bytes, not {type(data).__name__}")
        if not self.begun:
            head = self._render(len(data), self.connection.site)
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
                data = b"0\r\n\r\n" if not trailers else f"0\r\n{trailers}\r\n".encode("latin-1")
            else:
                data = b""
                if self.sent < self.length and not self._bare:
                    self.keep = False
        self.ended = monotonic()
        self.phase = SENDING
        self.connection.send(self, head, data, True)

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
        self.status, self.length, self._flags, self._known_head = code, -1, 0, b""
        self.finish(f"{text}\n".encode())

    def unsaid(self, head: bytes) -> None:
        """The client has left before it got this head; a head that is empty went out earlier."""
        if head and not self.taken_down:
            self.status = self.sent = 0

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
