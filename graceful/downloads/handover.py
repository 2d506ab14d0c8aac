"""Where an answer leaves its thread for the event loop: what was offered, and what becomes of it.

There are four ways in.  An application's token (:mod:`graceful.downloads.token`), its `X-Accel-Redirect`, its
`wsgi.file_wrapper`; and a path that is served without any application.  All of them come down to a file, a URL, or a
place to wait.
"""

from __future__ import annotations

import io
import mimetypes
import os
from collections.abc import Callable, Sequence
from tempfile import _TemporaryFileWrapper
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from graceful.downloads.crew import Crew
from graceful.downloads.files import OpenFile, look_at, open_file
from graceful.downloads.filetransfer import FileTransfer
from graceful.downloads.heads import Answer, answer_of, as_it_is, asked_of, judged, upstream_fields
from graceful.downloads.parked import Parked
from graceful.downloads.targets import File, Mapping, Refused, Target, Url, resolve
from graceful.downloads.token import HEADER, Download, claim
from graceful.downloads.waiting import Lot
from graceful.web.exchange import DOWNLOADING, PARKED, Exchange
from graceful.web.fields import reason

if TYPE_CHECKING:
    from graceful.downloads.relay import Relay
    from graceful.downloads.upstream import Upstream

SMALL: Final = 65536
ALLOWED: Final = ("GET", "HEAD")
_OFFER: Final = HEADER.lower()

Go = Callable[[], object]


