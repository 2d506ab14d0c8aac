"""A way from one process to another on which connections move, if the two have no control connection to each other.

A worker that leaves gives its connections to a worker that serves: the supervisor makes a pair of Unix sockets, and
sends one end to each of the two.  When a whole instance leaves, each process of the old one needs a way to a process
of the new one, and the ends come with the answer to the successor's message that it accepts.  On the way itself, the
one that takes asks, as a successor does at control (:mod:`graceful.takeover.connection_moves`).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import frozen


class BadLinks(ValueError):
    """What another process has sent is no description of links.  Its text is one line."""


@frozen
class Link:
    """The taker's end.

    :ivar sock: connected to the process that gives.
    :ivar process: a descriptor of that process, which is readable once it has ended; negative if it has.
    :ivar pid: its process number, for log lines.
    """

    sock: socket.socket
    process: int
    pid: int

    def close(self) -> None:
        """Close both descriptors: the taker has its own by now, or there is none."""
        self.sock.close()
        if self.process >= 0:
            os.close(self.process)

    def descriptors(self) -> tuple[int, int]:
        """Returns what is sent to the taker, beside the process number."""
        return self.sock.fileno(), self.process


def make_link(process: int, pid: int, give: Callable[[socket.socket], object]) -> Link:
    """Make a link.

    :param process: a descriptor of the process that gives; stays the caller's.
    :param pid: its process number.
    :param give: sends the other end to that process, or keeps it.
    :raises OSError: there are no descriptors left.
    """
    ours, theirs = socket.socketpair()
    with ExitStack() as undo:
        undo.callback(ours.close)
        undo.callback(theirs.close)
        link = Link(ours, os.dup(process), pid)
        undo.callback(os.close, link.process)
        give(theirs)
        undo.pop_all()
    return link


def make_links(makers: Iterable[Callable[[], Link]]) -> list[Link]:
    """Make links, or none.

    :param makers: each makes one.
    :raises OSError: there are no descriptors left; those that were made have hung up.
    """
    with ExitStack() as undo:
        made = []
        for make in makers:
            made.append(link := make())
            undo.callback(link.close)
        undo.pop_all()
    return made


def describe(links: Iterable[Link]) -> list[dict[str, Any]]:
    """Returns the links as JSON; their descriptors go beside it, in the same order."""
    return [{"pid": link.pid} for link in links]


def read_links(said: object, descriptors: Sequence[int]) -> list[Link]:
    """Returns the links that another process has sent.

    :param said: what it has said of them.
    :param descriptors: what has come with that, ours from now on.
    :raises BadLinks: the two do not match; the descriptors are closed.
    """
    try:
        pids = [int(one["pid"]) for one in said]  # type: ignore[attr-defined]
        if len(descriptors) != 2 * len(pids):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        for descriptor in descriptors:
            os.close(descriptor)
        raise BadLinks(f"not the links that were announced: {str(said)[:100]}") from None
    pairs = zip(descriptors[::2], descriptors[1::2], strict=True)
    return [Link(socket.socket(fileno=sock), process, pid) for (sock, process), pid in zip(pairs, pids, strict=True)]
