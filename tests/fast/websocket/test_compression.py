"""Compressed messages: what is agreed on, both ways, and the limit, which is that of what they inflate to."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
import zlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import BadSetting, Settings
from graceful.websocket.compression import agree
from graceful.websocket.session import UNSENT
from tests.fast.doubles import Client
from tests.fast.websocket.test_application import ApplicationCase
from tests.support.frames import BINARY, CONT, TEXT, code_of, frame, read_frames

OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
COMPRESSED = 4
#: What ends a flushed block, which no message has (RFC 7692 §7.2.1).
TAIL = b"\x00\x00\xff\xff"


class Deflate:
    """A client's half of the compression."""

    def __init__(self) -> None:
        self._out = zlib.compressobj(wbits=-12)
        self._in = zlib.decompressobj(wbits=-15)

    def deflate(self, data: bytes) -> bytes:
        """Compress a message."""
        return (self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)

    def inflate(self, data: bytes) -> bytes:
        """Inflate a message of the server's."""
        return self._in.decompress(data + TAIL)


def compressed_frames(data: bytes) -> list[tuple[int, bytes]]:
    """Read a server's frames, all of which have to be short, whole and compressed.  Returns opcodes and payloads."""
    found = []
    while data:
        assert data[0] & 0xF0 == 0xC0, hex(data[0])
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        found.append((data[0] & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return found


class AgreeTests(SynchronousTestCase):
    """The server takes the first offer that it can take."""

    def agreed(self, offers: str) -> str | None:
        found = agree(offers)
        return None if found is None else found.header

    def test_a_browsers_offer_is_taken_with_small_windows(self) -> None:
        """Both windows are as small as the client lets them be."""
        self.assertEqual(
            self.agreed("permessage-deflate; client_max_window_bits"),
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
        )
        self.assertEqual(self.agreed("permessage-deflate"), "permessage-deflate; server_max_window_bits=12")
        self.assertEqual(
            self.agreed("permessage-deflate; server_no_context_takeover; server_max_window_bits=10"),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
        )

    def test_an_offer_that_cannot_be_taken_is_left(self) -> None:
        """The next one is looked at; without one, nothing is compressed."""
        self.assertEqual(
            self.agreed("x-other, permessage-deflate; server_max_window_bits=8, permessage-deflate"),
            "permessage-deflate; server_max_window_bits=12",
        )
        for offers in (
            "",
            "x-other",
            "permessage-deflate; unknown=1",
            "permessage-deflate; server_max_window_bits=99",
            "=",
        ):
            self.assertIsNone(self.agreed(offers), offers)

    def test_only_what_is_known_may_be_set(self) -> None:
        """A wrong word is refused."""
        self.assertEqual(Settings().websocket_compression, "off")
        with self.assertRaisesRegex(BadSetting, "expected off or deflate"):
            Settings(websocket_compression="gzip")


class CompressionTests(ApplicationCase):
    """An application whose server compresses, and a client."""

    def begin(self, **settings: Any) -> None:
        """Start an engine that compresses."""
        super().begin(**{"websocket_compression": "deflate", **settings})

    def opened(self, *fields: bytes) -> Client:
        """Open a WebSocket whose application echoes.  The client has read the head."""

        async def echo(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                self.heard.append(event.get("text") or event.get("bytes"))
                await send({**event, "type": "websocket.send"})
            self.heard.append(event["code"])

        self.heard: list[Any] = []
        client = self.start(echo, *fields)
        self.addCleanup(self.end, client, self.task)
        self.head, _, rest = client.take().partition(b"\r\n\r\n")
        self.assertEqual(rest, b"")
        return client

    def end(self, client: Client, task: asyncio.Task[None]) -> None:
        """Have the client leave, and the application return."""
        client.close()
        self.turn()
        task.cancel()
        self.turn()

    def exchanged(self, client: Client, data: bytes) -> bytes:
        """Have the client send.  Returns what it gets."""
        client.send(data)
        self.turn()
        return client.take()

    def test_messages_are_compressed_both_ways(self) -> None:
        """Texts and bytes; what was learnt from one message makes the next one shorter."""
        client, peer = self.opened(OFFER), Deflate()
        self.assertIn(b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12", self.head)
        sizes = []
        for opcode, message in ((TEXT, "news äöü 12345 ".encode() * 5), (BINARY, bytes(range(256)) * 8)):
            for _ in range(2):
                got = self.exchanged(client, frame(opcode, peer.deflate(message), rsv=COMPRESSED))
                ((kind, payload),) = compressed_frames(got)
                self.assertEqual((kind, peer.inflate(payload)), (opcode, message))
                sizes.append(len(payload))
        self.assertLess(sizes[1], sizes[0] / 3)
        self.assertEqual(len(self.heard), 4)

    def test_a_message_in_several_frames_is_inflated_as_one(self) -> None:
        """Only its first frame says that it is compressed; one without that bit is taken as it is."""
        client, peer = self.opened(OFFER), Deflate()
        data = peer.deflate(b"in two frames")
        self.exchanged(client, frame(TEXT, data[:4], fin=False, rsv=COMPRESSED) + frame(CONT, data[4:]))
        self.exchanged(client, frame(TEXT, b"plain"))
        self.assertEqual(self.heard, ["in two frames", "plain"])

    def test_what_is_compressed_is_sent_in_that_order(self) -> None:
        """Also if a task that has waited for room is overtaken by another one: the client can inflate all of it."""
        noise, texts = random.Random(1).randbytes(2 * UNSENT), [b"a text" * 20, b"a text, another one" * 9]

        async def application(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "bytes": noise})
            await send({"type": "websocket.send", "bytes": texts[0]})
            await receive()

        client, peer = self.start(application, OFFER, buffer=4096), Deflate()
        self.addCleanup(self.end, client, self.task)
        got = b""
        while not self.events.session.room:  # no turn of the loop: that task still waits
            got += client.take()
            self.engine.turn()
        self.loop.asyncio.create_task(self.events.send({"type": "websocket.send", "bytes": texts[1]}))
        for _ in range(3):
            self.turn()
            got += client.take()
        frames = compressed_frames(got.partition(b"\r\n\r\n")[2])
        self.assertEqual([peer.inflate(payload) for _, payload in frames], [noise, texts[1], texts[0]])

    def test_the_limit_is_that_of_the_inflated_message(self) -> None:
        """In one frame and in several; the bytes behind the limit are not inflated."""
        self.begin(websocket_max_message=1000)
        for pieces in (1, 2, 7):
            client, peer = self.opened(OFFER), Deflate()
            self.exchanged(client, frame(BINARY, peer.deflate(bytes(1000)), rsv=COMPRESSED))
            self.assertEqual(self.heard, [bytes(1000)])
            data = peer.deflate(bytes(10_000_000))
            step = len(data) // pieces + 1
            parts = [data[start : start + step] for start in range(0, len(data), step)]
            frames = [
                frame(CONT if number else BINARY, part, fin=part is parts[-1], rsv=0 if number else COMPRESSED)
                for number, part in enumerate(parts)
            ]
            tracemalloc.start()
            got = self.exchanged(client, b"".join(frames))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertLess(peak, 200_000)
            self.assertEqual([code_of(one) for one in read_frames(got)[0]], [1009])
            self.assertEqual(self.heard[1:], [1009])

    def test_what_cannot_be_inflated_ends_the_connection(self) -> None:
        """With 1002, as a frame that breaks the protocol; text that is not UTF-8 with 1007."""
        for payload, code in ((b"\xff\xff\xff\xff", 1002), (Deflate().deflate(b"\xff\xfe"), 1007)):
            client = self.opened(OFFER)
            self.exchanged(client, frame(TEXT, payload, rsv=COMPRESSED))
            self.assertEqual(self.heard, [code])

    def test_a_client_that_does_not_offer_it_gets_plain_messages(self) -> None:
        """As without the option."""
        client = self.opened()
        self.assertNotIn(b"Extensions", self.head)
        self.assertEqual(self.exchanged(client, frame(TEXT, b"x" * 100)), bytes((0x81, 100)) + b"x" * 100)

    def test_a_server_that_is_not_asked_for_it_takes_no_offer(self) -> None:
        """A client that compresses nevertheless breaks the protocol."""
        self.begin(websocket_compression="off")
        client = self.opened(OFFER)
        self.assertNotIn(b"Extensions", self.head)
        self.exchanged(client, frame(TEXT, b"x", rsv=COMPRESSED))
        self.assertEqual(self.heard, [1002])
