"""From bytes to requests: the parser, its gates, and how much is taken in ahead.  No I/O.

`httptools` (llhttp) is fast and strict about syntax, but it is no gate: it lets through a request without Host,
HTTP/0.9 and 2.0, Transfer-Encoding on HTTP/1.0 and chunk extensions without end, mixes trailers with headers,
knows a fixed list of methods, and it cannot pause: a single packet with 2,000 pipelined requests becomes 2,000
exchanges.  Behind it stand the rules of RFC 9112 and 9110 that a request must pass here.

Pausing is done by feeding it slices.  Every message head, and every chunked body, ends with an empty line, so a
slice that ends with the first empty line never goes past the end of the message under way; a body with a
Content-Length is a slice of its own.  What may not be parsed yet stays in `stash`.

An error ends the parser for good, and so do two things that are none: an `Upgrade` that we do not follow, and a
method that llhttp does not know.  Both go on with a fresh parser, put where the old one stood.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

import httptools

from graceful.web.exchange import Exchange

END: Final = b"\r\n\r\n"
MAX_TARGET: Final = 8190
MAX_HEAD: Final = 65536
MAX_FIELDS: Final = 200
MAX_METHOD: Final = 64

# What a field means to the framing, by its name as sent; names are learnt, boundedly.
_PLAIN, _HOST, _CONNECTION, _PROXY_CONNECTION, _EXPECT, _LENGTH, _CODING, _UPGRADE, _DROP = range(9)
_KINDS: Final = {
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"proxy-connection": _PROXY_CONNECTION,
    b"expect": _EXPECT,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"upgrade": _UPGRADE,
}
_names: dict[bytes, int] = {}
_hosts: set[bytes] = set()
_methods: dict[bytes, str] = {}
_REMEMBERED: Final = 1024
# Methods that llhttp takes for another protocol's.
_RTSP: Final = frozenset(
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)
_STOPPED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_HOST_FORM: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?\Z")


class Refuse(Exception):
    """Raised out of a parser callback: the request gets this status, and the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Sink(Protocol):
    """Who gets what the intake makes of the bytes; a connection, or a test."""

    def began(self) -> Exchange:
        """The first byte of a request has come."""

    def expects(self) -> None:
        """The client waits for 100 Continue before it sends the body."""

    def body(self, exchange: Exchange, data: bytes) -> None:
        """A piece of the body has come."""

    def complete(self, exchange: Exchange) -> None:
        """The request is whole, or refused (`exchange.error`)."""

    def full(self) -> bool:
        """Whether parsing shall stop until `resume` is called."""


def _learn(name: bytes) -> int:
    # A name with an underscore looks in the environ like its twin with a hyphen: a way past proxies' filters.
    kind = _DROP if b"_" in name else _KINDS.get(name.lower(), _PLAIN)
    if len(_names) < _REMEMBERED:
        _names[name] = kind
    return kind


