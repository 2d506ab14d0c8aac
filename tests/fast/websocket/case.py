"""What the tests of WebSockets share: sessions on an engine's connections, and an application that only remembers."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from graceful.web.exchange import Exchange
from graceful.websocket.framing import Message, encode
from graceful.websocket.keeper import Keeper
from graceful.websocket.opening_handshake import Handshake
from graceful.websocket.session import Session
from tests.fast.doubles import Case, Client, Engine
from tests.support.frames import Frame, read_frames, request


class Remembering:
    """An application that remembers what it is told.

    :ivar waiting: messages that it has not taken yet.
    :ivar ended: each code and reason of an end that it was told.
    :ivar rooms: how often it was told that the client takes more.
    """

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.ended: list[tuple[int, str]] = []
        self.rooms = 0

    def received(self, message: Message) -> None:
        assert not self.ended, "a message came behind the end"
        self.waiting.append(message)

    def writable(self) -> None:
        self.rooms += 1

    def closed(self, code: int, reason: str) -> None:
        self.ended.append((code, reason))


class Peer:
    """A WebSocket from both ends.

    :ivar client: the client's.
    :ivar exchange: its request.
    """

    def __init__(self, client: Client, exchange: Exchange, session: Session, application: Remembering) -> None:
        self.client = client
        self.exchange = exchange
        self.session = session
        self.application = application
        self._unread = b""

    def send(self, data: bytes) -> None:
        """Have the client send."""
        self.client.send(data)

    def frames(self) -> list[Frame]:
        """What the client gets now."""
        frames, self._unread = read_frames(self._unread + self.client.take())
        return frames

    def say(self, message: Message) -> None:
        """Have the application send."""
        self.session.send(encode(message))


class WebSocketCase(Case):
    """An engine, a clock, and a keeper of WebSockets."""

    def setUp(self) -> None:
        """Start an engine."""
        self.begin()

    def begin(self, **settings: Any) -> None:
        """Start an engine with such settings."""
        self.engine = Engine(self, **settings)
        self.clock = Clock()
        self.clock.advance(1000)
        self.keeper = Keeper(
            self.engine.site.register,
            self.engine.site.settings,
            self.clock,  # type: ignore[arg-type]
            self.engine.hub.call,
        )

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass, with a look every `step` seconds."""
        until = self.clock.seconds() + seconds
        while self.clock.seconds() < until:
            self.clock.advance(min(step, until - self.clock.seconds()))
            self.keeper.tick(self.clock.seconds())
            self.engine.turn()

    def asked(self, behind: bytes = b"", **options: Any) -> Peer:
        """Connect a client that asks for a WebSocket, which is not open yet.

        :param behind: what it sends with its request.
        """
        client, exchange = self.ask(request() + behind, **options)
        application = Remembering()
        session = Session(exchange, application, self.keeper)
        exchange.handler = session
        return Peer(client, exchange, session, application)

    def open(self, behind: bytes = b"", **options: Any) -> Peer:
        """Open a WebSocket; the client has read the head."""
        peer = self.asked(behind, **options)
        head = Handshake.read(peer.exchange.headers).accept(None, (), None, self.engine.site.tail)
        peer.session.accept(head)
        self.assertTrue(peer.client.take(len(head)).startswith(b"HTTP/1.1 101 "))
        self.engine.turn()
        return peer
