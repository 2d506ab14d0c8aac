"""Clients that keep one WebSocket through everything: each is told 1012 by a server that ends, and is back at once.

Any other end of a WebSocket is a loss.  A message that meets the server's close on its way has no answer, as in RFC
6455.
"""

from __future__ import annotations

import random
import select
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final

from attrs import define, field

sys.path.insert(0, str(Path(__file__).parent.parent))

from crowd import Crowd
from tests.support.frames import CLOSE, TEXT, close, code_of
from tests.support.websocket import WebSocket

#: Seconds between an echo and the next message, at most.
THINKS_FOR: Final = 0.5
#: The server ends, and another one is there (the registry of RFC 6455's close codes: "service restart").
RESTARTS: Final = 1012
#: Seconds until a client that was refused tries again.
PAUSE: Final = 0.01


@define(eq=False)
class WebSocketKeeper:
    """A client with one WebSocket: a thread, and what it has seen; only its thread writes.

    :ivar echoed: how many messages came back.
    :ivar told: how many of its WebSockets ended with 1012.
    :ivar lost: how the others ended.
    :ivar refused: how often it could not connect.
    """

    port: int
    over: threading.Event
    echoed: int = 0
    told: int = 0
    refused: int = 0
    lost: Counter[str] = field(factory=Counter)

    def run(self) -> None:
        """Open one WebSocket after the other until it is over."""
        while not self.over.is_set():
            try:
                self._keep()
            except ConnectionRefusedError:
                self.refused += 1
                time.sleep(PAUSE)
            except (EOFError, OSError, AssertionError) as error:
                self.lost[f"WebSocket: {type(error).__name__}"] += 1

    def _keep(self) -> None:
        """Talk on one WebSocket until one of both sides closes it."""
        with WebSocket(self.port, b"/ws") as client:
            if client.status != 101:
                raise EOFError(f"{client.status} instead of a WebSocket")
            while not self.over.is_set():
                if not select.select([client.socket], [], [], random.uniform(0, THINKS_FOR))[0]:
                    client.say("news")
                found = client.next()
                if found.opcode == CLOSE:
                    assert code_of(found) == RESTARTS, found
                    client.send(close(RESTARTS))
                    self.told += 1
                    return
                assert (found.opcode, found.payload) == (TEXT, b"news"), found
                self.echoed += 1
            client.close()


class WebSocketKeepers(Crowd[WebSocketKeeper]):
    """Several such clients, in threads.

    :param port: where they connect to.
    :param count: how many there are.
    """

    def __init__(self, port: int, count: int) -> None:
        super().__init__(WebSocketKeeper, port, count)

    @property
    def echoed(self) -> int:
        """How many messages came back."""
        return sum(client.echoed for client in self._clients)

    @property
    def told(self) -> int:
        """How many WebSockets ended with 1012."""
        return sum(client.told for client in self._clients)

    def have_ended(self, count: int) -> bool:
        """Whether so many WebSockets have ended, in whatever way."""
        return self.told + sum(self.lost.values()) >= count

    @property
    def refused(self) -> int:
        """How often a client could not connect."""
        return sum(client.refused for client in self._clients)
