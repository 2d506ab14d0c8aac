"""`graceful stop` and `graceful wait`: the end of a server, and its own word for how it went.

A connection to the control socket stays with the server that it was made to, so that one which gives its path to a
successor meanwhile is still the one that is waited for.  The server says how its drain has ended; then the process is
waited for, by a descriptor that was taken before: its number may be somebody else's by then.
"""

from __future__ import annotations

import argparse
import os
import select
from typing import Any, Final

from graceful.commands.common import DONE, VANISHED, connect_leaving, control_path, say
from graceful.control.client import Client, ClientError, NobodyThere, Vanished, start_of

#: Seconds that a process has to be gone after its last word; its own watchdog gives it less.
LEAVES_IN: Final = 10.0


def stop(arguments: argparse.Namespace) -> int:
    """Tell the server to stop; one that is on its way out, or gone, is told nothing."""
    path = control_path(arguments)
    try:
        client = Client(path)
    except NobodyThere:
        if arguments.wait is None:
            return DONE
        return _wait_for(connect_leaving(path), arguments.wait)
    with client:
        process = start_of(client.peer_pid)
        values: dict[str, Any] = {"quiet": arguments.quiet}
        if arguments.deadline is not None:
            values["deadline"] = arguments.deadline
        try:
            client.post("/stop", **values)
        except Vanished:
            return DONE if arguments.wait is None else _vanished(path)
        if arguments.wait is None:
            return DONE
        return _follow(client, arguments.wait, process)


def wait(arguments: argparse.Namespace) -> int:
    """Wait for the servers that are on their way out; if none is, for the one that serves."""
    path = control_path(arguments)
    clients = connect_leaving(path)
    if not clients:
        try:
            clients = [Client(path)]
        except NobodyThere:
            # It may just have given the path up.
            clients = connect_leaving(path)
    return _wait_for(clients, arguments.what)


def _wait_for(clients: list[Client], what: str) -> int:
    """Wait for some servers; the worst of their exit statuses."""
    worst = DONE
    for client in clients:
        with client:
            worst = max(worst, _follow(client, what, start_of(client.peer_pid)))
    return worst


def _follow(client: Client, what: str, process: int) -> int:
    """Wait until a server's sockets are closed, or until it is gone; then its exit status."""
    try:
        word = client.get(f"/wait?for={what}", timeout=None)
        if what == "gone":
            _wait_for_process(process)
            return int(word["exit_status"])
        return DONE
    except Vanished:
        return DONE if what == "closed" else _vanished(client.path)
    finally:
        if process >= 0:
            os.close(process)


def _wait_for_process(process: int) -> None:
    if process < 0:
        return
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(LEAVES_IN * 1000):
        raise ClientError("the server has said its last word, and its process is still there")


def _vanished(path: str) -> int:
    say(f"{path}: the server has ended without a last word")
    return VANISHED
