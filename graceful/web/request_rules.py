"""What a request must pass: the rules of RFC 9112 and 9110 that the parser does not know.

`httptools` (llhttp) is strict about syntax, but it is no gate: it lets through a request without Host, HTTP/0.9 and
2.0, Transfer-Encoding on HTTP/1.0 and chunk extensions without end, and mixes trailers with headers.  It calls the
methods here with what it finds, and each of them may refuse the request: with an exception, which ends the parser.
What is wrong with a field is remembered until the head is complete: the fields behind it tell the logs whose request
it was, and proxies add theirs at the end.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

import httptools

from graceful.web.exchange import Exchange
from graceful.web.field_kinds import (
    BAD,
    CODING,
    CONNECTION,
    DROP,
    EXPECT,
    HOST,
    LENGTH,
    PLAIN,
    PROXY_CONNECTION,
    SINGLE,
    UPGRADE,
    connection_options,
    kind_of,
    known_kind,
)
from graceful.web.field_lines import learn_lines
from graceful.web.known_heads import learn_fields

#: Bytes of a request target; RFC 9112 §3 asks for at least 8,000.
MAX_TARGET: Final = 8190
#: Bytes of a head, of a chunk's extensions or of trailers: these are held in memory.
MAX_HEAD: Final = 65536
#: Fields in one head.
MAX_FIELDS: Final = 200
_hosts: set[bytes] = set()
#: Methods that the parser has taken before, with their names.
METHODS: Final[dict[bytes, str]] = {}
_REMEMBERED: Final = 1024
#: Bytes of the longest one that is remembered: a name of the DNS and a port.
_LONGEST_HOST: Final = 260
_HASH: Final = ord("#")  # as a number it is found ten times as fast
# Three kinds of host (RFC 3986 §3.2.2): an IPv6 address, an address of the future, a name or an IPv4 address.
_HOST_FORM: Final = re.compile(
    rb"(?:\[(?:([0-9A-Fa-f:.]+)|[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+)\]"
    rb"|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?\Z"
)


def _is_host(value: bytes) -> bool:
    """Whether this is a host, with a port or without (RFC 9110 §7.2)."""
    match = _HOST_FORM.match(value)
    if match is None:
        return False
    if match[1] is not None:
        try:
            IPv6Address(match[1].decode("ascii"))
        except ValueError:
            return False
    return True


class Refuse(Exception):
    """Raised out of a parser callback: the request gets this status, and the connection ends."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Sink:
    """The receiver of what the parser finds; the receiving half of a connection is one."""

    __slots__ = ()

    def began(self) -> Exchange:
        """The first byte of a request has come."""
        raise NotImplementedError

    def announced(self, exchange: Exchange) -> None:
        """A head is complete, behind which a body is to come."""
        raise NotImplementedError

    def expects(self) -> None:
        """The client waits for 100 Continue before it sends the body."""
        raise NotImplementedError

    def body(self, exchange: Exchange, data: bytes) -> None:
        """A piece of the body has come."""
        raise NotImplementedError

    def complete(self, exchange: Exchange) -> None:
        """The request is whole, or refused (`exchange.error`)."""
        raise NotImplementedError

    def whole(self, exchange: Exchange, body: bytes) -> None:
        """The request is whole, and its body came with its head: instead of the three calls before."""
        raise NotImplementedError

    def full(self) -> bool:
        """Whether parsing has to stop until `resume` is called."""
        raise NotImplementedError


