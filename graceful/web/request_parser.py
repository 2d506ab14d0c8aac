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
from attrs import frozen

from graceful.web.chunk_place import ChunkPlace
from graceful.web.exchange import Exchange
from graceful.web.field_kinds import TOKEN, is_short_length
from graceful.web.field_lines import put_together
from graceful.web.known_heads import KnownFields, known_fields, known_line, learn_line
from graceful.web.request_rules import MAX_HEAD, MAX_TARGET, METHODS, RequestRules, Sink

END: Final = b"\r\n\r\n"
#: Bytes of the longest method that is passed on; registered ones have at most 17.
MAX_METHOD: Final = 64

# Methods that llhttp takes for another protocol's.
_RTSP: Final = frozenset(
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)
# llhttp takes `GET / RTSP/1.0` for HTTP/1.0, and says nothing of it.
_HTTP: Final = b" HTTP/1."
#: Bytes of that with its last digit.
_VERSION: Final = 9
_OTHER_PROTOCOLS: Final = (b"RTSP/", b"ICE/")
#: Bytes of the end of a request line that tell the protocol.
_LINE_END: Final = 16
# At the beginning of a line, where nothing else can stand but the field.
_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
#: What each connection has between two requests: the fields of the last one would be a third of its memory.  Nothing
#: is put into it.
_NO_FIELDS: Final[list[tuple[bytes, bytes]]] = []
_STOPPED: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade)


@frozen
class Place:
    """Where a request that has not come to its end stands.

    :ivar head: what has come of its head, if that is not complete.
    :ivar left: bytes that are to come of its body.
    :ivar chunks: where in its body it is, if that is chunked.
    """

    head: bytes = b""
    left: int = 0
    chunks: ChunkPlace | None = None


def _is_one(data: bytes, head_end: int) -> bool:
    """Whether the body that this head announces by a Content-Length ends where the data ends.

    :param head_end: where the head ends, behind its empty line.

    The field is looked for as nearly all clients write it; another one, or a second one, is for the parser to find.
    """
    for name in _LENGTHS:
        start = data.find(name, 0, head_end)
        if start >= 0:
            start += len(name)
            end = data.find(b"\r", start)
            digits = data[start:end]
            return is_short_length(digits) and head_end + int(digits) == len(data)
    return False


