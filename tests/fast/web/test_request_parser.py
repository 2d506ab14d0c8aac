"""From bytes to requests: the same ones however the network cuts them, and no more of them than there is room for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.web.exchange import Exchange
from graceful.web.field_kinds import SINGLE_VALUED
from graceful.web.request_parser import MAX_METHOD, RequestParser
from graceful.web.request_rules import MAX_FIELDS, MAX_HEAD, MAX_TARGET, Refuse
from tests.support.examples import examples

MAX_BODY = 1000
READ = 65536
"""What a connection reads at a time."""

HOST = b"Host: example.org\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"


class Request(NamedTuple):
    """What became of a request."""

    method: str = "GET"
    target: bytes = b"/"
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ((b"Host", b"example.org"),)
    trailers: tuple[tuple[bytes, bytes], ...] = ()
    version: str = "1.1"
    keep: bool = True


class Sink:
    """Collects what a parser makes of the bytes.

    :param room: how many requests to take before it is full.
    :ivar parser: the parser.
    :ivar done: the requests, or the status with which one was refused.
    :ivar begun: how many requests have begun.
    :ivar expected: how often the client waited for 100 Continue.
    """

    def __init__(self, room: int = 1 << 30) -> None:
        self.parser = RequestParser(self, MAX_BODY)
        self.done: list[Request | int] = []
        self.begun = self.expected = 0
        self._bodies: dict[int, bytes] = {}
        self.make_room(room)

    def make_room(self, room: int) -> None:
        """Take so many requests, from the first one on."""
        self.room = room
        self.parser.held = self.full()

    def began(self) -> Exchange:
        self.begun += 1
        exchange = Exchange(SimpleNamespace(peer="", scheme="http"))  # type: ignore[arg-type]
        exchange.id = self.begun
        return exchange

    def announced(self, exchange: Exchange) -> None:
        pass

    def expects(self) -> None:
        self.expected += 1

    def body(self, exchange: Exchange, data: bytes) -> None:
        self._bodies[exchange.id] = self._bodies.get(exchange.id, b"") + data

    def complete(self, exchange: Exchange) -> None:
        self.done.append(
            exchange.error
            or Request(
                exchange.method,
                exchange.target,
                self._bodies.pop(exchange.id, b""),
                tuple(exchange.headers),
                tuple(exchange.trailers or ()),
                exchange.version,
                exchange.keep,
            )
        )
        self.parser.held = self.full()

    def whole(self, exchange: Exchange, body: bytes) -> None:
        exchange.received = len(body)
        self.body(exchange, body)
        self.complete(exchange)

    def full(self) -> bool:
        return len(self.done) >= self.room


def feed(*pieces: bytes, room: int = 1 << 30) -> tuple[Sink, RequestParser]:
    """Feed a parser as a connection does: nothing more once it is ignoring."""
    sink = Sink(room)
    for piece in pieces:
        if piece and not sink.parser.ignoring:
            sink.parser.feed(piece)
    return sink, sink.parser


def outcome(*pieces: bytes) -> list[Request | int]:
    """What becomes of these bytes."""
    return feed(*pieces)[0].done


def each_byte(data: bytes) -> list[bytes]:
    """The bytes, one by one."""
    return [data[at : at + 1] for at in range(len(data))]


def moved(sink: Sink) -> Sink:
    """Returns what another process has that goes on where this one has stopped."""
    there, here = Sink(sink.room), sink.parser
    there.done, there.begun, there._bodies = sink.done, sink.begun, sink._bodies
    there.parser.held = here.held
    place, exchange = here.place(), here.exchange
    if place is not None and place.head:
        there.begun -= 1
        there.parser.feed(place.head)
    elif place is not None:
        assert exchange is not None
        exchange.trailers = None
        there.parser.go_on(exchange, place)
    if here.unparsed:
        there.parser.feed(here.unparsed)
    there.parser.ignoring = here.ignoring
    return there


def outcome_moved(*pieces: bytes) -> list[Request | int]:
    """What becomes of these bytes if each is parsed in another process than the one before."""
    sink = Sink()
    for piece in pieces:
        if piece and not sink.parser.ignoring:
            sink.parser.feed(piece)
        sink = moved(sink)
    return sink.done


def in_reads(data: bytes) -> list[bytes]:
    """The bytes as they are read from a connection that holds them all."""
    return [data[at : at + READ] for at in range(0, len(data), READ)]


def fields(*more: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """The fields of a request that has a Host and these."""
    return ((b"Host", b"example.org"), *more)


GOOD: dict[str, tuple[bytes, Request]] = {
    "a plain one": (GET + END, Request()),
    "no head room": (b"GET / HTTP/1.1\r\nHost:\r\n\r\n", Request(headers=((b"Host", b""),))),
    "query and escapes": (
        b"GET /a%20b//c;d?e=f&g=%00?/ HTTP/1.1\r\n" + HOST + END,
        Request(target=b"/a%20b//c;d?e=f&g=%00?/"),
    ),
    "two slashes": (b"GET //a/b HTTP/1.1\r\n" + HOST + END, Request(target=b"//a/b")),
    "empty lines before it": (b"\r\n\r\n\r\n" + GET + END, Request()),
    "whitespace around values": (
        GET + b"X-A: \t b  c \t \r\nX-B:\r\nX-C:   \r\n" + END,
        Request(headers=fields((b"X-A", b"b  c"), (b"X-B", b""), (b"X-C", b""))),
    ),
    "bytes above ASCII": (GET + b"X-A: \xe4\xff\r\n" + END, Request(headers=fields((b"X-A", b"\xe4\xff")))),
    "repeated fields": (
        GET + b"Cookie: a=1\r\nX: 1\r\nCookie: b=2\r\n" + END,
        Request(headers=fields((b"Cookie", b"a=1"), (b"X", b"1"), (b"Cookie", b"b=2"))),
    ),
    "a body": (
        POST + b"Content-Length: 5\r\n\r\nhello",
        Request("POST", body=b"hello", headers=fields((b"Content-Length", b"5"))),
    ),
    "an announced empty body": (
        POST + b"Content-Length: 0\r\n\r\n",
        Request("POST", headers=fields((b"Content-Length", b"0"))),
    ),
    "a body of empty lines": (
        POST + b"Content-Length: 10\r\n\r\n\r\n\r\n\r\n\r\nab",
        Request("POST", body=b"\r\n\r\n\r\n\r\nab", headers=fields((b"Content-Length", b"10"))),
    ),
    "a GET with a body": (
        GET + b"Content-Length: 2\r\n\r\nab",
        Request(body=b"ab", headers=fields((b"Content-Length", b"2"))),
    ),
    "chunks": (
        CHUNKED + b'3\r\nabc\r\nA;name="v;x"\r\n0123456789\r\n000\r\n\r\n',
        Request("POST", body=b"abc0123456789", headers=fields((b"Transfer-Encoding", b"chunked"))),
    ),
    "no chunks": (CHUNKED + b"0\r\n\r\n", Request("POST", headers=fields((b"Transfer-Encoding", b"chunked")))),
    "chunks of empty lines": (
        POST + b"Transfer-Encoding: Chunked\r\n\r\n4\r\n\r\n\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n",
        Request("POST", body=b"\r\n\r\n\r\n", headers=fields((b"Transfer-Encoding", b"Chunked"))),
    ),
    "trailers": (
        CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 9 \r\nHost: evil\r\nX_U: z\r\nX-T:\r\n\r\n",
        Request(
            "POST",
            body=b"abc",
            headers=fields((b"Transfer-Encoding", b"chunked")),
            trailers=((b"X-Sum", b"9"), (b"X-T", b"")),
        ),
    ),
    "an unusual method": (b"FROB /x HTTP/1.1\r\n" + HOST + END, Request("FROB", b"/x")),
    "lower case is another method": (b"get /x HTTP/1.1\r\n" + HOST + END, Request("get", b"/x")),
    "a longer method": (b"GETS /x HTTP/1.1\r\n" + HOST + END, Request("GETS", b"/x")),
    "every character of a token": (
        b"a!#$%&'*+-.^_`|~09Z / HTTP/1.1\r\n" + HOST + END,
        Request("a!#$%&'*+-.^_`|~09Z"),
    ),
    "the longest method": (b"M" * MAX_METHOD + b" / HTTP/1.1\r\n" + HOST + END, Request("M" * MAX_METHOD)),
    "an unusual method with chunks": (
        b"FROB / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\n\r\n",
        Request("FROB", body=b"ab", headers=fields((b"Transfer-Encoding", b"chunked")), trailers=((b"X-T", b"1"),)),
    ),
    "a method that another protocol knows": (b"PLAY /x HTTP/1.1\r\n" + HOST + END, Request("PLAY", b"/x")),
    "an upgrade": (
        GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        Request(
            headers=fields(
                (b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMA")
            )
        ),
    ),
    "an upgrade with a body": (
        POST + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nhello",
        Request(
            "POST",
            body=b"hello",
            headers=fields((b"Connection", b"upgrade"), (b"Upgrade", b"x"), (b"Content-Length", b"5")),
        ),
    ),
    "an upgrade with chunks": (
        POST
        + b"Connection: upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: y\r\n\r\n",
        Request(
            "POST",
            body=b"hello",
            headers=fields((b"Connection", b"upgrade"), (b"Upgrade", b"x"), (b"Transfer-Encoding", b"chunked")),
            trailers=((b"X-T", b"y"),),
        ),
    ),
    "an upgrade with an unusual method": (
        b"FROB / HTTP/1.1\r\n" + HOST + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nab",
        Request(
            "FROB",
            body=b"ab",
            headers=fields((b"Connection", b"upgrade"), (b"Upgrade", b"x"), (b"Content-Length", b"2")),
        ),
    ),
    "absolute form": (
        b"GET http://other:81/a?b HTTP/1.1\r\n" + HOST + b"X: y\r\n\r\n",
        Request(target=b"/a?b", headers=((b"X", b"y"), (b"Host", b"other:81"))),
    ),
    "absolute form without a path": (
        b"GET HTTPS://[::1]?b HTTP/1.1\r\nhOST: c\r\n\r\n",
        Request(target=b"/?b", headers=((b"Host", b"[::1]"),)),
    ),
    "asterisk form": (b"OPTIONS * HTTP/1.1\r\n" + HOST + END, Request("OPTIONS", b"*")),
    "dropped underscores": (
        GET + b"X_A: 1\r\nX-A: 2\r\nContent_Length: 5\r\nX-Forwarded_For: 1\r\n" + END,
        Request(headers=fields((b"X-A", b"2"))),
    ),
    "HTTP/1.0 with keep-alive": (
        b"GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n",
        Request(version="1.0", headers=((b"Connection", b"foo, Keep-Alive"),)),
    ),
}

LAST: dict[str, tuple[bytes, Request]] = {
    "close": (
        GET + b"Connection: foo, CLOSE\r\n" + END,
        Request(keep=False, headers=fields((b"Connection", b"foo, CLOSE"))),
    ),
    "close and keep-alive": (
        GET + b"Connection: keep-alive, close\r\n" + END,
        Request(keep=False, headers=fields((b"Connection", b"keep-alive, close"))),
    ),
    "close in a field of long ago": (
        GET + b"Proxy-Connection: close\r\n" + END,
        Request(keep=False, headers=fields((b"Proxy-Connection", b"close"))),
    ),
    "close, with an upgrade and chunks": (
        POST + b"Connection: close, upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        Request(
            "POST",
            body=b"a",
            keep=False,
            headers=fields(
                (b"Connection", b"close, upgrade"), (b"Upgrade", b"x"), (b"Transfer-Encoding", b"chunked")
            ),
        ),
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", Request(version="1.0", keep=False, headers=())),
    "HTTP/1.0 with a Host": (b"GET / HTTP/1.0\r\n" + HOST + END, Request(version="1.0", keep=False)),
    "HTTP/1.0 with a body": (
        b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab",
        Request("POST", body=b"ab", version="1.0", keep=False, headers=((b"Content-Length", b"2"),)),
    ),
    "HTTP/1.0 with an unusual method": (
        b"FROB /x HTTP/1.0\r\n\r\n",
        Request("FROB", b"/x", version="1.0", keep=False, headers=()),
    ),
}

BAD: dict[str, tuple[int, bytes]] = {
    # Framing (RFC 9112 §6).
    **{
        f"control {control:#04x} in a value": (400, GET + b"X-A: a" + bytes([control]) + b"b\r\n\r\n")
        for control in (*range(9), 11, 12, *range(14, 32), 127)
    },
    "length and coding": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "differing lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"),
    "a list of lengths": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "a negative length": (400, POST + b"Content-Length: -3\r\n\r\nabc"),
    "a hexadecimal length": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "an empty length": (400, POST + b"Content-Length:\r\n\r\n"),
    "a length beyond all": (400, POST + b"Content-Length: 99999999999999999999999\r\n\r\n"),
    "coding on 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding on 1.0 with keep-alive": (
        400,
        b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked twice": (400, POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "chunked in two fields": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked before another": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "hexadecimal prefix": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "signed chunk": (400, CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    "space before a size": (400, CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n"),
    "space behind a size": (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    "no size": (400, CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    "a size beyond all": (400, CHUNKED + b"fffffffffffffffff\r\nabc"),
    "NUL in an extension": (400, CHUNKED + b"3;a\0\r\nabc\r\n0\r\n\r\n"),
    "CR in an extension": (400, CHUNKED + b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    "LF ends a size": (400, CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    "a chunk longer than its size": (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    "a bad trailer": (400, CHUNKED + b"0\r\nX T: 1\r\n\r\n"),
    "a folded trailer": (400, CHUNKED + b"0\r\nX: 1\r\n 2\r\n\r\n"),
    # Fields (RFC 9112 §5).
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, GET + b"Host: example.org\r\n\r\n"),
    "two Hosts on 1.0": (400, b"GET / HTTP/1.0\r\n" + HOST + b"Host: b\r\n\r\n"),
    "no Host with absolute form": (400, b"GET http://a/ HTTP/1.1\r\n\r\n"),
    "space in Host": (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    "slash in Host": (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    "user in Host": (400, b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    "NUL": (400, GET + b"X: a\0b\r\n\r\n"),
    "CR": (400, GET + b"X: a\rb\r\n\r\n"),
    "another control": (400, GET + b"X: a\x01b\r\n\r\n"),
    "DEL": (400, GET + b"X: a\x7fb\r\n\r\n"),
    "obs-fold": (400, GET + b"X: a\r\n b\r\n\r\n"),
    "obs-fold by a tab": (400, GET + b"X: a\r\n\tb\r\n\r\n"),
    "obs-fold at first": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "space before the colon": (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "no colon": (400, GET + b"foo\r\n\r\n"),
    "no name": (400, GET + b": foo\r\n\r\n"),
    "no token for a name": (400, GET + b"a(b: foo\r\n\r\n"),
    "an empty name": (400, GET + b": a\r\n\r\n"),
    "space in a name": (400, GET + b"X Y: a\r\n\r\n"),
    "tab before the colon": (400, GET + b"X\t: a\r\n\r\n"),
    "space before the colon of a trailer": (400, CHUNKED + b"0\r\nX : y\r\n\r\n"),
    "LF ends the head": (400, GET + b"\n\r\n\r\n"),
    "LF ends the line, and a head behind it": (400, b"GET / HTTP/1.1\n" + HOST + END),
    "LF ends the first field": (400, b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n"),
    "LF ends a field": (400, GET + b"X: a\n\r\n"),
    # Request lines (RFC 9112 §3).
    "LF ends the line": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "no method": (400, b" / HTTP/1.1\r\n" + HOST + END),
    "no token for a method": (400, b"G@T / HTTP/1.1\r\n" + HOST + END),
    "too long a method": (501, b"M" * (MAX_METHOD + 1) + b" / HTTP/1.1\r\n" + HOST + END),
    "a tab behind the method": (400, b"GET\t/ HTTP/1.1\r\n" + HOST + END),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 "),
    "a space in the target": (400, b"GET /a b HTTP/1.1\r\n" + HOST + END),
    "a control in the target": (400, b"GET /\x01 HTTP/1.1\r\n" + HOST + END),
    "a fragment": (400, b"GET /a#b HTTP/1.1\r\n" + HOST + END),
    "a fragment in absolute form": (400, b"GET http://a/#b HTTP/1.1\r\n" + HOST + END),
    "no path": (400, b"GET a HTTP/1.1\r\n" + HOST + END),
    "GET *": (400, b"GET * HTTP/1.1\r\n" + HOST + END),
    "another scheme": (400, b"GET ftp://a/ HTTP/1.1\r\n" + HOST + END),
    "no authority": (400, b"GET http:///a HTTP/1.1\r\n" + HOST + END),
    "user in absolute form": (400, b"GET http://u@a/ HTTP/1.1\r\n" + HOST + END),
    "another protocol": (400, b"GET / HTTPS/1.1\r\n" + HOST + END),
    "lower-case protocol": (400, b"GET / http/1.1\r\n" + HOST + END),
    # What we do not do.
    "too large": (413, POST + b"Content-Length: 1001\r\n\r\n"),
    "too large in one chunk": (413, CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n"),
    "too large in several chunks": (413, CHUNKED + b"1f5\r\n" + b"x" * 501 + b"\r\n1f4\r\n" + b"x" * 500 + b"\r\n"),
    "too large, with an upgrade": (
        413,
        POST + b"Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1001\r\n\r\n",
    ),
    "too long a target": (414, b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1\r\n" + HOST + END),
    "RTSP": (400, b"GET / RTSP/1.1\r\n" + HOST + END),
    "RTSP 1.0": (400, b"OPTIONS / RTSP/1.0\r\n" + HOST + END),
    "RTSP with a method of its own": (400, b"DESCRIBE / RTSP/1.0\r\n" + HOST + END),
    "RTSP with a body": (400, b"POST / RTSP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\na"),
    "RTSP that speaks of HTTP": (400, b"GET / RTSP/1.1\r\n" + HOST + b"X: HTTP/1.1\r\n HTTP/1.1\r\n\r\n"),
    "RTSP behind empty lines": (400, b"\r\n\r\nGET / RTSP/1.1\r\n" + HOST + END),
    "ICE": (400, b"SOURCE / ICE/1.0\r\n" + HOST + END),
    **{
        f"two of {name.decode()}": (400, GET + name + b": 1\r\nX: y\r\n" + name.title() + b": 1\r\n\r\n")
        for name in SINGLE_VALUED
    },
    "no host in the target": (400, b"GET http://:80/x HTTP/1.1\r\n" + HOST + END),
    "an IPv6 address of colons": (400, b"GET / HTTP/1.1\r\nHost: [:::::::::]\r\n\r\n"),
    "an IPv6 address of nothing": (400, b"GET / HTTP/1.1\r\nHost: []\r\n\r\n"),
    "an IPv4 address in brackets": (400, b"GET / HTTP/1.1\r\nHost: [192.0.2.1]\r\n\r\n"),
    "a bad escape in Host": (400, b"GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n"),
    "an IPv6 address of colons in the target": (400, b"GET http://[::::]/ HTTP/1.1\r\n" + HOST + END),
    "100-continue and another": (417, POST + b"Expect: 100-continue, x\r\nContent-Length: 1\r\n\r\na"),
    "unknown expectation": (417, POST + b"Expect: 200-ok\r\nContent-Length: 1\r\n\r\na"),
    "too many fields": (431, GET + b"X: y\r\n" * MAX_FIELDS + END),
    "an unknown coding": (501, POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n"),
    "a coding below chunked": (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "identity": (501, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "CONNECT": (501, b"CONNECT a:80 HTTP/1.1\r\n" + HOST + END),
    "CONNECT in another form": (501, b"CONNECT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello"),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2 by its number": (505, b"GET / HTTP/2.0\r\n" + HOST + END),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\n" + HOST + END),
    "HTTP/3": (505, b"GET / HTTP/3.0\r\n" + HOST + END),
}


class GoodTests(SynchronousTestCase):
    """What a good request becomes."""

    def test_a_body_behind_its_head_in_one_piece_is_the_same_as_byte_by_byte(self) -> None:
        """Whatever the head says of the body, and whatever really follows."""
        heads = (
            POST + b"Content-Length: 5",
            POST + b"content-length: 5",
            POST + b"CONTENT-LENGTH: 5",
            POST + b"Content-Length: 5 ",
            POST + b"Content-Length: 5\r\nContent-Length: 5",
            POST + b"Content-Length: 5\r\nContent-Length: 24",
            POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked",
            POST + b"X: Content-Length: 24",
            POST + b"X: 1\r\n Content-Length: 24",
            POST + b"Content-Length: 99999999999999999999",
            POST + b"Content-Length: 5\r\nConnection: close",
            POST + b"Content-Length: 5\r\nUpgrade: websocket\r\nConnection: upgrade",
            POST + b"Content-Length: 5\r\nExpect: 100-continue",
            b"POST / RTSP/1.0\r\n" + HOST + b"Content-Length: 5",
        )
        for head in heads:
            for body in (
                b"hello",
                b"hell",
                b"hello!",
                b"helloGET / HTTP/1.1\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ):
                data = head + END + END + body
                self.assertEqual(outcome(data), outcome(*each_byte(data)), data)

    def test_request_is_parsed_as_sent(self) -> None:
        """Each request becomes what it says, also behind another one."""
        for name, (data, request) in {**GOOD, **LAST}.items():
            self.assertEqual(outcome(data), [request], name)
            self.assertEqual(outcome(GET + END + data), [Request(), request], name)

    def test_a_request_is_the_same_byte_by_byte(self) -> None:
        """Byte by byte each request becomes the same."""
        for name, (data, request) in {**GOOD, **LAST}.items():
            self.assertEqual(outcome(*each_byte(data)), [request], name)

    def test_a_request_is_the_same_cut_anywhere(self) -> None:
        """Cut in two anywhere, each request becomes the same, and so does the next one."""
        for name, (data, request) in GOOD.items():
            for at in range(1, len(data)):
                self.assertEqual(outcome(data[:at], data[at:] + GET + END), [request, Request()], f"{name}, at {at}")

    def test_the_parser_is_as_before_after_each_request(self) -> None:
        """After each request the parser is as it was before, but for what the parser keeps for itself."""
        fresh = Sink().parser
        names = [name for name in RequestParser.__slots__ if name not in ("_parser", "_sink")]
        for name, (data, _) in GOOD.items():
            _, parser = feed(data)
            self.assertEqual(
                {slot: getattr(parser, slot) for slot in names}, {slot: getattr(fresh, slot) for slot in names}, name
            )

    def test_all_behind_each_other(self) -> None:
        """All of them in one packet come in order, none missing and none made up."""
        sink, _ = feed(b"".join(data for data, _ in GOOD.values()))
        self.assertEqual(sink.done, [request for _, request in GOOD.values()])
        self.assertEqual(sink.begun, len(GOOD))

    def test_every_known_method(self) -> None:
        """Every registered method reaches the application, whatever the parser makes of it; CONNECT does not."""
        methods = (
            "ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY "
            "MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PROPFIND PROPPATCH PUT "
            "QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF "
            "VERSION-CONTROL PURGE NOTIFY SUBSCRIBE UNSUBSCRIBE M-SEARCH SOURCE "
            "DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH"
        ).split()
        for method in methods:
            data = method.encode() + b" /x HTTP/1.1\r\n" + HOST + END
            self.assertEqual(outcome(data), [Request(method, b"/x")], method)
            self.assertEqual(outcome(*each_byte(data)), [Request(method, b"/x")], method)


class MovedTests(SynchronousTestCase):
    """A request of which one process has parsed a part, and another one the rest."""

    def test_a_request_is_the_same_wherever_it_moves(self) -> None:
        """In its head, in its body, in the middle of a chunk or of its size, in the trailers; so is the next one."""
        for name, (data, request) in GOOD.items():
            for at in range(len(data) + 1):
                seen = outcome_moved(data[:at], data[at:] + GET + END)
                self.assertEqual(seen, [request, Request()], f"{name}, at {at}")

    def test_a_request_is_the_same_if_it_moves_after_each_byte(self) -> None:
        """A process that has it for one byte only can hand it on."""
        for name, (data, request) in {**GOOD, **LAST}.items():
            self.assertEqual(outcome_moved(*each_byte(data)), [request], name)

    def test_a_bad_request_gets_its_status_wherever_it_moves(self) -> None:
        """What one process has let through is still judged by the other."""
        for name, (status, data) in BAD.items():
            for at in range(len(data)):
                self.assertEqual(outcome_moved(data[:at], data[at:]), [status], f"{name}, at {at}")


class LenientParserTests(SynchronousTestCase):
    """Rules that hold whatever the parser lets through."""

    def test_a_name_that_is_no_token_is_refused_though_the_parser_takes_it(self) -> None:
        """A name with a blank or nothing in it, in a head or among trailers, is refused without the parser's help."""
        for name in (b"", b"X ", b"X Y", b"X\t", b"X(", b"\xe4"):
            rules = Sink().parser
            rules.feed(b"GET ")
            rules.on_url(b"/")
            rules.on_header(b"Host", b"a")
            rules.on_header(name, b"b")
            self.assertEqual(self.assertRaises(Refuse, rules.on_headers_complete).status, 400)
            rules = Sink().parser
            rules.on_message_begin()
            rules.on_url(b"/")
            rules.on_header(b"Host", b"a")
            rules.on_header(b"Transfer-Encoding", b"chunked")
            rules.head_done = True
            self.assertEqual(self.assertRaises(Refuse, rules.on_header, name, b"b").status, 400)


