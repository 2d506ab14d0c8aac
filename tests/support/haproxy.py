"""A real HAProxy in front of two servers, and the few lines of shell that take one of them out and in.

Balancers keep connections to servers and reuse them for other clients' requests, and they learn late that a
server is going away.  A stop that is clean for clients may still make the balancer answer 502.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

# Nothing is tried twice: a request that this HAProxy could not bring to its server is lost, and seen to be.  That
# needs one thread: of two, one may have chosen a server just before "drain", and connect long after.
ONE_THREAD = {"global\n": "global\n    nbthread 1\n"}
HEAD = """
global
    nbthread 1
    stats socket {runtime} level admin
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 30s
"""

CONFIGURATION = """
frontend clients
    bind fd@{clients}
    default_backend site
backend site
    balance roundrobin
    {reuse}
    server one 127.0.0.1:{one}
    server two 127.0.0.1:{two}
"""

RUNTIME = """
exec 3<>/dev/tcp/127.0.0.1/{runtime}
echo "set server site/{server} state {state}" >&3
cat <&3
"""
LEAVE = RUNTIME + "kill -TERM {pid}\n"
ENTER = RUNTIME


class HAProxy:
    """An HAProxy process with one frontend and a backend of two servers.

    :param directory: for its configuration.
    :param one: the port of the server `one`.
    :param two: the port of the server `two`.
    :param reuse: a line for the backend, such as `http-reuse never`.
    :ivar port: of the frontend.
    """

    def __init__(self, directory: Path, one: int, two: int, reuse: str) -> None:
        assert shutil.which("haproxy"), "haproxy is not installed"
        # Made here and inherited, so that no port has to be guessed, and clients may connect at once.
        with socket.create_server(("127.0.0.1", 0)) as clients, socket.create_server(("127.0.0.1", 0)) as runtime:
            self.port: int = clients.getsockname()[1]
            self._runtime: int = runtime.getsockname()[1]
            inherited = clients.fileno(), runtime.fileno()
            configuration = directory / "haproxy.cfg"
            runtime_at = f"fd@{runtime.fileno()}"
            configuration.write_text(
                self.configuration(clients=clients.fileno(), runtime=runtime_at, one=one, two=two, reuse=reuse)
            )
            command = ["haproxy", "-db", "-f", str(configuration)]
            self._process = subprocess.Popen(command, pass_fds=inherited)

    def configuration(self, **values: Any) -> str:
        """Returns HAProxy's configuration."""
        return (HEAD + CONFIGURATION).format(**values)

    def __enter__(self) -> HAProxy:
        return self

    def __exit__(self, *ignored: object) -> None:
        self._process.kill()
        self._process.wait()

    def leave(self, server: str, pid: int) -> None:
        """Send a server's process no more requests, and tell it to stop."""
        self._run(LEAVE, server=server, state="drain", pid=pid)

    def enter(self, server: str) -> None:
        """Send a server requests again."""
        self._run(ENTER, server=server, state="ready")

    def ask(self, command: str) -> str:
        """Returns what HAProxy answers to a command of its runtime interface."""
        with socket.create_connection(("127.0.0.1", self._runtime), timeout=10) as connection:
            connection.sendall(command.encode() + b"\n")
            with connection.makefile() as answer:
                return answer.read()

    def _run(self, script: str, **values: object) -> None:
        """Run a script.  HAProxy answers with status 0 whatever happens: any word of it is an error."""
        shell = ["bash", "-euc", script.format(runtime=self._runtime, **values)]
        said = subprocess.run(shell, check=True, capture_output=True, text=True, timeout=10).stdout
        assert not said.strip(), said
