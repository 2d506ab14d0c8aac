"""TCP ports that nobody else will take.

A port that was looked for and let go again is anybody's: another test process, side by side with this one, or any
connection that somebody makes, may be given it before the server starts that it was meant for.  So each is held, by a
socket that is bound and never listens.  Since that one and a server's have SO_REUSEADDR both, the server can bind it
all the same; and the kernel, which chooses ports for those who name none, leaves it out (socket(7), ip(7)).
"""

from __future__ import annotations

import socket

_held: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port of the loopback interface that is ours for as long as this process lives."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port