class HandOver:
    """Takes answers from threads, and paths from nobody; a `graceful.web.site.HandOver`.

    :param call: calls a function in the reactor thread, from any thread.
    :param clock: monotonic time.
    :param crew: threads for what blocks.
    :param upstream: makes what asks upstream servers, when it is first needed.
    :param lot: where parked requests wait.
    :param public: what is served by its path alone.
    :param internal: what `X-Accel-Redirect` may name.
    :param silence: how long an upstream may say nothing, seconds.
    """

    log = Logger(namespace="graceful")

    def __init__(
        self,
        call: Callable[..., object],
        clock: IReactorTime,
        crew: Crew,
        upstream: Callable[[], Upstream],
        lot: Lot,
        *,
        public: Sequence[Mapping] = (),
        internal: Sequence[Mapping] = (),
        silence: float = 60.0,
    ) -> None:
        self._call = call
        self._clock = clock
        self._crew = crew
        self._make_upstream = upstream
        self._upstream: Upstream | None = None
        self.lot = lot
        self._public = public
        self._internal = internal
        self._silence = silence
        self._relays: set[Relay] = set()

    # -- from a thread ------------------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        """Whether an answer's field of this name is an offer.

        `X-Accel-Redirect` is one if it has been said what it may name; else it is for a proxy in front of us.
        """
        return name.lower() == _OFFER or bool(self._internal)

    def __call__(self, exchange: Exchange, result: Any) -> Go | None:
        """Look at what an application offers, and prepare it.  In its thread."""
        offer, exchange.offer = exchange.offer, None
        if offer is None:
            return self._wrapped_file(exchange, result.file)
        name, value = offer
        if name != _OFFER:
            return self._redirected(exchange, value)
        if not 200 <= exchange.status < 300 or exchange.status == 204 or self._transformed(exchange):
            return None
        token = claim(value, exchange)
        if isinstance(token, Download):
            file = token.take_file()
            if file is not None:
                return self._file_from_thread(exchange, file, None)
            return self._later(exchange, lambda: self._relay(exchange, token.target, answer_of(exchange)))
        if isinstance(token, Parked):
            return self._parked(exchange, token)
        return None

    @staticmethod
    def _transformed(exchange: Exchange) -> bool:
        """Whether a middleware has said that the body is no longer the token's: compressed, say."""
        return any(name.lower() == "content-encoding" and value != "identity" for name, value in exchange.fields())

    def _later(self, exchange: Exchange, begin: Go) -> Go:
        """What has a download begin in the reactor thread."""
        exchange.download = True
        exchange.phase = DOWNLOADING
        return lambda: self._call(self._if_wanted, exchange, begin, lambda: None)

    def _if_wanted(self, exchange: Exchange, begin: Go, drop: Go) -> None:
        """Begin, unless the client has left, or the deadline has come, on the way to this thread."""
        connection = exchange.connection
        if connection.turn.current is exchange and not connection.turn.closed:
            begin()
            return
        drop()
        exchange.flushed = True
        connection.site.through(exchange)

    def _parked(self, exchange: Exchange, ticket: Parked) -> Go:
        stream = any(
            name.lower() == "content-type" and value.lower().startswith("text/event-stream")
            for name, value in exchange.fields()
        )
        if stream:
            exchange.start(f"{exchange.status} {reason(exchange.status)}", as_it_is(exchange.fields()))
        exchange.phase = PARKED

        def gone() -> None:
            if ticket.end():
                ticket.gone.callback(None)

        return lambda: self._call(self._if_wanted, exchange, lambda: self.lot.park(exchange, ticket, stream), gone)

    def _redirected(self, exchange: Exchange, path: str) -> Go:
        """An `X-Accel-Redirect`."""
        target = self._resolve(exchange, self._internal, path)
        if isinstance(target, Url):
            url = target.url
            return self._later(exchange, lambda: self._relay(exchange, url, answer_of(exchange)))
        try:
            if target is not None:
                return self._file_from_thread(exchange, open_file(target), None)
        except Refused as refused:
            self._say_refused(exchange, path, refused)
        return lambda: exchange.connection.site.answer(exchange, 404)

    def _resolve(self, exchange: Exchange, mappings: Sequence[Mapping], path: str) -> Target | None:
        try:
            target = resolve(mappings, path)
            if target is None:
                raise Refused("nothing is mapped there")
        except Refused as refused:
            self._say_refused(exchange, path, refused)
            return None
        return target

    def _say_refused(self, exchange: Exchange, path: str, refused: Refused) -> None:
        self.log.warn("{exchange}: {path!r} is not sent: {why}", exchange=exchange, path=path, why=refused)

    # -- files --------------------------------------------------------------------------------------------

    def _file_from_thread(self, exchange: Exchange, file: OpenFile, guess: str | None) -> Go:
        """Send a file: a small one at once, from this thread; else it is the event loop's.

        It decides by what will be sent, and the file is closed whatever happens.
        """
        try:
            status, fields, verdict = judged(exchange, answer_of(exchange), file, guess)
            exchange.start(status, fields)
            if verdict.end - verdict.first <= SMALL:
                return self._small(exchange, file, verdict.first, verdict.end)
        except BaseException:
            file.close()
            raise
        return self._big(exchange, file, verdict.first, verdict.end)

    def _small(self, exchange: Exchange, file: OpenFile, first: int, end: int) -> Go:
        data = b"" if exchange.bare() else os.pread(file.fd, end - first, first)
        file.close()
        exchange.finish(data)
        return lambda: exchange.connection.site.through(exchange)

    def _big(self, exchange: Exchange, file: OpenFile, first: int, end: int) -> Go:
        exchange.download = True
        exchange.phase = DOWNLOADING
        transfer = FileTransfer(exchange, file, first, end, self._crew)
        return lambda: self._call(self._if_wanted, exchange, transfer.begin, file.close)

    def _wrapped_file(self, exchange: Exchange, wrapped: Any) -> Go | None:
        """`wsgi.file_wrapper` around a real file: from where it is now, as long as the application has said."""
        plain = _plain_file(wrapped)
        if plain is None or exchange.bare():
            return None
        try:
            place = plain.tell()
            file = look_at(os.dup(plain.fileno()))
        except (OSError, ValueError, Refused):
            return None
        left = max(0, file.size - place)
        if left <= SMALL or exchange.length > left:
            file.close()
            return None
        if exchange.length < 0:
            exchange.length = left
        return self._big(exchange, file, place, place + exchange.length)

    # -- URLs ---------------------------------------------------------------------------------------------

    def _relay(self, exchange: Exchange, url: str, answer: Answer) -> None:
        # Not at import time: Twisted's endpoints take systemd's sockets out of the environment.
        from graceful.downloads.relay import Relay

        if self._upstream is None:
            self._upstream = self._make_upstream()
        asked = upstream_fields(exchange, asked_of(exchange, answer))
        relay = Relay(exchange, url, answer, asked, self._upstream, self._clock, self._silence, self._relays.discard)
        self._relays.add(relay)
        relay.begin()

    # -- by its path --------------------------------------------------------------------------------------

    def answer(self, exchange: Exchange) -> bool:
        """Serve a path without an application.  Any thread; False if nothing is mapped there."""
        path = exchange.target.decode("latin-1")
        try:
            target = resolve(self._public, path)
        except Refused as refused:
            self._say_refused(exchange, path, refused)
            exchange.connection.site.answer(exchange, 404)
            return True
        if target is None:
            return False
        if exchange.method not in ALLOWED:
            exchange.fail(405, f"Allow: {', '.join(ALLOWED)}\r\n")
            exchange.connection.site.through(exchange)
            return True
        exchange.download = True
        exchange.phase = DOWNLOADING
        self._call(self._if_wanted, exchange, lambda: self._serve(exchange, target, path), lambda: None)
        return True

    def _serve(self, exchange: Exchange, target: Target, path: str) -> None:
        if isinstance(target, Url):
            self._relay(exchange, target.url, Answer())
            return
        opened: list[OpenFile] = []
        self._crew.do(
            lambda: opened.append(open_file(target)),
            lambda error: self._opened(exchange, target, path, opened, error),
        )

    def _opened(
        self, exchange: Exchange, target: File, path: str, opened: list[OpenFile], error: BaseException | None
    ) -> None:
        site = exchange.connection.site
        if isinstance(error, Refused):
            self._say_refused(exchange, path, error)
            site.answer(exchange, 404)
        elif error is not None:
            self.log.error(
                "{exchange}: {path!r} cannot be opened: {error}", exchange=exchange, path=path, error=error
            )
            site.answer(exchange, 500)
        else:
            (file,) = opened
            guess = mimetypes.guess_type(os.fsdecode(target.path))[0] or "application/octet-stream"

            def begin() -> None:
                status, fields, verdict = judged(exchange, Answer(), file, guess)
                exchange.start(status, fields)
                FileTransfer(exchange, file, verdict.first, verdict.end, self._crew).begin()

            self._if_wanted(exchange, begin, file.close)

    # -- time ---------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Look at what has had its time.  Reactor thread.

        :param now: the clock's seconds.
        """
        for relay in list(self._relays):
            relay.tick(now)
        self.lot.tick(now)

    def stop(self) -> None:
        """Nothing is in flight any more: give everything back."""
        if self._upstream is not None:
            self._upstream.stop()
        self._crew.stop(0)


def _plain_file(wrapped: Any) -> Any:
    """The file whose bytes are what `read` would give; None for everything that unpacks, decodes or computes."""
    if isinstance(wrapped, _TemporaryFileWrapper):
        wrapped = wrapped.file
    if type(wrapped) is io.FileIO:
        return wrapped
    if type(wrapped) in (io.BufferedReader, io.BufferedRandom) and type(wrapped.raw) is io.FileIO:
        wrapped.flush()
        return wrapped
    return None
