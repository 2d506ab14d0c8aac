"""Bytes to messages and back: fragments, control frames, UTF-8, limits, and how a broken client is refused."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.websocket.framing import Framing, Message, check_close, encode, shortened
from tests.support.frames import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    Frame,
    close,
    code_of,
    frame,
    read_frames,
)

MOST = 1000

messages = st.lists(st.one_of(st.text(max_size=60), st.binary(max_size=200)), max_size=5)


any_frame = st.builds(
    lambda opcode, payload, fin, mask: frame(opcode, payload, fin=fin, mask=mask),
    st.sampled_from((CONT, TEXT, TEXT, BINARY, CLOSE, PING, PONG, 3)),
    st.one_of(st.binary(max_size=140), st.text(max_size=20).map(str.encode)),
    st.sampled_from((True, True, False)),
    st.sampled_from((True, True, True, False)),
)


def taken(framing: Framing, piece: bytes) -> list[Message]:
    """The messages in a piece of what a client sends, taken as a session takes it."""
    message = framing.whole(piece)
    return framing.receive(piece) if message is None else [message]


class FramingCase(SynchronousTestCase):
    """One connection's framing."""

    def setUp(self) -> None:
        """Begin."""
        self.framing = Framing(MOST)

    def feed(self, *pieces: bytes) -> list[Message]:
        """The messages in what a client sends."""
        return [message for piece in pieces for message in taken(self.framing, piece)]

    def sent(self) -> list[Frame]:
        """The frames to send now."""
        frames, rest = read_frames(self.framing.to_send())
        self.assertEqual(rest, b"")
        return frames

    def refused(self, code: int) -> None:
        """Check that the client was refused with this code."""
        (said,) = self.sent()
        self.assertEqual((code_of(said), self.framing.over), (code, True))
        self.assertEqual(self.framing.ended_with[0], code)


class MessageTests(FramingCase):
    """Frames with data."""

    @given(messages, st.data())
    def test_every_message_comes_through_however_it_is_cut(self, said: list[Message], data: st.DataObject) -> None:
        """Messages come whole and in order, whatever their frames, what is between these, and how bytes arrive."""
        framing = Framing(MOST)
        wire, pings = b"", 0
        for message in said:
            payload = message.encode() if isinstance(message, str) else message
            opcode = TEXT if isinstance(message, str) else BINARY
            cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
            edges = [0, *cuts, len(payload)]
            for number, (start, end) in enumerate(pairwise(edges)):
                fin = number == len(edges) - 2
                wire += frame(opcode if number == 0 else CONT, payload[start:end], fin=fin)
                if data.draw(st.booleans()):
                    wire += frame(PING, b"%d" % pings)
                    pings += 1
        found: list[Message] = []
        while wire:
            size = data.draw(st.integers(1, 40))
            found += taken(framing, wire[:size])
            wire = wire[size:]
        self.assertEqual(found, said)
        frames, _ = read_frames(framing.to_send())
        self.assertEqual(frames, [Frame(PONG, b"%d" % number) for number in range(pings)])

    @given(st.lists(any_frame, max_size=6), st.lists(st.integers(1, 300), max_size=6), st.booleans())
    def test_a_short_frame_is_taken_as_the_protocol_takes_it(
        self, frames: list[bytes], cuts: list[int], closing: bool
    ) -> None:
        """Whatever came before it, sound or not, cut or not, and also when the server has said that it closes."""
        slices = frames if not cuts else []
        wire = b"".join(frames)
        for size in [*cuts, len(wire)] if cuts else []:
            slices, wire = [*slices, wire[:size]], wire[size:]
        framing, slow = Framing(MOST), Framing(MOST)
        slow._short = -1
        for both in (framing, slow):
            if closing:
                both.close(1001)
        for piece in slices:
            self.assertEqual(taken(framing, piece), slow.receive(piece))
            self.assertEqual(framing.to_send(), slow.to_send())
            self.assertEqual((framing.over, framing.ended_with), (slow.over, slow.ended_with))

    def test_a_frame_behind_one_that_came_in_two_parts_goes_the_short_way(self) -> None:
        """The end of a frame is found wherever it is cut, but in the midst of its length."""
        for payload in (b"x" * 5, b"x" * 300, b"x" * 70_000):
            framing = Framing(1 << 20)
            wire = frame(BINARY, payload)
            for cut in (10, len(wire) - 1):
                self.assertEqual(taken(framing, wire[:cut]), [])
                self.assertNotEqual(framing._missing, 0)
                self.assertEqual(taken(framing, wire[cut:]), [payload])
                self.assertEqual(framing._missing, 0)
                self.assertEqual(framing.whole(frame(TEXT, b"short")), "short")

    def test_the_end_of_a_frame_that_looks_like_a_short_one_is_none(self) -> None:
        """What a frame begins with says how much belongs to it."""
        short = frame(TEXT, b"short")
        wire = frame(BINARY, bytes(200) + short, mask=False)
        masked = wire[:1] + bytes((wire[1] | 0x80,)) + wire[2:4] + bytes(4) + wire[4:]  # a mask that changes nothing
        self.assertEqual(self.feed(masked[: -len(short)]), [])
        self.assertEqual(self.feed(short), [bytes(200) + short])

    @given(st.one_of(st.text(), st.binary(max_size=70_000)))
    def test_a_message_is_sent_in_one_frame(self, message: Message) -> None:
        """What is sent is read back as it was."""
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        self.assertEqual(read_frames(encode(message)), ([Frame(opcode, payload)], b""))

    def test_the_lengths_of_frames_are_written_as_short_as_can_be(self) -> None:
        """At the edges between the three forms of a length."""
        for size in (0, 125, 126, 65535, 65536):
            self.assertEqual(read_frames(encode(bytes(size))), ([Frame(BINARY, bytes(size))], b""))

    def test_empty_frames_without_end_take_no_memory(self) -> None:
        """A message that never ends is nowhere kept as a list of its frames."""
        self.feed(frame(BINARY, b"a", fin=False))
        for _ in range(1000):
            self.assertEqual(self.feed(frame(CONT, fin=False)), [])
        assert self.framing._parts is not None
        self.assertEqual(len(self.framing._parts), 1)
        self.assertEqual(self.feed(frame(CONT, b"b")), [b"ab"])