class IgnoredTests(SynchronousTestCase):
    """What is ignored in one request, and must not count in the next."""

    def test_a_field_that_is_ignored_does_not_count_in_the_next_request(self) -> None:
        """Behind trailers and fields that mean nothing here, two plain requests are answered, however all is cut."""
        trailers = (
            b"Connection: close",
            b"connection: CLOSE",
            b"X: 1\r\nConnection: x, close",
            b"Proxy-Connection: close",
            b"Connection: keep-alive",
            b"Connection: upgrade\r\nUpgrade: x",
            b"Expect: x",
            b"Host: b",
            b"X_Y: 1",
        )
        in_heads = (
            b"Connection: x close",
            b"Connection: closed",
            b"Connection: close;x",
            b"Connection: upgrade\r\nUpgrade: x",
            b"Upgrade: x",
            b"Proxy-Connection: keep-alive",
            b"X_Connection: close",
        )
        messages = [CHUNKED + b"3\r\nabc\r\n0\r\n" + trailer + END + END for trailer in trailers]
        messages += [GET + field + END + END for field in in_heads]
        messages += [POST + b"Content-Length: 3\r\n" + field + b"\r\n\r\nabc" for field in in_heads]
        for message in messages:
            with self.subTest(message):
                first, *rest = outcome(message, GET + END, GET + END)
                assert isinstance(first, Request)
                self.assertTrue(first.keep)
                self.assertEqual(rest, [Request(), Request()])
                data = message + GET + END + GET + END
                self.assertEqual(outcome(data), [first, *rest])
                self.assertEqual(outcome(*each_byte(data)), [first, *rest])
                for at in range(len(data)):
                    self.assertEqual(outcome(data[:at], data[at:]), [first, *rest])


