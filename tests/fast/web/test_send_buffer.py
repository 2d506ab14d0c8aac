"""A client that is near gets a smaller send buffer, once, with the first large answer; no other client does."""

from __future__ import annotations

import errno
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.web.send_buffer import BUFFER, NEAR, bound_send_buffer, round_trip
from graceful.web.sending_half import JOIN
from tests.fast.doubles import GET, MIB, Case


class Gone:
    """A socket whose client goes away between two calls."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return bytes(size)

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        raise OSError(errno.EINVAL, "gone")


class Old:
    """A socket of a kernel that tells less."""

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        return bytes(104)


class NearbyTests(Case):
    """What connections do about it."""

    def buffers(self, away: int | None, *sizes: int) -> list[int]:
        """Send answers of these sizes to a client so far away."""
        client = self.engine.connect()
        client.socket.away = away
        for number, size in enumerate(sizes):
            client.send(GET)
            self.answer(self.engine.asked[number], body=bytes(size))
            self.engine.settle()
            while client.take():
                self.engine.settle()
        return client.socket.buffers

    def test_near_client_gets_the_smaller_buffer(self) -> None:
        """The first large answer gives it the smaller buffer, further ones need not."""
        self.assertEqual(self.buffers(NEAR, MIB, MIB), [BUFFER])

    def test_far_client_keeps_the_default(self) -> None:
        """The kernel is left to find out what a client far away needs."""
        self.assertEqual(self.buffers(NEAR + 1, MIB), [])

    def test_unknown_round_trip_keeps_the_default(self) -> None:
        """The buffer is left alone where the round trip is not known: on a Unix socket, or before there was one."""
        self.assertEqual(self.buffers(None, MIB), [])

    def test_all_ones_mean_no_round_trip(self) -> None:
        """All ones mean that there was no round trip yet."""
        self.assertEqual(self.buffers(0xFFFFFFFF, MIB), [])

    def test_small_answers_cost_no_further_system_call(self) -> None:
        """Small answers cost no system call more."""
        self.assertEqual(self.buffers(NEAR, 13, JOIN), [])

    def test_a_client_that_leaves_is_no_error(self) -> None:
        """A client that goes away meanwhile is no error here."""
        bound_send_buffer(Gone())  # type: ignore[arg-type]

    def test_kernel_tells_less(self) -> None:
        """A kernel that does not know the round trip is not misread."""
        self.assertIs(round_trip(Old()), None)  # type: ignore[arg-type]


class KernelTests(SynchronousTestCase):
    """What the kernel tells of real sockets."""

    def test_a_client_on_this_machine_gets_the_buffer_that_is_asked_for(self) -> None:
        """A client on this machine is near, and gets the buffer that is asked for, as far as the kernel allows."""
        with (
            socket.create_server(("127.0.0.1", 0)) as listening,
            socket.create_connection(listening.getsockname()),
            listening.accept()[0] as accepted,
        ):
            away = round_trip(accepted)
            assert away is not None
            self.assertLess(away, NEAR)
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                expected = other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            bound_send_buffer(accepted)
            self.assertEqual(accepted.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), expected)

    def test_a_unix_socket_has_no_round_trip(self) -> None:
        """There is no round trip on a Unix socket."""
        left, right = socket.socketpair()
        with left, right:
            self.assertIs(round_trip(left), None)