class TextTests(FramingCase):
    """Text is UTF-8."""

    def test_text_that_is_no_utf8_is_refused_with_1007(self) -> None:
        """Whether it is in one frame or in several."""
        for pieces in (
            [frame(TEXT, b"\xff")],
            [frame(TEXT, "ä".encode()[:1])],
            [frame(TEXT, b"\xed\xa0\x80")],  # a surrogate
            [frame(TEXT, "ä".encode()[:1], fin=False), frame(CONT, b"a")],
        ):
            self.framing = Framing(MOST)
            self.assertEqual(self.feed(*pieces), [])
            self.refused(1007)

    def test_a_broken_text_is_refused_with_its_first_frame(self) -> None:
        """The rest of the message is not waited for."""
        self.feed(frame(TEXT, b"abc\xff", fin=False))
        self.refused(1007)

    def test_a_character_may_be_cut_by_frames(self) -> None:
        """UTF-8 is a matter of the message."""
        data = "ä€😀".encode()
        pieces = [frame(TEXT, data[:1], fin=False), frame(CONT, data[1:4], fin=False), frame(CONT, data[4:])]
        self.assertEqual(self.feed(*pieces), ["ä€😀"])

    def test_binary_messages_are_not_looked_into(self) -> None:
        """They may hold anything."""
        self.assertEqual(self.feed(frame(BINARY, b"\xff", fin=False), frame(CONT, b"\xfe")), [b"\xff\xfe"])


class LimitTests(FramingCase):
    """The longest message."""

    def test_a_message_at_the_limit_passes(self) -> None:
        """In one frame and in several."""
        self.assertEqual(self.feed(frame(BINARY, bytes(MOST))), [bytes(MOST)])
        self.assertEqual(self.feed(frame(BINARY, bytes(MOST - 1), fin=False), frame(CONT, b"x"))[0][-1:], b"x")

    def test_a_longer_message_is_refused_with_1009_before_it_comes(self) -> None:
        """The length that the frame says is enough, so nothing of it is held."""
        self.feed(frame(BINARY, bytes(MOST + 1))[:8])
        self.refused(1009)

    def test_the_frames_of_a_message_count_together(self) -> None:
        """No message gets past the limit in small frames."""
        self.feed(frame(BINARY, bytes(MOST), fin=False), frame(CONT, b"x"))
        self.refused(1009)


