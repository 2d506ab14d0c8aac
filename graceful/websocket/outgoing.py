"""What is sent on a WebSocket: frames whole and in their order, by whichever party comes first.

What is to be sent goes into a short list, and the party that finds that nothing is being sent sends it all.  So
neither the application's thread nor the reactor thread waits for the other, and nothing follows the close.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from graceful.web.disconnected import Disconnected
from graceful.web.exchange import Exchange


class Outgoing:
    """Sends on one WebSocket.  Any thread.

    :param answered: the exchange that has become a WebSocket.
    :param seconds: returns monotonic seconds.
    """

    __slots__ = ("_answered", "_closing", "_last", "_lock", "_out", "_seconds", "_sending")

    def __init__(self, answered: Exchange, seconds: Callable[[], float]) -> None:
        self._answered = answered
        self._seconds = seconds
        # Under the lock:
        self._lock = threading.Lock()
        self._out: list[bytes] = []
        self._sending = False  # a party sends what is in `_out`
        self._closing = False  # a close frame is in `_out` or was sent: no message may follow
        self._last = False  # what is in `_out` are the last bytes

    def send(self, frame: bytes) -> None:
        """Send a message, which was made a frame of.

        :raises Disconnected: the WebSocket is closed or about to be.
        """
        with self._lock:
            if self._closing:
                raise Disconnected("the WebSocket is closed")
            if self._sending:
                self._out.append(frame)
                return
            self._sending = True
        self._send_on(frame, False)

    def queue(self, data: bytes, closing: bool, last: bool) -> None:
        """Send what the protocol itself has to say.

        :param closing: a close frame is in it.
        :param last: these are the last bytes.
        """
        with self._lock:
            self._closing = self._closing or closing
            if self._last:
                return
            self._last = last
            if self._sending:
                if data:
                    self._out.append(data)
                return
            if not (data or last):
                return
            self._sending = True
        try:
            self._send_on(data, last)
        except Disconnected:
            pass  # the connection says so itself

    def _send_on(self, data: bytes, last: bool) -> None:
        """Send bytes, and then what is in the list until it is empty.  By the party that has set `_sending`.

        :param last: these are the last bytes.
        :raises Disconnected: the client will not read these.  What is in the list is of parties that do not wait.
        """
        answered, own = self._answered, True
        while True:
            answered.sent += len(data)
            if last:
                answered.ended = self._seconds()
            try:
                # Never as a head: that would count as unsaid if the client is gone.
                answered.connection.send(answered, b"", data, last)
            except BaseException as error:
                with self._lock:
                    self._closing = self._last = True
                    self._out.clear()  # `_sending` stays: nothing is sent any more
                if isinstance(error, Disconnected) and not own:
                    return
                raise
            own = False
            with self._lock:
                if last or not (self._out or self._last):
                    self._sending = last  # behind the last bytes nothing is sent any more
                    return
                data = b"".join(self._out)
                self._out.clear()
                last = self._last

    def drop(self) -> None:
        """Send nothing any more: the client has left, or its connection was cut."""
        with self._lock:
            self._closing = self._last = True
            self._out.clear()
