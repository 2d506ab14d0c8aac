"""HAProxy's runtime API: what a deploy asks of it and tells it, over its stats socket.

HAProxy answers everything with text, an error too, and says nothing about which is which: an order that was obeyed is
answered by an empty line.  So any other answer to an order is an error here, and of what HAProxy shows only the
columns with known names are read (HAProxy's management guide, 9.3; seen with 2.6).

The existing libraries do not fit: haproxy-cli 0.7 has no time limits, no health checks and no `show servers state`,
and takes every answer for success; haproxyadmin's last release is of 2021, and works only on the balancer's own
machine.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from graceful.deploy import DeployError

#: Seconds that HAProxy has to answer.
ANSWERS_IN: Final = 5.0

#: Bytes of an answer that are read: more than the states of thousands of servers have.
_LARGEST: Final = 16 << 20

#: Bits of `srv_admin_state`: maintenance that is forced, inherited, configured, by name resolution, by host name; and
#: drain that is forced, inherited.
_MAINT: Final = 0x01 | 0x02 | 0x04 | 0x20 | 0x40
_DRAIN: Final = 0x08 | 0x10
#: Values of `srv_op_state`: starting slowly, and running; the others are stopped and stopping.
_RUNNING: Final = ("1", "2")

#: Bits of `srv_check_state` and `srv_agent_state`.
_CONFIGURED: Final = 0x02
_ENABLED: Final = 0x04

#: What can make HAProxy change its mind about a server: its own checks, and what an agent on the server says.
CHECKS: Final = ("health", "agent")


class HAProxyError(DeployError):
    """HAProxy refuses an order, or does not know a server."""


class Unreachable(HAProxyError):
    """HAProxy does not answer; it may be restarting."""


@frozen
class ServerState:
    """A server as HAProxy has it.

    :ivar state: the administrative state: `ready`, `drain` or `maint`.
    :ivar running: HAProxy does not hold it to be down, or going down.
    :ivar weight: its share of the requests; 0 for none.
    :ivar configured: the kinds of checks that it has, whether they are made or not.
    :ivar checks: the kinds of checks that are made.
    """

    state: str
    running: bool
    weight: int = 1
    configured: tuple[str, ...] = CHECKS[:1]
    checks: tuple[str, ...] = CHECKS[:1]

    @property
    def up(self) -> bool:
        """Whether it gets requests."""
        return self.state == "ready" and self.running and self.weight > 0


@frozen
class Traffic:
    """The traffic of a server.

    :ivar requests: how many since HAProxy's start.
    :ivar queued: how many wait in HAProxy for it.
    :ivar status: as HAProxy's page shows it: `UP`, `DRAIN`, `DOWN 1/2`, `no check`.
    :ivar check: how the last check ended: `L4CON`; empty if there is none.
    :ivar cookie: what ties clients to it; empty if nothing does.
    """

    requests: int
    queued: int
    status: str
    check: str
    cookie: str


class Runtime:
    """One HAProxy.

    :param address: a path, or `tcp:HOST:PORT`.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    # -- what it says -------------------------------------------------------------------------------------

    def level(self) -> str:
        """Returns the level of this connection: `admin`, `operator` or `user`."""
        return self._ask("show cli level").strip()

    def servers(self, backend: str) -> dict[str, ServerState]:
        """Returns the servers of a backend by name.

        :raises HAProxyError: there is no such backend.
        """
        text = self._ask(f"show servers state {backend}")
        version, _, table = text.partition("\n")
        if version.strip() != "1":
            raise self._error(f"backend {backend}: {_line(text)}")
        return {row["srv_name"]: _state(row) for row in _rows(table, " ")}

    def traffic(self, backend: str, server: str) -> Traffic:
        """Returns the traffic of a server.

        :raises HAProxyError: there is no such server.
        """
        for row in _rows(self._ask(f"show stat {backend} 4 -1"), ","):
            if row["svname"] == server:
                return Traffic(
                    int(row["stot"] or 0), int(row["qcur"] or 0), row["status"], row["check_status"], row["cookie"]
                )
        raise self._error(f"there is no server {backend}/{server}")

    # -- what it is told ----------------------------------------------------------------------------------

    def set_state(self, backend: str, server: str, state: str) -> None:
        """Put a server into the rotation, or take it out: `ready`, `drain` or `maint`."""
        self._order(f"set server {backend}/{server} state {state}")

    def set_check(self, backend: str, server: str, kind: str, made: bool) -> None:
        """Switch a kind of check of a server on or off; HAProxy keeps its last opinion of the server."""
        self._order(f"{'enable' if made else 'disable'} {kind} {backend}/{server}")

    def _order(self, command: str) -> None:
        answer = self._ask(command)
        if answer.strip():
            raise self._error(f"{command}: {_line(answer)}")

    def _ask(self, command: str) -> str:
        """Returns the answer to a command, on a connection that HAProxy closes behind it."""
        try:
            with self._connect() as connection:
                connection.settimeout(ANSWERS_IN)
                connection.sendall(f"{command}\n".encode())
                data = bytearray()
                while piece := connection.recv(65_536):
                    data += piece
                    if len(data) > _LARGEST:
                        raise self._error("its answer has no end")
        except OSError as error:
            text = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise Unreachable(f"HAProxy at {self.address}: {text}") from None
        if not data:
            raise Unreachable(f"HAProxy at {self.address}: it has hung up")
        text = data.decode("utf-8", "replace")
        if text.strip() == "Permission denied":
            raise self._error(f"{command.split()[0]} is denied: its stats socket needs `level admin`")
        return text

    def _connect(self) -> socket.socket:
        if self.address.startswith("tcp:"):
            host, _, port = self.address[4:].rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), ANSWERS_IN)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(ANSWERS_IN)
            connection.connect(self.address)
        except BaseException:
            connection.close()
            raise
        return connection

    def _error(self, text: str) -> HAProxyError:
        return HAProxyError(f"HAProxy at {self.address}: {text}")


def _rows(text: str, separator: str) -> Iterator[dict[str, str]]:
    """Returns the rows of a table whose first line has the names of its columns behind a `#`."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        return
    names = lines[0][2:].split(separator)
    for line in lines[1:]:
        yield dict(zip(names, line.split(separator), strict=False))


def _state(row: dict[str, str]) -> ServerState:
    admin = int(row["srv_admin_state"])
    states = {"health": int(row["srv_check_state"]), "agent": int(row["srv_agent_state"])}
    return ServerState(
        state="maint" if admin & _MAINT else "drain" if admin & _DRAIN else "ready",
        running=row["srv_op_state"] in _RUNNING,
        weight=int(row["srv_uweight"]),
        configured=tuple(kind for kind in CHECKS if states[kind] & _CONFIGURED),
        checks=tuple(kind for kind in CHECKS if states[kind] & _ENABLED),
    )


def _line(text: str) -> str:
    """Returns an answer of HAProxy as one line."""
    return " ".join(text.split())[:200] or "no answer"
