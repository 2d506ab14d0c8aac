"""How an application hands its answer over to the event loop: a token that every framework lets through.

Frameworks own `start_response` and wrap what a view returns, so the server does not see the object by which a view
says "send this file".  It does see a header: no framework touches a header that it does not know.  So a token has one
header, with an id that cannot be guessed and is only valid in the exchange it was made in.  It is an iterable body as
well: on any other server, and where a middleware has changed the body, the thread sends it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen
from weakref import WeakValueDictionary

from graceful.application.current import current_exchange
from graceful.downloads.files import OpenFile, open_file
from graceful.downloads.media_types import media_type
from graceful.downloads.targets import File, RefusedPath

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

HEADER: Final = "X-Graceful-Handover"
#: Bytes that the thread reads at a time, where it sends the body itself.
_PIECE: Final = 65536
#: Seconds that an upstream may say nothing, where the thread asks it itself.
_SILENCE: Final = 60.0

#: Every token that an application has, by its id.  Any thread; single operations are atomic.
_tokens: WeakValueDictionary[str, HandoverToken] = WeakValueDictionary()


class HandoverToken:
    """Stands for an answer that the event loop gives.  Belongs to the thread that runs the application.

    :ivar exchange: the only exchange in which it is valid; None on other servers.
    :ivar claimed: whether it was handed over.
    """

    def __init__(self) -> None:
        self.claimed = False
        exchange = current_exchange()
        self.exchange: Exchange | None = None
        self._id = ""
        if exchange is not None and exchange.connection.site.hand_over is not None:
            self.exchange = exchange
            self._id = secrets.token_hex(16)
            _tokens[self._id] = self

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The fields to add to the answer: one; none on a server without an event loop."""
        return [(HEADER, self._id)] if self._id else []


def claim(id: str, exchange: Exchange) -> HandoverToken | None:
    """Return the token that an answer's field names; None unless it was made in the same exchange."""
    token = _tokens.get(id)
    if token is None or token.exchange is not exchange:
        return None
    del _tokens[id]
    token.claimed = True
    return token


class Download(HandoverToken):
    """A file, or the resource at an upstream's URL, as the body of an answer.

    The event loop sends it, at the client's speed, and the thread is free at once.  Ranges and conditions of the
    request are answered (RFC 9110 §13, §14).  Return it from a WSGI application as ``return download(environ,
    start_response)``; for frameworks see :mod:`graceful.contrib`.

    :param target: a path, which is opened now, or an `http://` or `https://` URL.
    :param headers: fields of the answer; they win over the upstream's.
    :raises OSError: the file cannot be opened, or is no regular file.
    :ivar target: as it was given.
    :ivar size: of the file, bytes; None for a URL.
    """

    def __init__(self, target: str | os.PathLike[str], headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        self.target = os.fspath(target)
        self.remote = self.target.startswith(("http://", "https://"))
        self._own = list(headers)
        self._file: OpenFile | None = None
        self.size: int | None = None
        if not self.remote:
            try:
                self._file = open_file(File(os.fsencode(self.target)))
            except RefusedPath as refused:
                raise FileNotFoundError(f"{self.target}: {refused}") from None
            self.size = self._file.size

    @property
    def content_type(self) -> str:
        """The media type, guessed from the target's name."""
        return media_type(self.target.partition("?")[0])

    def take_file(self) -> OpenFile | None:
        """Return the open file, which the caller closes; None the second time."""
        file, self._file = self._file, None
        return file

    def close(self) -> None:
        """Close the file, unless it was handed over (PEP 3333)."""
        file = self.take_file()
        if file is not None:
            file.close()

    def __del__(self) -> None:
        file = getattr(self, "_file", None)
        if file is not None:
            file.close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        """Answer as a WSGI application."""
        headers = [*self._own, *self.headers]
        if not any(name.lower() == "content-type" for name, _ in headers) and not self.remote:
            headers.append(("Content-Type", self.content_type))
        if self.size is not None:
            headers.append(("Content-Length", str(self.size)))
        start_response("200 OK", headers)
        if environ["REQUEST_METHOD"] == "HEAD" and not self._id:
            self.close()
            return []
        return self

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the body, which the thread reads: where the event loop does not send it."""
        if self.claimed:
            return  # a framework of ASGI iterates though it is on its way
        if not self.remote:
            yield from _pieces(self._read)
            return
        request = Request(self.target, headers={"Accept-Encoding": "identity"})
        with closing(urlopen(request, timeout=_SILENCE)) as response:
            yield from _pieces(response.read)
            if getattr(response, "length", None):  # `read` does not tell that the body broke off
                raise IncompleteRead(b"", response.length)

    def _read(self, size: int) -> bytes:
        # The end after a close during the iteration: the descriptor's number may be another file's by now.
        return os.read(self._file.fd, size) if self._file is not None else b""


def _pieces(read: Callable[[int], Any]) -> Iterator[bytes]:
    while piece := read(_PIECE):
        yield piece
