"""A real network for tests: two namespaces with a line between them that takes its time and loses packets.

On the loopback interface a packet arrives at once, so that the server sees everything the client has sent.  What a
server loses because it cannot see what is on its way, only a line with a delay shows.

Each namespace has a TUN device.  This module is also the process between the two, which carries each packet over
after the delay: netem of tc(8) would do the same, but few kernels in containers have it.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Final

#: Addresses of the two ends.
SERVER: Final = "10.83.0.1"
CLIENT: Final = "10.83.0.2"
_MASK: Final = "255.255.255.0"

# <sched.h>, <linux/if_tun.h>, <linux/sockios.h>, <linux/if.h>.
_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFADDR: Final = 0x8916
_SIOCSIFNETMASK: Final = 0x891C
_IFF_UP_RUNNING: Final = 0x1 | 0x40
_NAME: Final = b"line"
_TUN: Final = Path("/dev/net/tun")
_PACKET: Final = 65536
_SYN_ACK: Final = 0x02 | 0x10


class Network:
    """Two namespaces, and the line between them.

    :param delay: seconds that a packet takes, each way.
    :param loss: the part of the packets that is lost, each way.
    :param syn_ack_loss: the part of the connections that lose the first answer to their SYN; the kernel sends it
        again a second later.
    :ivar server_prefix: a command that starts a command in the server's namespace.
    :raises AssertionError: the machine does not allow it; the text says what is missing.
    """

    def __init__(self, delay: float, loss: float = 0.0, syn_ack_loss: float = 0.0) -> None:
        with ExitStack() as stack:
            self._server = stack.enter_context(closing(_Namespace(SERVER)))
            self._client = stack.enter_context(closing(_Namespace(CLIENT)))
            self._namespaces = stack.pop_all()
        self.server_prefix = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self._server.descriptor}")
        ends = (self._server.device, self._client.device)
        self._line = subprocess.Popen(
            [sys.executable, "-m", "tests.support.network", *map(str, (*ends, delay, loss, syn_ack_loss))],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            pass_fds=ends,
        )

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *ignored: object) -> None:
        assert self._line.stdin is not None
        self._line.stdin.close()
        try:
            assert self._line.wait(10) == 0
        finally:
            self._line.kill()
            self._line.wait()
            self._namespaces.close()

    def client_socket(self) -> socket.socket:
        """A TCP socket in the client's namespace."""
        made: socket.socket = self._client.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        return made


class _Namespace:
    """A network namespace with one device in it, held by a thread that is in it."""

    def __init__(self, address: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"namespace of {address}")
        try:
            self.descriptor, self.device = self.call(lambda: _enter(address))
        except BaseException:
            self._thread.shutdown()
            raise

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function in the namespace."""
        return self._thread.submit(function).result(10)

    def close(self) -> None:
        """Give it back; the kernel removes it with its last process."""
        self._thread.shutdown()
        os.close(self.descriptor)
        os.close(self.device)


def _enter(address: str) -> tuple[int, int]:
    """Put this thread into a new namespace; returns descriptors of the namespace and of its device."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        raise AssertionError(f"a network namespace cannot be made ({reason}): run the tests as root (CAP_SYS_ADMIN)")
    try:
        device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise AssertionError(f"{_TUN} cannot be opened ({error.strerror}): give the container this device") from None
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _NAME, _IFF_TUN_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, _MASK)):
                fcntl.ioctl(control, request, struct.pack("16sHH4s16x", _NAME, socket.AF_INET, 0, _packed(value)))
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _NAME, _IFF_UP_RUNNING))
    except OSError as error:
        os.close(device)
        raise AssertionError(f"a TUN device cannot be set up ({error.strerror}): it needs CAP_NET_ADMIN") from None
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY), device


def _packed(address: str) -> bytes:
    return socket.inet_aton(address)


class _Losses:
    """Which packets are lost."""

    def __init__(self, loss: float, syn_ack_loss: float) -> None:
        self._loss = loss
        self._syn_ack_loss = syn_ack_loss
        self._chance = random.Random(1)
        self._known: set[bytes] = set()

    def lost(self, packet: bytes) -> bool:
        """Whether a packet is lost; called once for each."""
        if self._chance.random() < self._loss:
            return True
        tcp = packet[(packet[0] & 15) * 4 :]  # behind the header of IPv4
        if packet[9] != socket.IPPROTO_TCP or tcp[13] & _SYN_ACK != _SYN_ACK or tcp[:4] in self._known:
            return False
        self._known.add(tcp[:4])  # the ports
        return self._chance.random() < self._syn_ack_loss


def carry(ends: tuple[int, int], delay: float, losses: _Losses, until: int) -> None:
    """Carry packets between two devices, until the descriptor `until` is closed at its other end."""
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    on_their_way: list[tuple[float, int, int, bytes]] = []
    number = 0
    while True:
        wait = max(0.0, on_their_way[0][0] - time.monotonic()) if on_their_way else None
        readable, _, _ = select.select([*ends, until], [], [], wait)
        if until in readable:
            return
        now = time.monotonic()
        for end in readable:
            try:
                packet = os.read(end, _PACKET)
            except BlockingIOError:
                continue
            if packet[0] >> 4 == 4 and not losses.lost(packet):  # IPv6 looks for neighbours that are not there
                number += 1
                heapq.heappush(on_their_way, (now + delay, number, other[end], packet))
        while on_their_way and on_their_way[0][0] <= now:
            _, _, end, packet = heapq.heappop(on_their_way)
            os.write(end, packet)


if __name__ == "__main__":
    delay, loss, syn_ack_loss = map(float, sys.argv[3:])
    carry((int(sys.argv[1]), int(sys.argv[2])), delay, _Losses(loss, syn_ack_loss), sys.stdin.fileno())
