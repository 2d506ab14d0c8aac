"""The first message of a handshake: the name in it is read, whatever it is and however it is torn."""

from __future__ import annotations

import ssl
import struct
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.tls.client_hello import LONGEST, asked_name


def hello(name: str | None) -> bytes:
    """Returns the first message of a client that asks for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def in_records(message: bytes, size: int) -> bytes:
    """Returns a message, spread over records of so many bytes."""
    pieces = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + struct.pack(">H", len(piece)) + piece for piece in pieces)


class ClientHelloTests(SynchronousTestCase):
    """What is read of a message."""

    def test_the_name_is_read_in_lower_case(self) -> None:
        """None is an empty one."""
        self.assertEqual(asked_name(hello("Site.Example")), "site.example")
        self.assertEqual(asked_name(hello(None)), "")
        self.assertEqual(asked_name(hello("127.0.0.1")), "")

    def test_a_torn_message_is_waited_for(self) -> None:
        """In bytes, and in records; not for ever."""
        whole = hello("site.example")
        for size in range(len(whole)):
            self.assertIsNone(asked_name(whole[:size]), size)
        message = whole[5:]
        torn = in_records(message, len(message) // 10)
        self.assertEqual(asked_name(torn), "site.example")
        self.assertIsNone(asked_name(torn[:-1]))
        self.assertEqual(asked_name(in_records(message, 7)), "")
        endless = b"\x16\x03\x01\xff\xff\x01\xff\xff\xff" + bytes(LONGEST)
        self.assertIsNone(asked_name(endless[:LONGEST]))
        self.assertEqual(asked_name(endless), "")

    def test_a_name_that_is_none_is_only_bytes(self) -> None:
        """It is another one than every certificate's."""
        data = hello("xxxx.example")
        self.assertEqual(asked_name(data.replace(b"xxxx", b"\xff..\x80")), "\xff..\x80.example")

    @given(st.binary(max_size=200))
    def test_other_bytes_ask_for_no_name(self, data: bytes) -> None:
        """Or are waited for."""
        self.assertIn(asked_name(data), ("", None))
        self.assertIn(asked_name(b"\x16\x03\x01" + data), ("", None))

    def test_a_mutated_message_raises_nothing(self) -> None:
        """Whatever its lengths say."""
        good, generator = hello("site.example"), Random(1)
        for _ in range(3000):
            data = bytearray(good)
            for _ in range(generator.randrange(1, 5)):
                data[generator.randrange(len(data))] = generator.choice((0, 1, 0xFF, generator.randrange(256)))
            self.assertIsInstance(asked_name(bytes(data)), (str, type(None)))
