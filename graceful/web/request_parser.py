"""From bytes to requests: the parser, and how much is taken in ahead.  No I/O.

`httptools` (llhttp) is fast and strict about syntax, but it cannot pause: a single packet with 2,000 pipelined
requests becomes 2,000 exchanges.  Nor is it a gate; that is :class:`~graceful.web.request_rules.RequestRules`, which
it calls.

Pausing is done by feeding it slices.  Every message head, and every chunked body, ends with an empty line, so a
slice that ends with the first empty line never goes past the end of the message under way; a body with a
Content-Length is a slice of its own.  What may not be parsed yet stays in `unparsed`.  A slice costs less than a
microsecond: a chunked body of nothing but empty lines is cheaper than serving as many bytes of small requests.

An error ends the parser for good, and so do two things that are none: an `Upgrade` that we do not follow, and a
method that llhttp does not know.  Both go on with a fresh parser, put where the old one stood.
"""

from __future__ import annotations

from typing import Final

import httptools

from graceful.web.request_rules import MAX_HEAD, MAX_TARGET, TOKEN, RequestRules, Sink

END: Final = b"\r\n\r\n"
#: Bytes of the longest method that is passed on; registered ones have at most 17.
MAX_METHOD: Final = 64

# Methods that llhttp takes for another protocol's.  `GET / RTSP/1.0` it takes for HTTP/1.0, and says nothing of it.
_RTSP: Final = frozenset(
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)
_STOPPED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


class RequestParser(RequestRules):
    """Parses what one connection receives.  Reactor thread only.

    :ivar unparsed: bytes that have been received and may not be parsed yet.
    :ivar held: the sink is full; only set and reset by it.
    :ivar parsing: bytes that were in `unparsed` are on their way.  Other threads may look.
    """

    __slots__ = ("_start", "held", "parsing", "unparsed")

    def __init__(self, sink: Sink, max_body: int) -> None:
        super().__init__(sink, max_body)
        self._parser = httptools.HttpRequestParser(self)
        self._start = self.unparsed = b""
        self.held = self.parsing = False

    # -- bytes --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Parse what has been received, as far as the sink has room."""
        if self.exchange is not None or self.unparsed or self.held or data.find(END) != len(data) - 4:
            self.unparsed += data
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
        data, self.unparsed = self.unparsed, b""
        position, size = 0, len(data)
        while position < size and not self.ignoring:
            if self.unparsed or self._sink.full():
                self.unparsed += data[position:]
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
        elif not self.ignoring:  # what comes behind a last request is no request
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
        self.unparsed = rest + self.unparsed
        self._parse_stash()

    def _unusual_method(self, data: bytes) -> None:
        """llhttp knows a list of methods; RFC 9110 §9.1 says that any token may be one."""
        data = data.lstrip(b"\r\n")
        method, space, _ = data.partition(b" ")
        if not TOKEN.match(method) or len(method) > MAX_METHOD:
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
        self.ignoring = True
        self.unparsed = b""
        exchange = self.exchange
        if exchange is None:
            exchange = self._sink.began()
        self.exchange = None
        self.head_done = False
        exchange.error, exchange.keep = status, False
        self._sink.complete(exchange)

    def close(self) -> None:
        """Let go of the parser, which holds on to this object."""
        self.ignoring = True
        self.exchange = None
        self.unparsed = self._start = b""
        del self._parser