class Intake:
    """Parses what one connection receives.  Reactor thread only.

    :ivar exchange: the exchange whose request is under way, or None between requests.
    :ivar stash: bytes that have been received and may not be parsed yet.
    :ivar held: the sink is full; only set and reset by it.
    :ivar parsing: bytes that were in the stash are on their way.  Other threads may look.
    :ivar deaf: nothing that comes from now on is a request.
    :ivar head_done: the head of the request under way is complete, its body is coming.
    """

    __slots__ = (
        "_body_left",
        "_chunked",
        "_expect",
        "_hosts",
        "_length",
        "_max_body",
        "_method",
        "_parser",
        "_persist",
        "_priming",
        "_progress",
        "_refused",
        "_sink",
        "_special",
        "_start",
        "_unread",
        "_upgrade",
        "deaf",
        "exchange",
        "head_done",
        "held",
        "parsing",
        "stash",
    )

    def __init__(self, sink: Sink, max_body: int) -> None:
        self._sink = sink
        self._max_body = max_body
        self.exchange: Exchange | None = None
        self.stash = b""
        self.deaf = self.head_done = self.held = self.parsing = False
        self._parser = httptools.HttpRequestParser(self)
        self._start = b""
        self._method: bytes | None = None
        self._unread = self._body_left = self._hosts = 0
        self._length = -1
        self._chunked = self._expect = self._persist = self._upgrade = False
        self._priming = self._progress = self._special = False
        self._refused: Refuse | None = None

    # -- bytes --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Parse what has been received, as far as the sink has room."""
        if self.exchange is not None or self.stash or self.held or data.find(END) != len(data) - 4:
            self.stash += data
            self.resume()
            return
        # By far the most of what comes: one head without a body, in one piece.
        try:
            self._parser.feed_data(data)
        except _STOPPED as error:
            self._exceptional(error, data)
        if self.exchange is not None:
            self._special = True
            self._unread += len(data)
            self._incomplete(data)

    def resume(self) -> None:
        """Go on with what was received earlier: as much of it as the sink has room for now."""
        self.parsing = True
        self._parse_stash()
        self.parsing = False

    def _parse_stash(self) -> None:
        data, self.stash = self.stash, b""
        position, size = 0, len(data)
        while position < size and not self.deaf:
            if self.stash or self._sink.full():
                self.stash += data[position:]
                return
            if self._body_left:
                end = min(position + self._body_left, size)
            elif position == 0 and self.exchange is not None and data[0] in b"\r\n":
                # The empty line may have begun earlier; what follows it is the next message.
                end = min(size, 4) - len(data[:4].lstrip(b"\r\n"))
            else:
                end = data.find(END, position) + 4
                if end == 3:
                    end = size
            self._parse(data[position:end])
            position = end

    def _parse(self, data: bytes) -> None:
        self._special = True
        self._unread += len(data)
        if self._start:
            data, self._start = self._start + data, b""
        try:
            self._parser.feed_data(data)
        except _STOPPED as error:
            self._exceptional(error, data)
        if self.exchange is not None:
            self._incomplete(data)

    def _incomplete(self, data: bytes) -> None:
        """The request is not complete with this."""
        exchange = self.exchange
        assert exchange is not None
        if self._progress:
            self._progress = False
            self._unread = 0
        elif self._unread > MAX_HEAD:
            self._too_much()
        elif self.head_done or self._start:
            pass
        elif not exchange.target:
            # A method so far; if it turns out to be an unusual one it is needed again, from its first byte.
            self._start = data
            self._parser = httptools.HttpRequestParser(self)
        elif self._parser.get_method() in _RTSP:
            self._unusual_method(data)

    def _exceptional(self, error: Exception, data: bytes) -> None:
        """The parser has stopped: for good, or for something that is no error to us."""
        if isinstance(error, httptools.HttpParserUpgrade):
            self._continue(data[error.args[0] :])
        elif isinstance(error, httptools.HttpParserInvalidMethodError) or "Invalid method for HTTP" in str(error):
            self._unusual_method(data)
        else:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        refused, self._refused = self._refused, None
        if refused is not None:
            self.refuse(refused.status)
        elif isinstance(error, httptools.HttpParserCallbackError):
            raise error.__context__ or error
        elif not self.deaf:  # what comes behind a last request is no request
            text = str(error)
            self.refuse(505 if "HTTP version" in text or "PRI" in text else 400)

    def _too_much(self) -> None:
        """More came than a head, a chunk's extensions or a body's trailers may take without an end."""
        exchange = self.exchange
        if exchange is None or self.head_done:
            self.refuse(400 if self.head_done else 431)
        else:
            self.refuse(414 if len(exchange.target) > MAX_TARGET else 431)

    def _continue(self, rest: bytes) -> None:
        """We do not upgrade (RFC 9110 §7.8 lets us): the rest is the request's body, and then the next one."""
        self._parser = httptools.HttpRequestParser(self)
        if self._upgrade:
            self._upgrade = False
            self._priming = True
            framing = b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % self._length
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + END)
            self._priming = False
        self.stash = rest + self.stash
        self._parse_stash()

    def _unusual_method(self, data: bytes) -> None:
        """llhttp knows a list of methods; RFC 9110 §9.1 says that any token may be one."""
        data = data.lstrip(b"\r\n")
        method, space, _ = data.partition(b" ")
        if not _TOKEN.match(method) or len(method) > MAX_METHOD:
            self.refuse(400)
        elif space:
            assert self.exchange is not None
            self.exchange.target = b""
            self._method = method
            self._parser = httptools.HttpRequestParser(self)
            self._unread = 0
            self._parse(b"GET" + data[len(method) :])
        else:
            self._start = data
            self._parser = httptools.HttpRequestParser(self)

    def refuse(self, status: int) -> None:
        """Answer the request under way with this status, when its turn comes; the framing is lost."""
        self.deaf = True
        self.stash = b""
        exchange = self.exchange
        if exchange is None:
            exchange = self._sink.began()
        self.exchange = None
        self.head_done = False
        exchange.error, exchange.keep = status, False
        self._sink.complete(exchange)

    def close(self) -> None:
        """Let go of the parser, which holds on to this object."""
        self.deaf = True
        self.exchange = None
        self.stash = self._start = b""
        del self._parser

    # -- the parser's callbacks ---------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.exchange is None:
            self.exchange = self._sink.began()

    def on_url(self, part: bytes) -> None:
        if not self._priming:
            exchange = self.exchange
            assert exchange is not None
            exchange.target = exchange.target + part if exchange.target else part

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange: Exchange = self.exchange  # type: ignore[assignment]
        kind = _names.get(name)
        if kind is None:
            kind = _learn(name)
        if self.head_done:
            self._trailer(exchange, kind, name, value)
            return
        value = value.rstrip(b" \t")
        if kind:
            if kind == _HOST and value in _hosts:
                self._hosts += 1
            elif kind == _DROP:
                return
            else:
                self._framing(kind, value, exchange)
        exchange.headers.append((name, value))

    def _trailer(self, exchange: Exchange, kind: int, name: bytes, value: bytes) -> None:
        if not self._priming and kind == _PLAIN:
            if exchange.trailers is None:
                exchange.trailers = []
            exchange.trailers.append((name, value.rstrip(b" \t")))

    def _framing(self, kind: int, value: bytes, exchange: Exchange) -> None:
        if kind == _HOST:
            self._hosts += 1
            if not _HOST_FORM.match(value):
                self._refuse(400)
            if len(_hosts) < _REMEMBERED:
                _hosts.add(value)
            return
        self._special = True
        if kind == _CONNECTION:
            tokens = {token.strip() for token in value.lower().split(b",")}
            if b"close" in tokens:
                exchange.keep = False
            elif b"keep-alive" in tokens:
                self._persist = True
        elif kind == _PROXY_CONNECTION:
            # No business of ours; but llhttp takes it for the real one, and would take no more requests.
            if b"close" in value.lower():
                exchange.keep = False
        elif kind == _EXPECT:
            if value.lower() != b"100-continue":
                self._refuse(417)
            self._expect = True
        elif kind == _LENGTH:
            self._length = int(value)
        elif kind == _CODING:
            # What follows an unknown coding cannot be framed (RFC 9112 §6.1).
            if self._chunked or value.lower() != b"chunked":
                self._refuse(501)
            self._chunked = True
        elif kind == _UPGRADE:
            self._upgrade = True

    def _refuse(self, status: int) -> None:
        self._refused = Refuse(status)
        raise self._refused

    def on_headers_complete(self) -> None:
        if self._priming:
            return
        exchange = self.exchange
        assert exchange is not None
        parser = self._parser
        # Without a Connection field only HTTP/1.1 persists; asking for the version is four times as dear.
        if self._special or not parser.should_keep_alive():
            self._settle_version(exchange, parser.get_http_version())
        if self._hosts != 1 and exchange.version == "1.1":
            self._refuse(400)
        method = self._method
        if method is None:
            method = parser.get_method()
        else:
            self._method = None
        name = _methods.get(method)
        if name is None:
            if method == b"CONNECT":  # never remembered; llhttp would take its body for the next request
                self._refuse(501)
            name = method.decode("ascii")
            if len(_methods) < _REMEMBERED:
                _methods[method] = name
        exchange.method = name
        target = exchange.target
        if len(target) > MAX_TARGET:
            self._refuse(414)
        if len(exchange.headers) > MAX_FIELDS or self._unread > MAX_HEAD:
            self._refuse(431)
        if target[:1] != b"/" or b"#" in target:
            self._other_form(exchange, target)
        self.head_done = True
        if self._special:
            self._expect_body()

    def _settle_version(self, exchange: Exchange, version: str) -> None:
        """What an HTTP version that may not be 1.1 means (RFC 9112 §2.3, §9.3)."""
        self._special = True
        if version == "1.0":
            exchange.version = "1.0"
            exchange.keep = exchange.keep and self._persist
            if self._chunked or self._hosts > 1:
                self._refuse(400)
            self._expect = False
        elif version != "1.1":
            self._refuse(505)

    def _expect_body(self) -> None:
        """The head is complete, and may have announced a body (RFC 9112 §6)."""
        self._progress = True
        if self._chunked or self._length > 0:
            if self._length > self._max_body:
                self._refuse(413)
            self._body_left = max(self._length, 0)
            self._upgrade = self._upgrade and self._parser.should_upgrade()
            if self._expect:
                self._sink.expects()
        else:
            self._upgrade = False

    def _other_form(self, exchange: Exchange, target: bytes) -> None:
        """Every request target that is not a plain path (RFC 9112 §3.2)."""
        if target == b"*" and exchange.method == "OPTIONS":
            return
        scheme, colon, rest = target.partition(b"://")
        if not colon or scheme.lower() not in (b"http", b"https") or b"#" in target:
            self._refuse(400)
        cut = min(len(rest) if at < 0 else at for at in (rest.find(b"/"), rest.find(b"?")))
        authority = rest[:cut]
        if not authority or b"@" in authority or not _HOST_FORM.match(authority):
            self._refuse(400)
        path = rest[cut:]
        exchange.target = path if path[:1] == b"/" else b"/" + path
        # The authority of the target replaces what Host said (RFC 9112 §3.2.2).
        exchange.headers = [(n, v) for n, v in exchange.headers if n.lower() != b"host"]
        exchange.headers.append((b"Host", authority))

    def on_body(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        self._progress = True
        if self._body_left:
            self._body_left -= len(data)
        exchange.received += len(data)
        if exchange.received > self._max_body:
            self._refuse(413)
        self._sink.body(exchange, data)

    def on_message_complete(self) -> None:
        if self._upgrade:
            return  # llhttp thinks so; the body is still to come
        exchange: Exchange = self.exchange  # type: ignore[assignment]
        self.exchange = None
        self.head_done = False
        self._hosts = 0
        if self._special:
            self._special = self._chunked = self._expect = self._persist = self._progress = False
            self._unread = self._body_left = 0
            self._length = -1
            if not exchange.keep:
                self.deaf = True
        self._sink.complete(exchange)