class LastTests(SynchronousTestCase):
    """What comes behind the last request of a connection is none."""

    def test_bytes_behind_a_last_request_are_ignored(self) -> None:
        """Bytes behind a last request, good or bad, whole or cut anywhere, are neither a request nor an error."""
        for name, (data, request) in LAST.items():
            for more in (GET + END, b"\0\0", b"GET / HTTP/9.9\r\n\r\n"):
                both = data + more
                for at in range(1, len(both)):
                    sink, parser = feed(both[:at], both[at:])
                    self.assertEqual(sink.done, [request], f"{name}, at {at}")
                    self.assertEqual(sink.begun, 1, f"{name}, at {at}")
                    self.assertTrue(parser.ignoring)

    def test_good_ones_before(self) -> None:
        """Requests before the last one are unharmed."""
        for name, (data, request) in LAST.items():
            self.assertEqual(outcome((GET + END) * 3 + data + GET + END), [Request()] * 3 + [request], name)


class RefusedTests(SynchronousTestCase):
    """What is refused, and how."""

    def test_bad_request_gets_its_status(self) -> None:
        """Each bad request gets its status, behind a good one that is answered first."""
        for name, (status, data) in BAD.items():
            self.assertEqual(outcome(data), [status], name)
            self.assertEqual(outcome(POST + b"Content-Length: 2\r\n\r\nab" + data)[1:], [status], name)

    def test_a_bad_request_gets_the_same_status_byte_by_byte(self) -> None:
        """Byte by byte each bad request gets the same status."""
        for name, (status, data) in BAD.items():
            self.assertEqual(outcome(*each_byte(data)), [status], name)

    def test_a_bad_request_gets_the_same_status_cut_anywhere(self) -> None:
        """Cut in two anywhere, each bad request gets the same status."""
        for name, (status, data) in BAD.items():
            for at in range(1, min(len(data), 200)):
                self.assertEqual(outcome(GET + END + data[:at], data[at:]), [Request(), status], f"{name}, at {at}")

    def test_ignores_everything_after_a_refusal(self) -> None:
        """After a refusal nothing is a request any more, and nothing is kept."""
        for name, (status, data) in BAD.items():
            sink, parser = feed(data + GET + END)
            self.assertTrue(parser.ignoring, name)
            self.assertEqual((parser.unparsed, parser.exchange), (b"", None), name)
            parser.resume()
            self.assertEqual((sink.done, sink.begun), ([status], 1), name)

    def test_refused_from_outside(self) -> None:
        """A request that takes too long is refused in the middle of its head and of its body."""
        for data in (b"GE", b"GET /", GET, POST + b"Content-Length: 5\r\n\r\nab", CHUNKED + b"5\r\nab"):
            sink, parser = feed(data)
            parser.refuse(408)
            self.assertEqual((sink.done, sink.begun, parser.ignoring), ([408], 1, True), data)

    def test_refused_request_keeps_what_is_known(self) -> None:
        """A refused request still says what it was, as far as that is known."""
        seen: list[Exchange] = []
        sink = Sink()
        self.patch(sink, "complete", seen.append)
        sink.parser.feed(b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: 1001\r\n\r\n")
        self.assertEqual([(e.error, e.method, e.target, e.keep) for e in seen], [(413, "POST", b"/upload", False)])


class ExpectTests(SynchronousTestCase):
    """100-continue."""

    def expected(self, data: bytes) -> int:
        """How often a client is expected to wait for 100 Continue."""
        return feed(data)[0].expected

    def test_before_the_body(self) -> None:
        """A client that waits is told of when the head is complete, with a length or with chunks."""
        self.assertEqual(self.expected(POST + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n"), 1)
        self.assertEqual(self.expected(POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"), 1)
        twice = b"Expect: 100-continue, ,100-Continue\r\nContent-Length: 3\r\n\r\n"
        self.assertEqual(self.expected(POST + twice), 1)

    def test_100_continue_is_not_sent_where_no_client_waits_for_it(self) -> None:
        """100 Continue is not due without a body, on HTTP/1.0, or for a refusal (RFC 9110 §10.1.1)."""
        self.assertEqual(self.expected(POST + b"Expect: 100-continue\r\n\r\n"), 0)
        self.assertEqual(self.expected(POST + b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"), 0)
        self.assertEqual(self.expected(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"), 0)
        self.assertEqual(self.expected(POST + b"Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n"), 0)

    def test_each_for_itself(self) -> None:
        """One client's expectation is not its next request's."""
        data = POST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\na" + POST + b"Content-Length: 1\r\n\r\na"
        self.assertEqual(self.expected(data), 1)


class RoomTests(SynchronousTestCase):
    """How much is parsed ahead."""

    def all_of(self, sink: Sink, parser: RequestParser, step: int) -> list[int]:
        """Make room step by step until all is taken; how many there were after each step."""
        counts = []
        while parser.unparsed:
            sink.make_room(sink.room + step)
            parser.resume()
            counts.append(len(sink.done))
        return counts

    def test_no_more_requests_of_a_packet_are_parsed_than_there_is_room_for(self) -> None:
        """Of 2,000 requests in one packet no more than there is room for are parsed; then all come, in order."""
        data = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(2000))
        sink, parser = feed(data, room=8)
        self.assertEqual((len(sink.done), sink.begun), (8, 8))
        counts = self.all_of(sink, parser, 3)
        self.assertEqual(counts, [min(count, 2000) for count in range(11, 2003, 3)])
        self.assertEqual([r.target for r in sink.done], [b"/%d" % number for number in range(2000)])  # type: ignore[union-attr]

    def test_a_packet_each(self) -> None:
        """The same holds when each request has a packet of its own."""
        sink, parser = feed(*[GET + END] * 20, room=8)
        self.assertEqual((len(sink.done), sink.begun), (8, 8))
        self.all_of(sink, parser, 1)
        self.assertEqual(sink.done, [Request()] * 20)

    def test_no_kind_of_request_is_parsed_before_there_is_room(self) -> None:
        """Whatever the requests are, and wherever the first packet ends, none is parsed before there is room."""
        data = b"".join(data for data, _ in GOOD.values())
        for at in range(0, len(data), 7):
            sink, parser = feed(data[:at], data[at:], room=1)
            self.assertEqual((len(sink.done), sink.begun), (1, 1), at)
            counts = self.all_of(sink, parser, 1)
            self.assertEqual(counts, list(range(2, len(GOOD) + 1)), at)
            self.assertEqual(sink.done, [request for _, request in GOOD.values()], at)

    def test_no_room_at_all(self) -> None:
        """Without room for even one, all is kept and nothing begun."""
        sink, parser = feed(GET + END, GET + END, room=0)
        self.assertEqual((sink.done, sink.begun, parser.unparsed), ([], 0, (GET + END) * 2))

    def test_an_error_behind_good_requests_is_met_in_its_turn(self) -> None:
        """An error behind good requests is met when its turn comes, not before."""
        sink, parser = feed((GET + END) * 3 + b"\0" + GET, room=3)
        self.assertEqual((sink.done, parser.ignoring), ([Request()] * 3, False))
        self.all_of(sink, parser, 1)
        self.assertEqual((sink.done, parser.ignoring), ([*[Request()] * 3, 400], True))


class BoundTests(SynchronousTestCase):
    """What a hostile client can make the parser hold."""

    def endless(self, start: bytes, more: bytes) -> tuple[int, int]:
        """Send without an end; the status it ends with, and after how many bytes."""
        sink = Sink()
        parser = sink.parser
        parser.feed(start)
        data = more * (READ // len(more))
        for number in range(1, 20):
            parser.feed(data)
            self.assertLess(len(parser.unparsed), 2 * READ)
            if parser.ignoring:
                (status,) = sink.done
                assert isinstance(status, int)
                return status, number * len(data)
        raise AssertionError("it goes on for ever")

    def test_endless_input_is_refused_after_two_reads(self) -> None:
        """Whatever goes on without an end is refused after two reads at most."""
        for name, start, more, expected in (
            ("target", b"GET /", b"a", 414),
            ("value", GET + b"X: ", b"a", 431),
            ("name", GET, b"a", 431),
            ("fields", GET, b"X: y\r\n", 431),
            ("dropped fields", GET, b"X_A: y\r\n", 431),
            ("value of spaces", GET + b"X:", b" ", 431),
            ("spaces behind the method", b"GET ", b" ", 431),
            ("extension", CHUNKED + b"1;", b"a", 400),
            ("extension behind data", CHUNKED + b"1\r\na\r\n1;", b"a", 400),
            ("extension in quotes", CHUNKED + b'1;a="', b"a", 400),
            ("zeros of a size", CHUNKED, b"0", 400),
            ("trailers", CHUNKED + b"0\r\n", b"X: y\r\n", 400),
            ("trailer", CHUNKED + b"0\r\nX: ", b"a", 400),
        ):
            status, size = self.endless(start, more)
            self.assertEqual(status, expected, name)
            self.assertLessEqual(size, 2 * READ, name)

    def test_an_endless_method_ends_at_its_limit(self) -> None:
        """An endless method ends at its limit, in one read or byte by byte."""
        self.assertEqual(outcome(b"M" * 100_000), [501])
        self.assertEqual(outcome(*each_byte(b"M" * 1000)), [501])

    def test_empty_lines_before_a_request_are_dropped(self) -> None:
        """Empty lines before a request are no request, and nothing of them is kept."""
        sink, parser = feed(*[END * (READ // 2)] * 20)
        self.assertEqual(parser.unparsed, b"")
        self.assertLessEqual(sink.begun, 1)

    def test_empty_lines_between_requests_do_not_add_up(self) -> None:
        """However many have come on a connection, the next request may be as long as the first."""
        requests = [GET + END, END * 1000] * 50 + [GET + b"X-Not-Known: y\r\n" + END]
        self.assertEqual([one.method for one in outcome(*requests)], ["GET"] * 51)  # type: ignore[union-attr]

    def test_a_head_may_have_its_limit_and_no_byte_more(self) -> None:
        """A head may have so many bytes and not one more, however the reads cut it."""
        start = GET + b"X: "
        for size, expected in ((MAX_HEAD, "GET"), (MAX_HEAD + 1, 431), (2 * MAX_HEAD - 1, 431)):
            data = start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"
            self.assertEqual(len(data), size)
            for pieces in (in_reads(data), [data[:-1], data[-1:]], [data[:100], *in_reads(data[100:])]):
                (result,) = outcome(*pieces)
                self.assertEqual(result if isinstance(result, int) else result.method, expected, size)

    def test_a_target_may_have_its_limit_and_no_byte_more(self) -> None:
        """A target may have so many bytes and not one more."""
        for size, expected in ((MAX_TARGET, "GET"), (MAX_TARGET + 1, 414)):
            data = b"GET /" + b"a" * (size - 1) + b" HTTP/1.1\r\n" + HOST + END
            for pieces in ([data], each_byte(data)):
                (result,) = outcome(*pieces)
                self.assertEqual(result if isinstance(result, int) else result.method, expected, size)

    def test_number_of_fields(self) -> None:
        """There may be so many fields and not one more; dropped ones do not count."""
        most = GET + b"X: y\r\n" * (MAX_FIELDS - 1)
        self.assertIsInstance(outcome(most + END)[0], Request)
        self.assertIsInstance(outcome(most + b"X_Y: y\r\n" + END)[0], Request)
        self.assertEqual(outcome(most + b"X: y\r\n" + END), [431])

    def test_large_but_allowed(self) -> None:
        """Long bodies in many pieces are no head: a body as large as allowed passes, with any number of chunks."""
        body = b"x" * MAX_BODY
        self.assertEqual([r.body for r in outcome(POST + b"Content-Length: 1000\r\n\r\n" + body)], [body])  # type: ignore[union-attr]
        extension = b"1;" + b"e" * 1000 + b"\r\nx\r\n"
        many = CHUNKED + extension * MAX_BODY + b"0\r\n\r\n"
        self.assertEqual([r.body for r in outcome(*in_reads(many))], [body])  # type: ignore[union-attr]
        self.assertEqual([r.body for r in outcome(*in_reads(many[:-2000]), *each_byte(many[-2000:]))], [body])  # type: ignore[union-attr]

    def test_made_up_names_do_not_displace_known_ones(self) -> None:
        """However many names clients make up, the ones with a meaning keep it."""
        for number in range(0, 3000, 100):
            names = b"".join(b"X-%d-%d: y\r\n" % (number, at) for at in range(100))
            self.assertIsInstance(outcome(GET + names + END)[0], Request)
        for host in (b"hOsT", b"HOST", b"hosT"):
            data = b"GET http://b/ HTTP/1.1\r\n" + host + b": a\r\nx_y: z\r\n\r\n"
            self.assertEqual(outcome(data), [Request(headers=((b"Host", b"b"),))])


def mixes() -> st.SearchStrategy[tuple[list[bytes], list[Request | int]]]:
    """Pipelined requests cut into pieces anywhere, with what they are."""

    def cut(drawn: tuple[list[tuple[bytes, Request | int]], list[int]]) -> tuple[list[bytes], list[Request | int]]:
        requests, places = drawn
        data = b"".join(data for data, _ in requests)
        at = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
        return [data[a:b] for a, b in pairwise(at)], [request for _, request in requests]

    good = st.one_of(st.sampled_from(list(GOOD.values())), bodies())
    end: st.SearchStrategy[list[tuple[bytes, Any]]] = st.one_of(
        st.just([]),
        st.sampled_from([[(data + GET, request)] for data, request in LAST.values()]),
        st.sampled_from([[(data, status)] for status, data in BAD.values()]),
    )
    requests = st.builds(lambda some, last: some + last, st.lists(good, min_size=1, max_size=6), end)
    return st.tuples(requests, st.lists(st.integers(0, 1 << 20), max_size=30)).map(cut)


def bodies() -> st.SearchStrategy[tuple[bytes, Request]]:
    """Requests with bodies full of what ends heads and chunks."""
    pieces = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"0", b"GET / HTTP/1.1", b"a" * 30]), max_size=8).map(
        b"".join
    )
    token = st.text("ABCXYZ-_", min_size=1, max_size=8).filter(lambda text: text not in ("PRI", "CONNECT"))

    def with_length(method: str, body: bytes) -> tuple[bytes, Request]:
        length = b"%d" % len(body)
        data = method.encode() + b" / HTTP/1.1\r\n" + HOST + b"Content-Length: " + length + b"\r\n\r\n" + body
        return data, Request(method, body=body, headers=fields((b"Content-Length", length)))

    def with_chunks(method: str, chunks: list[bytes], trailer: bool) -> tuple[bytes, Request]:
        data = method.encode() + b" / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        for chunk in chunks:
            if chunk:
                data += b"%x\r\n%b\r\n" % (len(chunk), chunk)
        data += b"0\r\n" + (b"X-T: y\r\n" if trailer else b"") + b"\r\n"
        headers = fields((b"Transfer-Encoding", b"chunked"))
        return data, Request(method, b"/", b"".join(chunks), headers, ((b"X-T", b"y"),) if trailer else ())

    return st.one_of(
        st.builds(with_length, token, pieces),
        st.builds(with_chunks, token, st.lists(pieces, max_size=3), st.booleans()),
    )


class CutTests(SynchronousTestCase):
    """Pipelined requests of all kinds, cut anywhere."""

    @given(mixes(), st.integers(1, 4))
    @examples(300)
    def test_requests_survive_any_cut(self, mix: tuple[list[bytes], list[Request | int]], room: int) -> None:
        """Cut anywhere and taken in at any pace, requests are what they are, in order, and none is made up."""
        pieces, expected = mix
        sink = Sink(room)
        parser = sink.parser
        for piece in pieces:
            if not parser.ignoring:
                parser.feed(piece)
            while parser.unparsed:
                self.assertLessEqual(sink.begun, sink.room)
                sink.make_room(sink.room + room)
                parser.resume()
        self.assertEqual(sink.done, expected)
        self.assertEqual(sink.begun, len(expected))

    @given(mixes(), st.integers(1, 4), st.lists(st.booleans(), min_size=1, max_size=40))
    @examples(300)
    def test_requests_survive_any_cut_and_any_move(
        self, mix: tuple[list[bytes], list[Request | int]], room: int, moves: list[bool]
    ) -> None:
        """Also if another process goes on after any piece, with what may not be parsed yet."""
        pieces, expected = mix
        sink = Sink(room)
        for number, piece in enumerate(pieces):
            if not sink.parser.ignoring:
                sink.parser.feed(piece)
            if moves[number % len(moves)]:
                sink = moved(sink)
            while sink.parser.unparsed:
                sink.make_room(sink.room + room)
                sink.parser.resume()
                if moves[-1 - number % len(moves)]:
                    sink = moved(sink)
        self.assertEqual(sink.done, expected)