class RequestParser(RequestRules):
    """Parses what one connection receives.  Reactor thread only.

    :ivar unparsed: bytes that have been received and may not be parsed yet.
    :ivar held: the sink is full; only set and reset by it.
    :ivar parsing: bytes that were in `unparsed` are on their way.  Other threads may look.
    """

    __slots__ = ("_chunks", "_head", "_line", "_start", "held", "parsing", "unparsed")

    def __init__(self, sink: Sink, max_body: int) -> None:
        super().__init__(sink, max_body)
        self._start = self.unparsed = b""
        # The last bytes of a request line that has not ended yet; None when it has.
        self._line: bytes | None = None
        self.held = self.parsing = False
        # What has come of a head that is not complete, and where a chunked body stands: to go on in another process.
        self._head = b""
        self._chunks: ChunkPlace | None = None

    # -- bytes --------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Parse what has been received, as far as the sink has room."""
        # The request under way is looked for first: its body may have no line at all.
        if self.exchange is not None or self.unparsed or self.held or not self._take_one(data):
            self.unparsed += data
            self.resume()

    def _take_one(self, data: bytes) -> bool:
        """Take in data that is one request in one piece, as is by far the most of what comes.

        If its fields came before, it is not parsed again.

        :returns: False if the data may be something else; then nothing is done.
        """
        line_end = data.find(b"\r\n")
        line = known_line(data[:line_end])
        rest = b""
        if line is not None and line[0] == "GET":  # nearly always without a body: then the rest is all of the head
            rest = data[line_end:]
            fields = known_fields(rest)
            if fields is not None and not fields.length:
                self._take(line, fields, b"")
                return True
        version = line_end - _VERSION
        # A place before the beginning would be counted from the end of the data, which is the client's to choose.
        if version < 0 or not data.startswith(_HTTP, version):
            return False
        head_end = data.find(END, line_end) + 4
        if head_end == 3:  # it has not ended
            return False
        left = len(data) - head_end
        sent = rest if rest and not left else data[line_end:head_end]
        if line is None:
            line = learn_line(data[:line_end], METHODS)
        if line is not None and left <= self._max_body:
            fields = known_fields(sent) or put_together(sent, left)
            if fields is not None and fields.length == left:
                self._take(line, fields, data[head_end:])
                return True
        if left and not _is_one(data, head_end):
            return False
        self._sent = sent
        try:
            self._feed(data)
        except _STOPPED as error:
            self._exceptional(error, data)
        if self.exchange is not None:
            self._special = True
            self._unread += len(data)
            self._note(data, False)
            self._incomplete(data)
        else:
            self._headers, self._sent = _NO_FIELDS, b""
        return True

    def _take(self, line: tuple[str, bytes, str], fields: KnownFields, body: bytes) -> None:
        """Take in a request whose line and fields came before."""
        sink = self._sink
        exchange = sink.began()
        exchange.method, exchange.target, exchange.line = line
        exchange.headers = fields
        if not fields.keep:
            exchange.keep = False
            self.ignoring = True
        if body:
            sink.whole(exchange, body)
        else:
            sink.complete(exchange)

    def _feed(self, data: bytes) -> None:
        """Have llhttp parse something.  Connections whose heads are all known never need its parser.

        :raises httptools.HttpParserError: it has stopped; or a callback has raised.
        """
        try:
            parser = self._parser
        except AttributeError:
            parser = self._parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)

    def resume(self) -> None:
        """Go on with what was received earlier: as much of it as the sink has room for now."""
        self.parsing = True
        self._parse_stash()
        self.parsing = False
        if self.exchange is None:
            self._headers = _NO_FIELDS

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
            in_chunks = self._chunked and self.head_done
            piece = data[position:end]
            self._parse(piece)
            self._note(piece, in_chunks)
            position = end

    def _note(self, data: bytes, in_chunks: bool) -> None:
        """Note where the request under way stands.

        :param data: what was parsed.
        :param in_chunks: of a chunked body.
        """
        if self.exchange is None:
            self._head, self._chunks = b"", None
        elif in_chunks:
            if self._chunks is None:
                self._chunks = ChunkPlace()
            self._chunks.follow(data)
        elif not self.head_done:
            self._head += data
        else:
            self._head = b""

    def _parse(self, data: bytes) -> None:
        self._special = True
        self._sent = b""
        self._unread += len(data)
        if self._start:
            data, self._start = self._start + data, b""
            self._line = b""
        elif self.exchange is None:
            self._line = b""
        if self._line is not None:
            self._look_at_line(data)
        try:
            self._feed(data)
        except _STOPPED as error:
            self._exceptional(error, data)
        if self.exchange is not None:
            self._incomplete(data)
        else:
            self._unread = 0  # empty lines between two requests do not add up

    def _look_at_line(self, data: bytes) -> None:
        """Refuse a request of another protocol (RFC 9112 §2.3)."""
        assert self._line is not None
        line, end, _ = (self._line + data).lstrip(b"\r\n").partition(b"\r\n")
        if not end:
            self._line = line[-_LINE_END:]
            return
        self._line = None
        if line.rpartition(b" ")[2].startswith(_OTHER_PROTOCOLS):
            self._wrong(400)

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
        if self.ignoring:
            return  # it was the last one
        self._parser = httptools.HttpRequestParser(self)
        if self._upgrade:
            self._upgrade = False
            self._prime()
        self.unparsed = rest + self.unparsed
        self._parse_stash()

    def _unusual_method(self, data: bytes) -> None:
        """llhttp knows a list of methods; RFC 9110 §9.1 says that any token may be one."""
        data = data.lstrip(b"\r\n")
        method, space, _ = data.partition(b" ")
        if not TOKEN.match(method):
            self.refuse(400)
        elif len(method) > MAX_METHOD:
            self.refuse(501)  # RFC 9112 §3: longer than any that is implemented
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
        exchange = self.give_up() or self._sink.began()
        self.head_done = False
        exchange.error, exchange.keep = status, False
        self._sink.complete(exchange)

    def give_up(self) -> Exchange | None:
        """Let go of the request under way, which will not be complete; it says what is known of it."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None and exchange.target and not self.head_done:
            exchange.method = (self._method or self._parser.get_method()).decode("ascii")
            if exchange.headers:
                exchange.version = self._parser.get_http_version()
        return exchange

    # -- on the way to another process ----------------------------------------------------------------------

    def place(self) -> Place | None:
        """Where the request under way stands; None if there is none."""
        if self.exchange is None:
            return None
        if not self.head_done:
            return Place(head=self._head)
        if self._chunked:
            return Place(chunks=self._chunks or ChunkPlace())
        return Place(left=self._body_left)

    def go_on(self, exchange: Exchange, place: Place) -> None:
        """Go on in a body whose beginning another process has parsed.  Nothing has been fed yet."""
        self.exchange = exchange
        self.head_done = self._special = True
        pretended, own = (b"", b"") if place.chunks is None else place.chunks.lead()
        if place.chunks is None:
            self._length = self._body_left = place.left
        else:
            self._chunked = True
            self._chunks = ChunkPlace(place.chunks.left, b"", False)
        self._prime(pretended)
        if own:
            self.feed(own)

    def _prime(self, pretended: bytes = b"") -> None:
        """Put a new parser behind a head that announces the body of the request under way.

        :param pretended: what it is to take for the beginning of the body, and not to pass on.
        """
        self._priming = True
        framing = b"Transfer-Encoding: chunked" if self._chunked else b"Content-Length: %d" % self._length
        self._feed(b"POST / HTTP/1.1\r\n" + framing + END + pretended)
        self._priming = False

    def rest(self) -> None:
        """Let go of llhttp's parser between two requests."""
        if hasattr(self, "_parser"):
            del self._parser

    def close(self) -> None:
        """Let go of the parser and of the sink, which hold on to this object."""
        self.ignoring = True
        self.exchange = None
        self.unparsed = self._start = b""
        self.rest()
        if hasattr(self, "_sink"):
            del self._sink
