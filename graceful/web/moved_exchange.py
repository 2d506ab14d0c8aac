"""An exchange that has begun in another process."""

from __future__ import annotations

from typing import Final

from graceful.web.carrier import Carrier
from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange
from graceful.web.response_headers import ResponseFields

EVENTS: Final = "text/event-stream"


class MovedExchange(Exchange):
    """An exchange that has begun in another process.

    If it :attr:`resumes`, its client has the head of an event stream, and maybe events.  The application that is
    asked for it once more can only go on with that; with any other answer the stream ends, and its client comes back.

    :ivar first_id: its request id there.
    """

    __slots__ = ("first_id", "resumes")

    first_id: str

    def __init__(self, connection: Carrier[Exchange]) -> None:
        super().__init__(connection)
        self.resumes = False

    def start(self, status: str, headers: ResponseFields) -> None:
        """Say status and headers: they must be those that the client has got already.

        :raises Disconnected: they are not, and its client has been told to come back.
        """
        said = self.status, self.chunked
        super().start(status, headers)
        if self.begun:
            same = self.status == said[0] and any(
                name.lower() == "content-type" and value.lower().startswith(EVENTS) for name, value in headers
            )
            self.status, self.chunked = said
            self.length = -1
            if not same:
                self._come_back()
                raise Disconnected("its client comes back for another answer than an event stream")

    def fail(self, code: int, extra: str = "") -> None:
        """Answer with a short text, or end the stream."""
        if self.resumes and self.begun and not self.ended:
            self._come_back()
        else:
            super().fail(code, extra)

    def _come_back(self) -> None:
        """End the stream as a stop does."""
        self.finish(b"retry: 1000\n\n")

    @property
    def request_id(self) -> str:
        """The id that a trusted proxy gave it, or that of the process that has read its first byte."""
        return self.own_id or self.first_id

    def substitute(self) -> Exchange:
        """Return an exchange that is answered in place of this one."""
        substitute = super().substitute()
        assert isinstance(substitute, MovedExchange)
        substitute.first_id = self.first_id
        return substitute
