"""Getting a listening socket: bound by us, or handed to us by systemd or another process.

Twisted's `listenTCP` binds and begins to accept in one step, inside the reactor, and adopting a socket into
it brings surprises: it unlinks a Unix socket's path that it never made.  A server needs the socket itself:
bound while the process is still root and long before anything is accepted.  It also has to know whether another
process holds the socket, because shutdown(2) and socket filters would silence that process, too.

Everything here blocks, briefly, and is called during start-up only.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Final, NoReturn

from attrs import frozen

from graceful.sockets.address import DOMAINS, Address
from graceful.sockets.handshakes import admit_new
from graceful.sockets.socket_file import bind_file, inode_of

#: The first descriptor that systemd hands over, sd_listen_fds(3).
FIRST_INHERITED: Final = 3

_JUST_TAKEN: Final = "another process has just taken it: stop that one, or choose another path"


class BindError(OSError):
    """A socket cannot be had.  Its text is one line: which address, why, and what to do about it."""


@frozen
class BoundSocket:
    """A listening socket before the first accept: non-blocking, and closed on exec.

    :ivar name: what log lines call it: `tcp:0.0.0.0:8080`, `tcp6:[::]:8080`, `unix:/run/app.sock`.
    :ivar socket: the socket itself.
    :ivar shared: whether another process holds it, too; then nothing may be done to it that outlives our descriptor.
    :ivar path: of a Unix socket that we have bound; None for all others.
    :ivar inode: the device and inode number of that path, by which we know later whether it is still ours.
    :ivar address: the `--listen` string that asked for it, parsed.
    """

    name: str
    socket: socket.socket
    shared: bool = False
    path: str | None = None
    inode: tuple[int, int] | None = None
    address: Address | None = None

    def close(self) -> None:
        """Close the descriptor, and unlink a Unix socket's path if it still leads to this socket.

        Unless it is shared, `shutdown(2)` ends the listening in every process that holds it: a child that the
        application has forked would keep the port from a successor.
        """
        if self.path is not None and inode_of(self.path) == self.inode:
            # The directory may have become unwritable with the privileges that were shed.
            with suppress(OSError):
                os.unlink(self.path)
        if not self.shared:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def bind(address: Address, environ: Mapping[str, str], pid: int | None = None) -> BoundSocket:
    """Bind an address and listen, or adopt the socket it names.

    :param address: of any kind but `plugin`.
    :param environ: where systemd's `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` are: see `activation`.
    :param pid: which process they must be meant for; this one if None.  A daemon has forked since.
    :returns: a listening stream socket, non-blocking and not inheritable.
    :raises BindError: with one line for the operator.
    """
    if address.kind == "fd":
        return _adopt(address, address.fd)
    if address.kind == "systemd":
        return _adopt(address, _inherited(address, environ, os.getpid() if pid is None else pid))
    if address.kind == "unix":
        return _bind_unix(address)
    if address.kind in ("tcp", "tcp6"):
        return _bind_tcp(address)
    raise ValueError(f"{address.text!r} is for an endpoint plugin to bind")


def activation(environ: Mapping[str, str], pid: int) -> dict[str, str]:
    """Return systemd's variables about the sockets it hands over, before they become unusable.

    Call it while options are parsed.  After a daemonizing fork `LISTEN_PID` names another process, and importing
    `twisted.internet.endpoints` removes the variables.  If that has happened already (looking for plugins may
    import anything), they are taken from where Twisted keeps them.

    :param environ: the process's environment.
    :param pid: this process's id.
    :returns: the three variables, to be given to `bind` with the same pid; empty if no sockets were handed
        over.
    """
    if environ.get("LISTEN_PID") == str(pid):
        return {key: environ[key] for key in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES") if key in environ}
    endpoints = sys.modules.get("twisted.internet.endpoints")
    taken = getattr(getattr(endpoints, "_SystemdParser", None), "_sddaemon", None)
    if taken is None or not taken.inheritedDescriptors():
        return {}
    return {
        "LISTEN_PID": str(pid),
        "LISTEN_FDS": str(len(taken.inheritedDescriptors())),
        "LISTEN_FDNAMES": ":".join(taken._names),
    }


def _fail(address: Address, why: str) -> NoReturn:
    raise BindError(f"cannot listen on {address.text}: {why}") from None


def _bind_tcp(address: Address) -> BoundSocket:
    family = socket.AF_INET6 if address.kind == "tcp6" else socket.AF_INET
    bound: socket.socket | None = None
    try:
        where = socket.getaddrinfo(
            address.interface or None, address.port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0][4]
        bound = socket.socket(family, socket.SOCK_STREAM)
        # Connections of a predecessor on this port may still be open, or in TIME-WAIT.  Not SO_REUSEPORT:
        # with it a second server would start on a port that is taken, and each would get a part of the
        # clients.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit this from the listening one, which saves a system call for each.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.setblocking(False)
        bound.bind(where)
        bound.listen(address.backlog)
    except OSError as error:
        if bound is not None:
            bound.close()
        _fail(address, _why_not_tcp(address, error))
    return BoundSocket(name=_name(bound), socket=bound, address=address)


def _why_not_tcp(address: Address, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"{address.interface!r} is not an address of this kind: give an address of this machine"
    if error.errno == errno.EADDRINUSE:
        return f"port {address.port} is in use: stop the server that has it, or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"this machine has no address {address.interface}: give one that it has, or leave interface= out"
    if error.errno in (errno.EACCES, errno.EPERM) and address.port < 1024:
        return f"port {address.port} needs root: start as root with --uid, or choose a port above 1023"
    return _in_words(error)


def _in_words(error: OSError) -> str:
    return error.strerror or str(error)


def _bind_unix(address: Address) -> BoundSocket:
    path = address.path
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        _clear_stale(address)
        inode = bind_file(bound, path, address.mode)
        bound.listen(address.backlog)
        # Before we listened, another starting instance may have thought the file stale.
        if inode_of(path) != inode:
            _fail(address, _JUST_TAKEN)
    except BindError:
        bound.close()
        raise
    except OSError as error:
        bound.close()
        _fail(address, _why_not_unix(address, error))
    return BoundSocket(name=_name(bound), socket=bound, path=os.path.abspath(path), inode=inode, address=address)


def _why_not_unix(address: Address, error: OSError) -> str:
    directory = os.path.dirname(address.path) or "."
    if error.errno == errno.EADDRINUSE:
        return _JUST_TAKEN
    if error.errno == errno.ENOENT:
        return f"there is no directory {directory}: create it first"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to create a file in {directory}: change its owner or mode, or choose another path"
    return _in_words(error)


def _clear_stale(address: Address) -> None:
    """Remove a socket file that a crashed server left behind; refuse one that a server answers on."""
    path = address.path
    if inode_of(path) is None:
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        _fail(address, "a file that is not a socket is at this path: remove it, or choose another path")
    if _answers(path):
        _fail(address, "it is in use: stop the server that answers there, or choose another path")
    # Another instance, starting in the same moment, may have replaced the file since.  So it is moved aside
    # first, asked again, and put back if a server answers now.
    aside = os.path.join(os.path.dirname(path), f".{os.getpid()}")
    os.rename(path, aside)
    if _answers(aside):
        os.rename(aside, path)
        _fail(address, _JUST_TAKEN)
    os.unlink(aside)


def _answers(path: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # its queue is full, or we may not connect: a server has it
    return True


def _inherited(address: Address, environ: Mapping[str, str], pid: int) -> int:
    """Find the descriptor that systemd has handed over, sd_listen_fds(3)."""
    try:
        count = int(environ["LISTEN_FDS"]) if environ.get("LISTEN_PID") == str(pid) else 0
    except (KeyError, ValueError):
        count = 0
    if not count:
        _fail(address, "systemd has handed over no socket: start the .socket unit, not the .service")
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if address.name is not None:
        if address.name not in names[:count]:
            _fail(address, f"systemd has handed over no socket of this name, only: {', '.join(names)}")
        return FIRST_INHERITED + names.index(address.name)
    assert address.index is not None
    if address.index >= count:
        _fail(address, f"systemd has handed over only {count}, and they are counted from 0")
    return FIRST_INHERITED + address.index


def _adopt(address: Address, fd: int) -> BoundSocket:
    """Take over a listening socket that another process has made, and may still hold."""
    try:
        adopted = socket.socket(fileno=fd)
    except OSError as error:
        what = "it is not a socket" if error.errno == errno.ENOTSOCK else "it is not open"
        _fail(address, f"descriptor {fd} cannot be used: {what}")
    try:
        if adopted.type != socket.SOCK_STREAM or not adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            _fail(address, f"descriptor {fd} is not a listening stream socket: pass one that listens")
        if address.kind == "systemd" and adopted.family != DOMAINS[address.domain]:
            _fail(address, f"descriptor {fd} is of family {adopted.family.name}: give the domain= it has")
        adopted.setblocking(False)
        adopted.set_inheritable(False)
        # A predecessor that died while it closed may have left its filter on the socket: no client would connect.
        admit_new(adopted)
        if adopted.family in (socket.AF_INET, socket.AF_INET6):
            adopted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return BoundSocket(name=_name(adopted), socket=adopted, shared=True, address=address)
    except BaseException as error:
        # The descriptor stays open: the process that opened it may still need it.
        adopted.detach()
        if isinstance(error, OSError) and not isinstance(error, BindError):
            _fail(address, _in_words(error))
        raise


def _name(bound: socket.socket) -> str:
    """Return the name of a listening socket for log lines."""
    where = bound.getsockname()
    if bound.family == socket.AF_INET:
        return f"tcp:{where[0]}:{where[1]}"
    if bound.family == socket.AF_INET6:
        return f"tcp6:[{where[0]}]:{where[1]}"
    if isinstance(where, bytes):  # an abstract name begins with a zero byte
        where = "@" + where[1:].decode(errors="backslashreplace")
    return f"unix:{where}"


#: The purpose of a socket for the application's clients.
LISTEN: Final = "listen"

#: The purpose of a socket for health, metrics and the status page.
STATUS: Final = "status"

#: The purpose of the control socket.
CONTROL: Final = "control"
