"""Talking to a running instance over its control socket: a small client that blocks.

The `graceful` command uses it, and so does an instance that starts, before its reactor runs.  At the other
end may be anything: nothing, a file of another program, a server that is stuck or still imports its application, one
that ends in the middle of an answer.  Each of these is an error of its own, with one line for the operator.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
from types import TracebackType
from typing import Any, Final

#: Seconds that a server has to answer: a reactor that is stuck for longer needs attention.
ANSWERS_IN: Final = 5.0

#: Bytes of an answer that are read: far more than the status of a server with all its exchanges has.
_LARGEST: Final = 64 << 20

#: struct ucred of unix(7): pid, uid, gid.
_PEER: Final = struct.Struct("3i")


class ClientError(Exception):
    """A server could not be asked, or has refused.  The text is one line for the operator."""


class NobodyThere(ClientError):
    """No server has this control socket: there is no file, or no process listens on it any more."""


class Vanished(ClientError):
    """The server has ended without an answer."""


class Silent(ClientError):
    """The server listens, and does not answer in time."""


class ControlRefused(ClientError):
    """The server has understood a request, and refuses it.

    :ivar status: the HTTP status.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket that is connected already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("localhost")
        self.sock = sock

    def connect(self) -> None:
        raise http.client.NotConnected("the server has closed the control connection")


class ControlClient:
    """A connection to one instance, which stays with it when the path is given to another.

    :param path: the control socket; with `connected`, the name of its other end in messages.
    :param timeout: seconds to wait for an answer; None for as long as it takes.
    :param connected: a socket that is connected already, ours from now on.
    :raises NobodyThere: no process listens there.
    :raises ClientError: it cannot be connected to.
    :ivar peer_pid: the process that listens, as the kernel says; 0 if it is in another pid namespace.
    """

    def __init__(self, path: str, timeout: float | None = ANSWERS_IN, connected: socket.socket | None = None) -> None:
        self.path = path
        self.socket = connected if connected is not None else _connect(path, timeout)
        credentials = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.peer_pid: int = _PEER.unpack(credentials)[0]
        self._http = _Connection(self.socket)

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()
        self.socket.close()

    def get(self, target: str, *, timeout: float | None = ANSWERS_IN) -> Any:
        """Returns what a resource says.

        :raises ClientError: there is no answer, or an error.
        """
        return self._ask("GET", target, None, timeout)

    def post(self, target: str, *, timeout: float | None = ANSWERS_IN, **values: Any) -> Any:
        """Gives an order; returns the answer.

        :raises ClientError: it is not obeyed.
        """
        return self._ask("POST", target, values, timeout)

    def _before_answer(self) -> None:
        """Called when the request is sent; a subclass may expect more than an answer."""

    def _ask(self, method: str, target: str, values: Any, timeout: float | None) -> Any:
        if self.socket.fileno() < 0:  # an earlier answer did not come
            raise Vanished(f"{self.path}: the server has ended without a last word")
        self.socket.settimeout(timeout)
        body = None if values is None else json.dumps(values)
        try:
            self._http.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            self._before_answer()
            answer = self._http.getresponse()
            data = answer.read(_LARGEST)
        except TimeoutError:
            pid = f"process {self.peer_pid}" if self.peer_pid else "the server"
            raise Silent(
                f"{self.path}: {pid} has not answered for {timeout:g} s: it is starting, its event loop is stuck,"
                " or it has no file descriptors left"
            ) from None
        except http.client.BadStatusLine as error:
            if isinstance(error, http.client.RemoteDisconnected):
                raise Vanished(f"{self.path}: the server has ended without a last word") from None
            raise self._not_ours() from None
        except (ConnectionError, http.client.NotConnected, http.client.IncompleteRead):
            raise Vanished(f"{self.path}: the server has ended without a last word") from None
        except (http.client.HTTPException, OSError, ValueError):
            raise self._not_ours() from None
        if answer.getheader("Server") != "graceful":
            raise self._not_ours()
        try:
            said = json.loads(data)
        except ValueError:
            raise self._not_ours() from None
        if answer.status >= 400:
            text = said.get("error") if isinstance(said, dict) else None
            raise ControlRefused(answer.status, f"{self.path}: {text or answer.status}")
        return said

    def _not_ours(self) -> ClientError:
        return ClientError(f"{self.path}: what answers there is not a graceful server")


def connect_to(path: str, pid: int, timeout: float | None = ANSWERS_IN) -> ControlClient:
    """Connect to one process, which may have given the path to another one and be beside it.

    :param path: the control socket's usual path.
    :param timeout: seconds to wait for an answer; None for as long as it takes.
    :raises NobodyThere: it is at neither place.
    :raises ClientError: one of them cannot be connected to.
    """
    beside = f"{path}.{pid}"
    # Twice, since a process that is replaced moves its socket there, maybe between the first look and the second.
    for candidate in (beside, path, beside):
        try:
            client = ControlClient(candidate, timeout)
        except NobodyThere:
            continue
        if client.peer_pid == pid:
            return client
        client.close()
    raise NobodyThere(f"process {pid} is not at the control socket {path}, nor beside it")


def _connect(path: str, timeout: float | None) -> socket.socket:
    """Returns a socket that is connected to the control socket at a path.

    :raises NobodyThere: no process listens there.
    :raises ClientError: it cannot be connected to.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(timeout)
    try:
        connected.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        connected.close()
        raise NobodyThere(f"no server answers at {path}") from None
    except PermissionError:
        connected.close()
        raise ClientError(
            f"{path}: permission denied; become root or the server's user, or start it with --control-group"
        ) from None
    except OSError as error:
        connected.close()
        raise ClientError(f"{path}: cannot connect: {error.strerror or error}") from None
    return connected


def process_descriptor(pid: int) -> int:
    """Returns a descriptor that becomes readable when the process ends, pidfd_open(2); -1 if it has ended."""
    try:
        return os.pidfd_open(pid) if pid > 0 else -1
    except OSError:
        return -1
