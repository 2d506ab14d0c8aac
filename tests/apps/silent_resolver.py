"""A name server that never answers, for one thread."""

from __future__ import annotations

import ctypes
import socket
import struct

#: Seconds that the resolver waits before it asks again, and how often it asks.
PATIENCE = (1000, 2)


def look_up() -> None:
    """Look a name up, with the C library's own resolver; returns only if it gives up.

    :raises OSError: it has given up.
    """
    libc = ctypes.CDLL(None)
    libc.__res_state.restype = ctypes.c_void_p
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        server = struct.pack("!H4s8x", silent.getsockname()[1], socket.inet_aton("127.0.0.1"))
        libc.__res_init()
        # The head of `struct __res_state`: its times, its options, and its list of servers.
        state = libc.__res_state()
        ctypes.memmove(state, struct.pack("ii", *PATIENCE), 8)
        ctypes.memmove(state + 16, struct.pack("=iH", 1, socket.AF_INET) + server, 20)
        try:
            socket.getaddrinfo("name.example.", 80)
        finally:
            libc.__res_init()
