"""Finds the control sockets beside a control path: of instances that leave, or that start while another serves."""

from __future__ import annotations

import glob
import re

from graceful.control.client import ClientError, ControlClient, NobodyThere
from graceful.drain.state import State


def connect_beside(path: str) -> list[ControlClient]:
    """Connect to the servers at `PATH.<pid>`: those that have given the path up, or have never had it."""
    found = []
    for other in beside(path):
        try:
            found.append(ControlClient(other))
        except NobodyThere:
            pass  # its process was killed, and the file is left
    return found


def connect_leaving(path: str) -> list[ControlClient]:
    """Connect to the servers beside a path that are on their way out."""
    found = []
    for client in connect_beside(path):
        try:
            state = State.parse(client.get("/status?limit=0")["state"])
            on_its_way = state is not None and state.leaving
        except ClientError:
            on_its_way = False  # it has just ended, or is not a graceful server
        if on_its_way:
            found.append(client)
        else:
            client.close()
    return found


def beside(path: str) -> list[str]:
    """Return the paths `PATH.<pid>` of instances that have given a control path up, or have never had it."""
    pattern = re.compile(re.escape(path) + r"\.[0-9]+")
    found = [other for other in glob.glob(f"{glob.escape(path)}.*") if pattern.fullmatch(other)]
    return sorted(found, key=lambda other: (len(other), other))