class RefusalTests(FramingCase):
    """Clients that break the protocol."""

    def test_a_frame_that_breaks_the_protocol_is_refused_with_1002(self) -> None:
        """Reserved bits and opcodes, no mask, control frames in pieces or too long, frames out of order, codes."""
        for pieces in (
            [frame(TEXT, b"a", rsv=4)],
            [frame(3)],
            [frame(11)],
            [frame(TEXT, b"a", mask=False)],
            [frame(PING, fin=False)],
            [frame(PING, bytes(126))],
            [frame(CONT, b"a")],
            [frame(TEXT, b"a", fin=False), frame(TEXT, b"b")],
            [frame(CLOSE, b"x")],
            [close(999)],
            [close(1005)],
            [close(1006)],
            [close(1015)],
            [close(2999)],
            [close(5000)],
        ):
            self.framing = Framing(MOST)
            self.assertEqual(self.feed(*pieces), [])
            self.refused(1002)

    def test_a_reason_that_is_no_utf8_is_refused_with_1007(self) -> None:
        """The reason of a close frame is text, too."""
        self.feed(close(1000, b"\xff"))
        self.refused(1007)

    def test_what_comes_behind_a_refusal_is_thrown_away(self) -> None:
        """Nothing of it is taken, and nothing more is said."""
        self.feed(frame(3))
        self.sent()
        self.assertEqual(self.feed(frame(TEXT, b"a"), frame(PING)), [])
        self.assertEqual(self.sent(), [])

    def test_messages_before_a_refusal_are_taken(self) -> None:
        """Also if they come in the same packet."""
        self.assertEqual(self.feed(frame(TEXT, b"a") + frame(3)), ["a"])
        self.refused(1002)


class CloseTests(FramingCase):
    """Both sides say that they close."""

    def test_a_clients_close_is_answered_with_the_same_code(self) -> None:
        """Codes of RFC 6455, registered ones, an application's own, and none."""
        for code, reason in ((1000, b""), (1001, b"away"), (3000, b""), (4999, "Grüße".encode()), (None, b"")):
            self.framing = Framing(MOST)
            self.feed(close(code, reason))
            payload = b"" if code is None else struct.pack("!H", code) + reason
            self.assertEqual(self.sent(), [Frame(CLOSE, payload)])
            self.assertTrue(self.framing.over)
            self.assertEqual(self.framing.ended_with, (code or 1005, reason.decode()))

    def test_a_close_in_the_middle_of_a_message_is_a_close(self) -> None:
        """The message is dropped, and the client is not blamed."""
        self.assertEqual(self.feed(frame(TEXT, b"a", fin=False), close(1000)), [])
        self.assertEqual(code_of(self.sent()[0]), 1000)

    def test_the_server_says_that_it_closes_once(self) -> None:
        """Its own close is over when the client's has come, which is not answered again."""
        self.framing.close(1012, "service restart")
        self.framing.close(1011)
        self.assertEqual(self.sent(), [Frame(CLOSE, struct.pack("!H", 1012) + b"service restart")])
        self.assertEqual((self.framing.closing, self.framing.over), (True, False))
        self.feed(close(1012))
        self.assertEqual((self.sent(), self.framing.over), ([], True))

    def test_a_code_that_may_not_be_sent_is_refused(self) -> None:
        """An application learns that, not the client."""
        for code in (0, 999, 1004, 1006, 1015, 2999, 5000):
            self.assertRaises(ValueError, check_close, code)
        for code in (1000, 1001, 1005, 1011, 1012, 3000, 4999):
            check_close(code)

    def test_a_long_reason_is_shortened_between_characters(self) -> None:
        """A close frame has room for 123 bytes."""
        self.assertEqual(shortened("ä" * 100), "ä" * 61)
        self.framing.close(1000, "ä" * 100)
        self.assertEqual(len(self.sent()[0].payload), 124)
