"""The framing of an answer: its head, and where its body ends (RFC 9112 §6).

The framing is where a server can lie.  It never does: no more bytes than announced, a body that cannot be completed
ends visibly short (RFC 9112 §6.3, §8), and no second status line in a started body.

Heads repeat.  What was checked once, a whole head or a line of it, is remembered as it is sent.
"""

from __future__ import annotations

from graceful.logs.access_lines import Finished
from graceful.web.response_headers import (
    CONNECTION,
    DATE,
    LENGTH,
    OFFER,
    PLAIN,
    SERVER,
    ResponseFields,
    ResponseHead,
    bodiless,
    checked_line,
    known_head,
    known_length,
    known_line,
    known_name,
    known_status,
    learn_line,
    learn_name,
    learn_status,
    remember_head,
    remember_length,
)


class FramingSite:
    """What of a site goes into each head.

    :ivar draining: the server stops.
    :ivar tail_keep: the end of a head, behind the application's fields, if the connection stays.
    :ivar tail_keep_data: the same as bytes.
    :ivar tail_close: if it does not.
    """

    draining: bool
    tail_keep: str
    tail_keep_data: bytes
    tail_close: str

    def tail(self, keep: bool | None, date: bool, server: bool) -> str:
        """The end of a head that lacks a field or two."""
        raise NotImplementedError


class AnswerFraming(Finished):
    """The head of an answer, and the framing of its body; an exchange is one.

    What of the request decides with it is here, too: its method, its version, and whether the connection is to stay.

    :ivar method: the method token.
    :ivar version: `"1.1"` or `"1.0"`.
    :ivar keep: whether the connection may carry another exchange after this one.
    :ivar status: the answer's status code, 0 until there is one.
    :ivar head: the answer's head as far as the application has said it; None until it has.
    :ivar length: of the body, as announced; -1 if it was not.
    :ivar chunked: the body's end is marked (RFC 9112 §7.1).
    :ivar begun: the head has gone out, or is on its way.
    :ivar offer: the field, name and value, by which the application has handed its answer over; None if it has not.
    """

    __slots__ = (
        "_bare",
        "_flags",
        "_known_head",
        "begun",
        "chunked",
        "head",
        "keep",
        "length",
        "offer",
    )

    _flags: int

    def __init__(self) -> None:
        self.method = "-"
        self.version = "1.1"
        self.keep = True
        self.status = 0
        self.length = -1
        self.begun = self.chunked = False
        self.offer: tuple[str, str] | None = None
        self.head: str | None = None
        self._known_head = b""  # the same with its length, if it is one that has come before

    # -- what the application says ------------------------------------------------------------------------

    def start(self, status: str, headers: ResponseFields) -> ResponseHead | None:
        """Say status and headers; nothing is sent before the first piece of the body, or its end.

        :param status: as PEP 3333 has it, `"200 OK"`.
        :param headers: names and values as str of latin-1 characters.  Hop-by-hop fields are dropped, but
            `Connection: close` is heeded.
        :returns: what :meth:`start_as` may say for the same status and headers; None if they have to be looked at.
        :raises ValueError, TypeError: something in them must not be sent.
        """
        try:
            fields = tuple(headers)
            known = known_head((status, fields))
        except TypeError:  # something in it is a list
            known, fields = None, ()
        if known is not None:
            self._flags = 0
            self.status, self.head, self.length, self._known_head = known
        elif self._start(status, headers) and fields:
            code, head, length = self.status, self.head or "", self.length
            data = f"{head}Content-Length: {length}\r\n" if length >= 0 and not bodiless(code) else ""
            known = ResponseHead(code, head, length, data.encode("latin-1"))
            remember_head(status, fields, known)
        return known

    def start_as(self, head: ResponseHead) -> None:
        """Say status and headers that :meth:`start` has looked at before."""
        self._flags = 0
        self.status, self.head, self.length, self._known_head = head

    def _start(self, status: str, headers: ResponseFields) -> bool:
        """Check status and headers, one after the other.

        :returns: whether all of them have come before, and mean nothing special.
        """
        length = -1
        seen_before = True
        self._flags = 0
        self._known_head = b""
        code, head = known_status(status) or learn_status(status)
        for name, value in headers:
            if name == "Content-Length":
                known = known_length(value)
                if known is not None and length < 0:
                    length = known
                else:
                    length = self._announced(value, length)
                    seen_before = False
                continue
            line = known_line((name, value))
            if line is None:
                seen_before = False
                kind = known_name(name)
                if kind is None:
                    kind = learn_name(name)
                if kind == LENGTH:
                    length = self._announced(value, length)
                    continue
                line = self._line(kind, name, value)
            head += line
        self.head, self.status, self.length = head, code, length
        return seen_before

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
        if kind == OFFER and self._takes(name):
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

    # -- what is sent ---------------------------------------------------------------------------------------

    def _render(self, total: int, site: FramingSite) -> bytes:
        """The head as bytes, and the decision how the body is framed (RFC 9112 §6).

        :param total: the whole body's length, or -1 if it is not known yet.
        """
        if self._known_head and total == self.length and self.keep and self.method != "HEAD" and not site.draining:
            self._bare = False
            self.begun = True
            return self._known_head + site.tail_keep_data
        head = self.head
        if head is None:
            raise AssertionError("a body was sent before start_response was called")
        code = self.status
        keep = self.keep
        if site.draining and keep:
            keep = self._stays_in_drain()
        bare = self.method == "HEAD" or bodiless(code)
        self._bare = bare
        length = self.length
        if bare and code == 205:  # which has no body, but is framed as if it could have one
            head += "Content-Length: 0\r\n"
        elif length < 0:
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

    def bare(self) -> bool:
        """Whether the answer has no body, whatever its length (RFC 9112 §6.3)."""
        return self.method == "HEAD" or bodiless(self.status)

    @property
    def framed(self) -> bool:
        """Whether the client can tell that the body is cut: its end is announced, or marked (RFC 9112 §8)."""
        return self.chunked or self.length >= 0

    # -- asked of the exchange ----------------------------------------------------------------------------

    def _takes(self, name: str) -> bool:
        """Whether a field of this name is an offer of the application's to hand its answer over."""
        raise NotImplementedError

    def _stays_in_drain(self) -> bool:
        """Whether the connection may carry another exchange although the server stops."""
        raise NotImplementedError