class RequestRules:
    """What the parser of one connection calls.  Reactor thread only.

    :ivar exchange: the exchange whose request is under way, or None between requests.
    :ivar ignoring: nothing that comes from now on is a request.
    :ivar head_done: the head of the request under way is complete, its body is coming.
    """

    __slots__ = (
        "_body_left",
        "_chunked",
        "_expect",
        "_fault",
        "_headers",
        "_hosts",
        "_length",
        "_max_body",
        "_method",
        "_parser",
        "_persist",
        "_priming",
        "_progress",
        "_refused",
        "_sent",
        "_singles",
        "_sink",
        "_special",
        "_unread",
        "_upgrade",
        "exchange",
        "head_done",
        "ignoring",
    )

    _parser: httptools.HttpRequestParser
    _sink: Sink
    __deletable__ = ("_parser", "_sink")  # for mypyc, whose attributes cannot be deleted unless it is said

    def __init__(self, sink: Sink, max_body: int) -> None:
        self._sink = sink
        self._max_body = max_body
        self.exchange: Exchange | None = None
        self.ignoring = self.head_done = False
        # The method as it was sent, if the parser was given another one in its place.
        self._method: bytes | None = None
        # Bytes of the head under way, or that brought a body no further; of the body that are to come.
        self._unread = self._body_left = 0
        # The fields of the head under way, and what they have said.
        self._headers: list[tuple[bytes, bytes]] = []
        self._hosts = 0
        self._singles = 0  # which fields of one value it has
        self._length = -1
        self._chunked = self._expect = self._persist = self._upgrade = False
        self._priming = False  # the parser is being fed what the client did not send
        self._progress = False  # something of the body has come
        self._special = False  # the request is more than a plain one in one piece: more is to be reset
        # The fields of the head that is being parsed, as they were sent, if it is whole and may be plain.
        self._sent = b""
        self._fault = 0  # the status for what is wrong with a field of the head under way
        self._refused: Refuse | None = None

    def on_message_begin(self) -> None:
        if self.exchange is None:
            exchange = self.exchange = self._sink.began()
            exchange.headers = self._headers = []

    def on_url(self, part: bytes) -> None:
        if not self._priming:
            exchange = self.exchange
            assert exchange is not None
            exchange.target = exchange.target + part if exchange.target else part

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange: Exchange = self.exchange  # type: ignore[assignment]
        kind = known_kind(name)
        if kind is None:
            kind = kind_of(name)
        if self.head_done:
            self._trailer(exchange, kind, name, value)
            return
        value = value.rstrip(b" \t")
        if kind:
            if kind == HOST and value in _hosts:
                self._hosts += 1
            elif kind >= SINGLE:
                if self._singles & kind:
                    self._wrong(400)
                self._singles |= kind
            elif kind == DROP:
                return
            else:
                self._framing(kind, value, exchange)
        self._headers.append((name, value))

    def _trailer(self, exchange: Exchange, kind: int, name: bytes, value: bytes) -> None:
        if kind == BAD:
            self._refuse(400)
        if not self._priming and (kind == PLAIN or kind >= SINGLE):
            if exchange.trailers is None:
                exchange.trailers = []
            exchange.trailers.append((name, value.rstrip(b" \t")))

    def _framing(self, kind: int, value: bytes, exchange: Exchange) -> None:
        if kind == HOST:
            self._hosts += 1
            if not _is_host(value):
                self._wrong(400)
            elif len(value) <= _LONGEST_HOST:
                if len(_hosts) >= _REMEMBERED:
                    _hosts.clear()  # those that really come again will soon be back
                _hosts.add(value)
            return
        self._special = True
        if kind != CONNECTION and kind != LENGTH:
            self._sent = b""  # it is not a plain head
        if kind == CONNECTION:
            options = connection_options(value)
            if b"close" in options:
                exchange.keep = False
            elif b"keep-alive" in options:
                self._persist = True
        elif kind == PROXY_CONNECTION:
            # No business of ours; but llhttp takes it for the real one, and would take no more requests.
            if b"close" in value.lower():
                exchange.keep = False
        elif kind == EXPECT:
            # A list, which may have empty members (RFC 9110 §10.1.1, §5.6.1).
            members = {member.strip(b" \t") for member in value.lower().split(b",")} - {b""}
            if members == {b"100-continue"}:
                self._expect = True
            elif members:
                self._wrong(417)
        elif kind == LENGTH:
            self._length = int(value)
        elif kind == CODING:
            # What follows an unknown coding cannot be framed (RFC 9112 §6.1).
            if self._chunked or value.lower() != b"chunked":
                self._wrong(501)
            self._chunked = True
        elif kind == UPGRADE:
            self._upgrade = True
            exchange.upgrade = b"websocket" in [token.strip(b" \t") for token in value.lower().split(b",")]
        elif kind == BAD:
            self._wrong(400)

    def _wrong(self, status: int) -> None:
        """Refuse the request when its head is complete; of several faults the first one counts."""
        self._special = True
        self._fault = self._fault or status

    def _refuse(self, status: int) -> None:
        self._refused = Refuse(status)
        raise self._refused

    def on_headers_complete(self) -> None:
        if self._priming:
            return
        exchange = self.exchange
        assert exchange is not None
        parser = self._parser
        method = self._method
        if method is None:
            method = parser.get_method()
        else:
            self._method = None
        name = METHODS.get(method)
        if name is None:
            name = method.decode("ascii")
            if method == b"CONNECT":  # never remembered; llhttp would take its body for the next request
                self._wrong(501)
            elif len(METHODS) < _REMEMBERED and method != b"PRI":  # which HTTP/2 has reserved (RFC 9113 §11.6)
                METHODS[method] = name
        exchange.method = name
        # Without a Connection field only HTTP/1.1 persists; asking for the version is four times as dear.
        if self._special or not parser.should_keep_alive():
            self._settle_version(exchange, parser.get_http_version())
        if self._hosts != 1 and exchange.version == "1.1":
            self._refuse(400)
        target = exchange.target
        if len(target) > MAX_TARGET:
            self._refuse(414)
        if len(exchange.headers) > MAX_FIELDS or self._unread > MAX_HEAD:
            self._refuse(431)
        if target[:1] != b"/" or _HASH in target:
            self._other_form(exchange, target)
        self.head_done = True
        if self._special:
            self._expect_body()

    def _settle_version(self, exchange: Exchange, version: str) -> None:
        """What an HTTP version that may not be 1.1 means (RFC 9112 §2.3, §9.3), and whether a field was wrong."""
        self._special = True
        exchange.version = version
        if version != "1.1":
            self._sent = b""
        if self._fault:
            self._refuse(self._fault)
        if version == "1.0":
            exchange.keep = exchange.keep and self._persist
            if self._chunked or self._hosts > 1:
                self._refuse(400)
            self._expect = False
        elif version != "1.1":
            self._refuse(505)

    def _expect_body(self) -> None:
        """The head is complete, and may have announced a body (RFC 9112 §6)."""
        self._progress = True
        exchange = self.exchange
        assert exchange is not None
        if self._chunked or self._length > 0:
            if self._length > self._max_body:
                self._refuse(413)
            self._body_left = max(self._length, 0)
            self._upgrade = self._upgrade and self._parser.should_upgrade()
            exchange.upgrade = False  # a WebSocket begins with a GET, which has no body (RFC 6455 §4.1)
            self._sink.announced(exchange)
            if self._expect:
                self._sink.expects()
        else:
            if exchange.upgrade:
                is_get = exchange.method == "GET" and exchange.version == "1.1"
                exchange.upgrade = is_get and self._parser.should_upgrade()
            self._upgrade = False

    def _other_form(self, exchange: Exchange, target: bytes) -> None:
        """Every request target that is not a plain path (RFC 9112 §3.2)."""
        if target == b"*" and exchange.method == "OPTIONS":
            return
        scheme, colon, rest = target.partition(b"://")
        if not colon or scheme.lower() not in (b"http", b"https") or _HASH in target:
            self._refuse(400)
        cut = min(len(rest) if at < 0 else at for at in (rest.find(b"/"), rest.find(b"?")))
        authority = rest[:cut]
        if authority[:1] in (b"", b":") or not _is_host(authority):
            self._refuse(400)
        path = rest[cut:]
        exchange.target = path if path[:1] == b"/" else b"/" + path
        # The authority of the target replaces what Host said (RFC 9112 §3.2.2).
        others = [(n, v) for n, v in exchange.headers if n.lower() != b"host"]
        exchange.headers = [*others, (b"Host", authority)]
        self._special = True
        self._sent = b""

    def on_body(self, data: bytes) -> None:
        if self._priming:
            return
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
        self._hosts = self._singles = 0
        if self._special:
            self._special = self._chunked = self._expect = self._persist = self._progress = False
            self._unread = self._body_left = 0
            self._length = -1
            if not exchange.keep:
                self.ignoring = True
            elif not self._parser.should_keep_alive():
                # What is ignored here, as a `Connection: close` among the trailers (RFC 9110 §6.5.1), counts for
                # llhttp, which would refuse the next request.
                self._parser = httptools.HttpRequestParser(self)
        if self._sent:
            # Before anything else can come: what answers the request may read from the connection.
            learn_lines(self._sent, self._headers)
            learn_fields(self._sent, self._headers, exchange.received, exchange.keep)
        self._sink.complete(exchange)
