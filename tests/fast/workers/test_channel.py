"""The channel between a supervisor and a worker: messages over a pair of sockets."""

from __future__ import annotations

import os
import resource
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.workers import channel as module
from graceful.workers.channel import LONGEST, Channel, ChannelLost
from tests.fast.doubles import Reactor


class ChannelTests(SynchronousTestCase):
    """A channel, and the other end of its pair of sockets."""

    def setUp(self) -> None:
        """Make both ends; the reactor watches one of them."""
        self.other, sock = socket.socketpair()
        self.addCleanup(self.other.close)
        self.channel = Channel(sock)
        self.addCleanup(self.channel.close)
        self.reactor = Reactor()
        self.heard: list[Any] = []

    def watched(self, on_message: Any = None) -> Channel:
        """Have the reactor watch the channel from now on."""
        self.channel.watch(self.reactor, on_message or self.heard.append, lambda: self.heard.append("lost"))
        return self.channel

    def sends(self, data: bytes) -> None:
        """Have the other end send data, and the reactor notice."""
        self.other.sendall(data)
        self.channel.doRead()

    def file(self) -> int:
        """Returns an open descriptor."""
        descriptor = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        return descriptor

    # -- speaking and hearing -----------------------------------------------------------------------------

    def test_message_arrives_as_sent_with_its_descriptors(self) -> None:
        """A message arrives as it was sent, and its descriptors come with it."""
        other = Channel(self.other)
        other.send("sockets", [self.file(), self.file()], sockets=[1, 2])
        self.assertEqual(self.channel.receive(1.0), {"word": "sockets", "sockets": [1, 2]})
        found = [self.channel.take_descriptor() for _ in range(3)]
        self.assertIs(found[2], None)
        for descriptor in found[:2]:
            assert descriptor is not None
            self.assertFalse(os.get_inheritable(descriptor))
            os.close(descriptor)

    def test_messages_that_come_together_are_read_one_by_one(self) -> None:
        """Messages that come together are read one by one; an incomplete one waits for its rest."""
        self.watched()
        self.sends(b'{"word": "a"}\n{"word": "b"}\n{"wor')
        self.assertEqual(self.heard, [{"word": "a"}, {"word": "b"}])
        self.sends(b'd": "c"}\n')
        self.assertEqual(self.heard[2:], [{"word": "c"}])

    def test_read_never_blocks(self) -> None:
        """A read never blocks, whatever has woken the reactor, and does not close the channel."""
        self.patch(module, "TAKES_IN", 60.0)
        self.watched().doRead()
        self.channel.send("a")
        self.channel.doRead()
        self.assertEqual(self.heard, [])
        self.assertTrue(self.channel.open)

    def test_receive_fails_after_timeout_or_close(self) -> None:
        """`receive` fails after its time-out, and when the other end is closed."""
        self.assertRaises(ChannelLost, self.channel.receive, 0.01)
        self.assertTrue(self.channel.open)
        self.other.close()
        self.assertRaises(ChannelLost, self.channel.receive, None)

    def test_nonsense_closes_the_channel(self) -> None:
        """Data that is no message closes the channel."""
        for data in (b"nonsense\n", b"[]\n", b'{"word": 1}\n', b"\xff\n"):
            self.other.sendall(data)
            self.assertRaises(ChannelLost, self.channel.receive, 1.0)

    def test_failing_handler_does_not_close_the_channel(self) -> None:
        """A handler that fails for one message gets the next one, and the channel stays open."""

        def heard(message: dict[str, Any]) -> None:
            self.heard.append(message["needed"])

        self.watched(heard)
        self.sends(b'{"word": "a"}\n{"word": "b", "needed": 1}\n')
        self.assertEqual(self.heard, [1])
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(self.reactor.readers, [self.channel])

    # -- the end ------------------------------------------------------------------------------------------

    def test_closes_once_after_the_last_message(self) -> None:
        """Messages that came before the end are read; the close is reported once."""
        self.watched()
        self.other.sendall(b'{"word": "a"}\n{"half')
        self.other.close()
        for _ in range(3):
            self.channel.doRead()
        self.assertEqual(self.heard, [{"word": "a"}, "lost"])
        self.assertEqual((self.channel.open, self.reactor.readers), (False, []))

    def test_nonsense_is_reported_as_a_close(self) -> None:
        """Data that is no message is reported as a close."""
        self.watched()
        self.sends(b"nonsense\n")
        self.assertEqual(self.heard, ["lost"])

    def test_message_without_end_closes_the_channel(self) -> None:
        """A message that does not end closes the channel; a long one with an end is read."""
        self.watched()
        self.other.setblocking(False)
        longest = b'{"word": "' + b"a" * (LONGEST - 100) + b'"}\n'
        for data in (longest, b"b" * (LONGEST + 100_000)):
            while data:
                try:
                    data = data[self.other.send(data) :]
                except BlockingIOError:
                    self.channel.doRead()
                except OSError:
                    break
        while self.channel.open:
            self.channel.doRead()
        self.assertEqual((len(self.heard), self.heard[-1]), (2, "lost"))

    def test_send_to_closed_end_is_noticed(self) -> None:
        """Sending to an end that is closed does nothing but notice that."""
        self.watched()
        self.other.close()
        self.channel.send("a")
        self.channel.doRead()
        self.assertEqual(self.heard, ["lost"])
        self.channel.send("b")
        self.channel.doRead()
        self.assertEqual(self.heard, ["lost"])

    def test_full_channel_is_given_up(self) -> None:
        """If the other end leaves the channel full for too long, the channel is closed: half a message was sent."""
        self.patch(module, "TAKES_IN", 0.05)
        self.watched()
        self.channel.send("long", text="x" * (4 << 20))
        self.channel.doRead()
        self.assertEqual(self.heard, ["lost"])

    def test_receive_rest_reads_all_last_messages(self) -> None:
        """`receive_rest` reads all messages of an end that has closed, and notices the close."""
        self.watched()
        self.other.sendall(b'{"word": "a"}\n' + b'{"word": "' + b"b" * 150_000 + b'"}\n')
        self.other.close()
        self.channel.receive_rest()
        self.assertEqual([message["word"][0] for message in self.heard], ["a", "b"])
        self.assertEqual((self.channel.open, self.reactor.readers), (False, []))

    def test_receive_rest_does_not_wait_for_a_process_that_inherited_the_end(self) -> None:
        """`receive_rest` does not wait for a process that still holds the other end by inheritance."""
        self.patch(module, "TAKES_IN", 60.0)
        self.watched()
        self.other.sendall(b'{"word": "a"}\n')
        self.channel.receive_rest()
        self.assertEqual(self.heard, [{"word": "a"}])
        self.assertFalse(self.channel.open)

    def test_nothing_is_read_after_close(self) -> None:
        """After `close` no message is read, not even one that is there; its descriptors are closed."""
        other = Channel(self.other)
        other.send("a")
        other.send("b", [self.file()])
        before = len(os.listdir("/proc/self/fd"))

        def heard(message: dict[str, Any]) -> None:
            self.heard.append(message["word"])
            self.channel.close()

        self.watched(heard)
        self.channel.doRead()
        self.assertEqual(self.heard, ["a"])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before - 1)
        self.assertEqual(self.reactor.readers, [])

    def test_descriptors_over_the_limit_are_left_out(self) -> None:
        """Descriptors for which there is no room do not come; the message does."""
        other = Channel(self.other)
        other.send("sockets", [self.file(), self.file()])
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
        try:
            self.assertEqual(self.channel.receive(1.0), {"word": "sockets"})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        self.assertEqual(self.channel.take_descriptor(), free)
        os.close(free)
        self.assertIs(self.channel.take_descriptor(), None)
