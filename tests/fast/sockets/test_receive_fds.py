"""Descriptors that come from another process."""

from __future__ import annotations

import os
import socket

from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.receive_fds import receive


class ReceiveTests(SynchronousTestCase):
    """What `receive` returns."""

    def setUp(self) -> None:
        """Have two connected sockets."""
        self.ours, self.theirs = socket.socketpair()
        self.addCleanup(self.ours.close)
        self.addCleanup(self.theirs.close)

    def test_receives_descriptors_closed_on_exec(self) -> None:
        """They come with the bytes that they were sent with, and no child of ours inherits them."""
        with socket.socket() as one, socket.socket() as other:
            socket.send_fds(self.theirs, [b"two"], [one.fileno(), other.fileno()])
            data, descriptors = receive(self.ours, 100, 10)
            self.assertEqual((data, len(descriptors)), (b"two", 2))
            for descriptor, sent in zip(descriptors, (one, other), strict=True):
                self.assertFalse(os.get_inheritable(descriptor))
                self.assertTrue(os.path.sameopenfile(descriptor, sent.fileno()))
                os.close(descriptor)

    def test_receives_bytes_without_descriptors(self) -> None:
        """Bytes may come without."""
        self.theirs.sendall(b"none")
        self.assertEqual(receive(self.ours, 100, 10), (b"none", []))
        self.theirs.close()
        self.assertEqual(receive(self.ours, 100, 10), (b"", []))

    def test_flags_are_passed_to_the_system_call(self) -> None:
        """Flags are obeyed."""
        self.assertRaises(BlockingIOError, receive, self.ours, 100, 10, socket.MSG_DONTWAIT)
