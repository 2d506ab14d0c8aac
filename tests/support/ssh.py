"""The SSH client that everybody has, and a key for it and for its server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_key(directory: Path) -> Path:
    """Make a key; its path."""
    path = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


@contextmanager
def ssh(port: int, key: Path, command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Have an SSH client run a command on the server at a port of loopback."""
    options = (
        "-F",
        "none",
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "LogLevel=error",
    )
    with subprocess.Popen(
        ["ssh", *options, "-i", str(key), "-p", str(port), "somebody@127.0.0.1", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SSH_AUTH_SOCK": ""},
    ) as client:
        try:
            yield client
        finally:
            client.kill()
