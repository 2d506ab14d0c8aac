"""Stopping new TCP handshakes while those under way complete.

A client may believe itself connected while its last acknowledgement is still on the way: closing the
listening socket then resets it.  accept(2) knows nothing of such half-open handshakes, and the kernel has no
call for "no new ones, but finish these".  Three things come close:

* binding the listening socket to a network interface that does not exist.  The kernel looks for a listening
  socket when a segment asks for a new connection (SYN), finds none for the interface on which that has come,
  and refuses the client at once, as it does when the socket is closed.  What completes a handshake under way
  goes to that handshake, which began without the interface and makes a connection without it.  It needs no
  privilege since Linux 5.7, but only CAP_NET_RAW can undo it;
* a socket filter that drops SYNs and lets all other segments pass.  It needs CAP_NET_ADMIN;
* the least TTL that a segment must have left (RFC 5082 §3), which needs no privilege, set to 255: nearly all
  hosts send with less.  The kernel compares it for segments that reach the listening socket, and those are the
  SYNs.  But a connection inherits it from the socket it was accepted from, and a host on the same link that
  sends with 255 is not kept out.

A client whose SYN is dropped by one of the latter two tries again a second later, and then is refused, or served
by a successor.  All three are set on the socket, not on the descriptor: if another process holds the socket, its
clients are kept out, too.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress
from typing import Final

# <asm-generic/socket.h>; Python has no names for them.
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
SO_BINDTOIFINDEX: Final = 62

#: The number of an interface that does not exist: the kernel counts from 1, and gives none twice.
_NOWHERE: Final = 2**31 - 1

# <linux/in.h>, <linux/in6.h>; Python has no names for these either.
IP_MINTTL: Final = 21
IPV6_MINHOPCOUNT: Final = 73
_LEAST_LEFT: Final = ((socket.IPPROTO_IP, IP_MINTTL), (socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT))

#: Classic BPF, <linux/filter.h>: (code, jump if true, jump if false, operand).  The kernel shows a filter on
#: a TCP socket the segment from the TCP header on, for IPv4 and IPv6 alike (`tcp_filter`); byte 13 has the
#: flags.
_DROP_SYN: Final = (
    (0x30, 0, 0, 13),  # load that byte
    (0x45, 0, 1, 0x02),  # SYN set?
    (0x06, 0, 0, 0),  # yes: keep nothing of the segment
    (0x06, 0, 0, 0xFFFFFFFF),  # no: keep all of it
)

#: <linux/netlink.h>, <linux/sock_diag.h>, <net/tcp_states.h>.
_NLMSGHDR: Final = struct.Struct("=IHHII")
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_TCP_SYN_RECV: Final = 3


def refuse_new(listening: socket.socket) -> bool:
    """Have new handshakes refused on a TCP socket that only this process holds, and that it will not need again.

    :returns: whether they are refused now.  It needs Linux 5.7, or CAP_NET_RAW and Linux 5.0.
    """
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, _NOWHERE)
    except OSError:
        return False
    return True


def drop_new(listening: socket.socket) -> bool:
    """Have new handshakes dropped on a TCP socket that only this process holds, where `refuse_new` cannot.

    Give every connection accepted from it afterwards to `release`.

    :returns: whether new handshakes are dropped now.
    """
    return filter_new(listening) or _set_least_left(listening, 255)


def release(accepted: socket.socket) -> None:
    """Undo `drop_new` on an accepted connection, which inherits it.  The client sends dropped segments again."""
    _set_least_left(accepted, 0)


def admit_new(listening: socket.socket) -> None:
    """Let new handshakes begin again, after either way of dropping them.  Needs no privilege.

    After `refuse_new` it needs CAP_NET_RAW.
    """
    # ENOENT: there is no filter, as nearly always.
    with suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    _set_least_left(listening, 0)
    with suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, 0)


def _set_least_left(sock: socket.socket, hops: int) -> bool:
    """Set how many hops a segment must have left when it comes.  An IPv6 socket may have IPv4 clients."""
    both = _LEAST_LEFT if sock.family == socket.AF_INET6 else _LEAST_LEFT[:1]
    try:
        for level, option in both:
            sock.setsockopt(level, option, hops)
    except OSError:
        return False
    return True


def filter_new(listening: socket.socket) -> bool:
    """Drop new handshakes as `drop_new` does, but only by a filter: then connections need no `release`.

    :returns: whether new handshakes are dropped now.  It needs CAP_NET_ADMIN, and a kernel with socket filters.
    """
    instructions = b"".join(struct.pack("=HBBI", *instruction) for instruction in _DROP_SYN)
    memory = ctypes.create_string_buffer(instructions, len(instructions))
    # struct sock_fprog: a count and, aligned, a pointer.
    program = struct.pack("@HP", len(_DROP_SYN), ctypes.addressof(memory))
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def half_open(port: int) -> int:
    """Count the handshakes on a local TCP port that have begun and are not complete.

    The kernel is asked by sock_diag(7), for these sockets only: /proc/net/tcp lists every connection of the
    machine, which takes ten times as long, and the reactor thread waits for it.

    :param port: the local port, of IPv4 and IPv6 together.
    :returns: their number; 0 as well where the kernel does not tell.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            return sum(_half_open(kernel, family, port) for family in (socket.AF_INET, socket.AF_INET6))
    except OSError:
        return 0


def _half_open(kernel: socket.socket, family: int, port: int) -> int:
    # struct inet_diag_req_v2 and, within it, inet_diag_sockid: of the latter only the local port is given.
    asked = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 0, 1 << _TCP_SYN_RECV)
    asked += struct.pack("!H", port) + bytes(46)
    size = _NLMSGHDR.size + len(asked)
    header = _NLMSGHDR.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 0, 0)
    kernel.send(header + asked)
    found = 0
    while True:
        answer = kernel.recv(65536)
        at = 0
        while at < len(answer):
            length, kind, *_ = _NLMSGHDR.unpack_from(answer, at)
            if kind != _SOCK_DIAG_BY_FAMILY:  # NLMSG_DONE; or NLMSG_ERROR, from a kernel that cannot tell
                return found
            found += 1
            at += (length + 3) & ~3
