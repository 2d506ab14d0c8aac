"""`graceful stop` and `graceful wait`: wait for the end of a server, and exit with the server's own status.

A connection to the control socket stays with its server, so the command waits for the right server even if that gives
its path to a successor meanwhile.  The server tells how its drain has ended; then the command waits for the process,
by a descriptor that it has taken before: the pid may belong to another process by then.
"""

from __future__ import annotations

import argparse
import os
import select
from typing import Any, Final

from graceful.commands.common import DONE, VANISHED, connect, control_path, say
from graceful.control.client import ANSWERS_IN, ClientError, ControlClient, NobodyThere, Vanished, process_descriptor
from graceful.control.discovery import connect_leaving

#: Seconds that a process has to be gone after its last word; its own watchdog gives it less.
LEAVES_IN: Final = 10.0


def stop(arguments: argparse.Namespace) -> int:
    """Tell the server to stop; for a server that is stopping already, only new options have an effect.

    Without a server at the path, this means the servers that have given it up, or the only one that is beside it.
    """
    try:
        path = control_path(arguments)
    except NobodyThere:
        return DONE  # the process that was named has gone
    try:
        clients = [connect(path)]
    except NobodyThere:
        clients = connect_leaving(path)
    values: dict[str, Any] = {"quiet": arguments.quiet}
    if arguments.deadline is not None:
        values["deadline"] = arguments.deadline
    return _each(clients, arguments.wait, "/stop", values)


def wait(arguments: argparse.Namespace) -> int:
    """Wait for the servers that are on their way out; without any, for the one that serves."""
    path = control_path(arguments)
    clients = connect_leaving(path)
    if not clients:
        try:
            clients = [ControlClient(path)]
        except NobodyThere:
            clients = connect_leaving(path)  # it may just have given the path up
    return _each(clients, arguments.what)


def _each(
    clients: list[ControlClient], what: str | None, order: str = "", values: dict[str, Any] | None = None
) -> int:
    """Do the same with several servers.  Returns the worst of their exit statuses."""
    worst = DONE
    for client in clients:
        with client:
            process = process_descriptor(client.peer_pid)
            try:
                worst = max(worst, _follow(client, what, process, order, values or {}))
            finally:
                if process >= 0:
                    os.close(process)
    return worst


def _follow(client: ControlClient, what: str | None, process: int, order: str, values: dict[str, Any]) -> int:
    """Give the order, if there is one, and wait until sockets are closed or the process is gone."""
    timeout = ANSWERS_IN if what is None else None
    try:
        if order:
            word = client.post(order, timeout=timeout, **values, **({"wait": what} if what is not None else {}))
        else:
            word = client.get(f"/wait?for={what}", timeout=timeout)
    except Vanished as vanished:
        if what != "gone":
            return DONE
        say(str(vanished))
        return VANISHED
    if what != "gone":
        return DONE
    if process >= 0:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        if not poll.poll(LEAVES_IN * 1000):
            raise ClientError(f"{client.path}: the server has said its last word, but its process is still there")
    return int(word["exit_status"])
