"""`graceful status`: shows the state of a server, and what is in flight."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from graceful.commands.certificates import line_of
from graceful.commands.common import DONE, FAILED, control_path, say
from graceful.control.client import ClientError, ControlClient, NobodyThere
from graceful.control.discovery import connect_beside
from graceful.humanize import counted, duration, size


def status(arguments: argparse.Namespace) -> int:
    """Show the status of the server at the control socket, and of those that have given it up."""
    found, failed = statuses(control_path(arguments))
    for error in failed:
        say(str(error))
    if not found:
        return FAILED
    if arguments.json:
        print(json.dumps({**found[0], "draining": found[1:]}))
    else:
        print("\n\n".join(text_of(one) for one in found))
    return DONE


def statuses(path: str) -> tuple[list[dict[str, Any]], list[ClientError]]:
    """Ask the server at a control path, and those beside it, which have given it up.

    :returns: what they say, and why others beside it do not.
    :raises NobodyThere: there is no server, neither at the path nor beside it.
    :raises ClientError: the one at the path does not answer.
    """
    found: list[dict[str, Any]] = []
    failed: list[ClientError] = []
    nobody: NobodyThere | None = None
    try:
        found.append(_ask(ControlClient(path)))
    except NobodyThere as error:
        nobody = error
    for client in connect_beside(path):
        try:
            found.append(_ask(client))
        except ClientError as error:
            failed.append(error)
    if nobody is not None and not found and not failed:
        raise nobody
    return found, failed


def _ask(client: ControlClient) -> dict[str, Any]:
    with client:
        answer: dict[str, Any] = client.get("/status")
        return answer


def moved_of(status: dict[str, Any]) -> str:
    """Returns how many connections have moved, as a part of a line; empty if none has."""
    moved = status.get("moved") or {}  # a server of an earlier release does not say it
    here = f", {moved['in']} moved here" if moved.get("in") else ""
    return here + (f", {moved['out']} moved to the successor" if moved.get("out") else "")


def _fork_server_of(server: dict[str, Any]) -> str:
    made, state = counted(server["workers"], "worker"), server["state"]
    return f"process {server['pid']}: {made}, {server['application']}{'' if state == 'ready' else f', {state}'}"


def text_of(status: dict[str, Any]) -> str:
    """Returns a status as text for people."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status["since"]))
    version = f", version {status['app_version']}" if status["app_version"] else ""
    rotation = ", out of the rotation" if status["rotation"] == "away" else ""
    lines = [f"process {status['pid']}: {status['state']} since {since}{rotation}{version}"]
    if status["deadline"] is not None:
        lines.append(
            f"  deadline     in {duration(status['deadline'])}, gone at the latest in "
            f"{duration(status['latest_exit'])}"
        )
    for number, socket in enumerate(status["sockets"]):
        lines.append(f"  {'' if number else 'sockets':<12} {socket['name']} {socket['state']}")
    threads, connections = status["threads"], status["connections"]
    lines.append(f"  threads      {threads['busy']} of {threads['size']} busy, {threads['queued']} requests wait")
    lines.append(f"  connections  {connections['busy']} busy, {connections['idle']} idle{moved_of(status)}")
    lines.append(f"  finished     {status['finished']}, taken down {status['taken_down']}")
    for number, certificate in enumerate(status.get("certificates") or ()):
        lines.append(f"  {'' if number else 'certificates':<12} {line_of(certificate)}")
    for number, worker in enumerate(status.get("workers", ())):
        lines.append(f"  {'' if number else 'workers':<12} {worker_of(worker)}")
    for number, server in enumerate(status.get("fork_servers", ())):
        lines.append(f"  {'' if number else 'fork server':<12} {_fork_server_of(server)}")
    lines.append(f"  in flight    {status['in_flight_count']}")
    if status["in_flight"]:
        rows: list[tuple[str, ...]] = [("ID", "AGE", "PHASE", "SENT", "THREAD", "PEER", "REQUEST")]
        rows += [row_of(exchange) for exchange in status["in_flight"]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
        for row in rows:
            cells = [
                f"{cell:>{width}}" if n < 2 else f"{cell:<{width}}"
                for n, (cell, width) in enumerate(zip(row, widths, strict=False))
            ]
            lines.append("  ".join(["", *cells, row[-1]]))
    return "\n".join(lines)


def worker_of(worker: dict[str, Any]) -> str:
    """Returns a line about a worker, with what is known of it."""
    known = [f"{worker['number']}, process {worker['pid']}: {worker['state']}"]
    if worker["in_flight_count"] is not None:
        known.append(f"{worker['in_flight_count']} in flight")
    if worker["threads"] is not None:
        known.append(f"{worker['threads']['busy']} of {worker['threads']['size']} threads busy")
    if worker["memory"] is not None:
        known.append(size(worker["memory"]))
    return ", ".join(known)


def row_of(exchange: dict[str, Any]) -> tuple[str, ...]:
    """Returns the columns of an exchange in a table."""
    return (
        str(exchange["id"]),
        duration(exchange["age"]),
        exchange["phase"],
        sent_of(exchange),
        exchange["thread"] or "-",
        exchange["peer"],
        f"{exchange['method']} {exchange['path']}",
    )


def sent_of(exchange: dict[str, Any]) -> str:
    """Returns how many bytes of an answer were sent, and of how many."""
    total = exchange["bytes_total"]
    if not total:
        return size(exchange["bytes_sent"])
    return f"{size(exchange['bytes_sent'])} of {size(total)} ({100 * exchange['bytes_sent'] // total} %)"
