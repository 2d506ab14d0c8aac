"""Event streams as a browser reads them, however they are cut."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads.event_stream import EventStream

#: A stream, the id that a client has then, and whether it is between two events.
STREAMS = (
    (b"", None, True),
    (b"data: a\n\n", None, True),
    (b"data: a\n", None, False),
    (b"data: a", None, False),
    (b"id: 1\ndata: a\n\n", b"1", True),
    (b"id:1\r\ndata: a\r\n\r\n", b"1", True),
    (b"id:  1\rdata: a\r\r", b" 1", True),
    (b"id: 1\ndata: a\n\nid: 2\ndata: b\n", b"1", False),
    (b"id: 1\ndata: a\n\ndata: b\n\n", b"1", True),
    (b"id: 1\n\n", b"1", True),
    (b"id: 1\n\nid\ndata: b\n\n", b"", True),
    (b"id: 1\n\nid: 2\0\ndata: b\n\n", b"1", True),
    (b": comment\n", None, True),
    (b"retry: 10\n", None, True),
    (b"event: x\n: comment\n", None, False),
    (b"identity: 5\n\n", None, True),
)


class EventStreamTests(SynchronousTestCase):
    """The place in a stream."""

    def test_a_place_is_the_same_wherever_the_stream_is_cut(self) -> None:
        """Also between the two characters of a line end."""
        for data, id, between in STREAMS:
            for first in range(len(data) + 1):
                for second in range(first, len(data) + 1):
                    stream = EventStream()
                    for piece in (data[:first], data[first:second], data[second:]):
                        stream.follow(piece)
                    self.assertEqual((stream.id, stream.between_events), (id, between), (data, first, second))
