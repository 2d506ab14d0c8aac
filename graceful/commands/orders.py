"""`graceful leave`, `enter`, `takedown`, `extend` and `workers`: one order, one answer."""

from __future__ import annotations

import argparse
from typing import Any

from graceful.commands.common import DONE, connect, control_path
from graceful.drain.state import State


def leave(arguments: argparse.Namespace) -> int:
    """Take the server out of the rotation; everything is served as always."""
    return _order(arguments, "/leave", "process {pid} has left the rotation: its health says going down")


def enter(arguments: argparse.Namespace) -> int:
    """Put the server into the rotation again."""
    return _order(arguments, "/enter", "process {pid} is in the rotation")


def extend(arguments: argparse.Namespace) -> int:
    """Move the deadline of a stop."""
    text = "process {pid} has to be gone in {latest_exit:.0f} s"
    with connect(control_path(arguments)) as client:
        status = client.post("/extend", seconds=arguments.seconds)
    if status["state"] == State.SERVING:
        text = "process {pid} has to be gone {latest_exit:.0f} s after it is told to stop"
    print(text.format(**status))
    return DONE


def takedown(arguments: argparse.Namespace) -> int:
    """Take down an exchange, and those queued behind it."""
    with connect(control_path(arguments)) as client:
        taken = client.post(f"/exchanges/{arguments.id}/takedown")["taken_down"]
    print("taken down: " + ", ".join(f"exchange {number}" for number in taken))
    return DONE


def workers(arguments: argparse.Namespace) -> int:
    """Change the number of workers."""
    with connect(control_path(arguments)) as client:
        told = client.post("/workers", count=arguments.count)
    count, before = told["workers"], told["before"]
    if count > before:
        what = "; what is new serves when it has imported the application"
    else:
        what = "; what is too many finishes its requests" if count < before else ""
    print(f"{count} worker{'s' * (count > 1)} (were {before}){what}")
    return DONE


def _order(arguments: argparse.Namespace, target: str, text: str) -> int:
    with connect(control_path(arguments)) as client:
        status: dict[str, Any] = client.post(target)
    print(text.format(**status))
    return DONE
