"""Sockets that are bound, and sockets that are handed over."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
import types
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets import binding
from graceful.sockets.address import parse
from graceful.sockets.binding import BindError, BoundSocket, activation, bind
from graceful.sockets.handshakes import SO_ATTACH_FILTER, SO_DETACH_FILTER
from graceful.sockets.socket_file import bind_file


class Case(SynchronousTestCase):
    """What these tests have in common."""

    def setUp(self) -> None:
        """Make a directory."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def bound(self, text: str, **environ: str) -> BoundSocket:
        """Bind or adopt, and close at the end of the test."""
        bound = bind(parse(text), environ)
        self.addCleanup(bound.close)
        return bound

    def assert_refused(self, text: str, *words: str, **environ: str) -> None:
        """Assert that nothing is bound, and that one line for the operator holds all words."""
        refusal = str(self.assertRaises(BindError, bind, parse(text), environ))
        for word in (f"cannot listen on {text}: ", *words):
            self.assertIn(word, refusal)
        self.assertNotIn("\n", refusal)

    def assert_ready(self, listening: socket.socket) -> None:
        """Assert that a socket listens, never blocks, and is not inherited by other programs."""
        self.assertTrue(listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        self.assertFalse(listening.get_inheritable())
        self.assertTrue(fcntl.fcntl(listening, fcntl.F_GETFL) & os.O_NONBLOCK)

    def listening(self, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """Returns a socket as another program made it: blocking and inheritable."""
        made = socket.socket(family)
        if family == socket.AF_UNIX:
            made.bind(b"\0graceful-%d" % made.fileno())
        else:
            made.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        made.listen()
        made.set_inheritable(True)
        self.addCleanup(made.close)
        return made


class TcpTests(Case):
    """`tcp:` and `tcp6:`."""

    def test_listens_at_a_port_of_the_kernels_choice(self) -> None:
        """The socket listens at a port of the kernel's choice, which its name tells; accepted ones have no delay."""
        bound = self.bound("tcp:0:interface=127.0.0.1")
        host, port = bound.socket.getsockname()
        self.assertEqual(bound.name, f"tcp:127.0.0.1:{port}")
        self.assertNotEqual(port, 0)
        self.assertEqual((bound.shared, bound.path), (False, None))
        self.assert_ready(bound.socket)
        with socket.create_connection((host, port)):
            accepted, _ = bound.socket.accept()
            self.addCleanup(accepted.close)
            self.assertTrue(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_listens_on_all_addresses_by_default(self) -> None:
        """Without an interface all addresses are meant; IPv6 includes IPv4 where the system has it so."""
        self.assertRegex(self.bound("tcp:0").name, r"^tcp:0\.0\.0\.0:\d+$")
        six = self.bound("tcp6:0")
        self.assertRegex(six.name, r"^tcp6:\[::\]:\d+$")
        with open("/proc/sys/net/ipv6/bindv6only") as file:
            system = int(file.read())
        self.assertEqual(six.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), system)

    def test_takes_a_host_name(self) -> None:
        """An interface may be given by name."""
        self.assertRegex(self.bound("tcp:0:interface=localhost").name, r"^tcp:127\.0\.0\.1:\d+$")

    def test_binds_a_port_with_old_connections(self) -> None:
        """A port can be bound while connections of the one who had it before are still open."""
        first = self.bound("tcp:0:interface=127.0.0.1")
        where = first.socket.getsockname()
        client = socket.create_connection(where)
        self.addCleanup(client.close)
        self.addCleanup(first.socket.accept()[0].close)
        first.close()
        self.assertEqual(self.bound(f"tcp:{where[1]}:interface=127.0.0.1").socket.getsockname(), where)

    def test_refuses_a_port_in_use(self) -> None:
        """A port on which another process listens is refused, even if that process would share it."""
        other = socket.socket()
        self.addCleanup(other.close)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        self.assert_refused(f"tcp:{port}:interface=127.0.0.1", f"port {port} is in use", "choose another port")

    def test_tells_foreign_addresses_from_invalid_ones(self) -> None:
        """An address of another machine, and one that is none, are told apart."""
        self.assert_refused("tcp:0:interface=192.0.2.1", "has no address 192.0.2.1")
        self.assert_refused("tcp6:0:interface=127.0.0.1", "'127.0.0.1' is not an address of this kind")

    def test_says_how_to_get_a_privileged_port(self) -> None:
        """Without the right to a low port, the line says how to get it."""

        class Refusing(socket.socket):
            def bind(self, where: Any) -> None:
                raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(binding.socket, "socket", Refusing)
        self.assert_refused("tcp:80", "port 80 needs root", "--uid")

    def test_endpoints_of_plugins_are_refused(self) -> None:
        """What a plugin has to listen on is no business of ours."""
        self.assertRaises(ValueError, bind, parse("ssl:443"), {})


class UnixTests(Case):
    """`unix:`."""

    def setUp(self) -> None:
        """Choose a path."""
        super().setUp()
        self.path = os.path.join(self.directory, "s")

    def test_sets_the_mode_and_unlinks_on_close(self) -> None:
        """The socket file has the mode that is asked for, whatever the umask, and is unlinked on close."""
        self.addCleanup(os.umask, os.umask(0o077))
        for mode, text in ((0o666, f"unix:{self.path}"), (0o620, f"unix:{self.path}:mode=620")):
            bound = self.bound(text)
            self.assertEqual(bound.name, f"unix:{self.path}")
            self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), mode)
            self.assert_ready(bound.socket)
            bound.close()
            self.assertFalse(os.path.exists(self.path))
        self.assertEqual(os.umask(0o077), 0o077)

    def test_never_too_open(self) -> None:
        """At no moment can those connect whom the mode excludes."""
        self.addCleanup(os.umask, os.umask(0))
        self.patch(os, "chmod", None)  # the file is made with its mode
        self.bound(f"unix:{self.path}:mode=660")
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o660)

    def test_replaces_a_stale_file(self) -> None:
        """A socket file on which no process answers is replaced."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
            dead.listen()
        bound = self.bound(f"unix:{self.path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            bound.socket.accept()[0].close()
        self.assertEqual(os.listdir(self.directory), ["s"])

    def test_leaves_a_file_in_use_alone(self) -> None:
        """A socket file on which a process answers is left alone, also if its queue is full."""
        other = self.bound(f"unix:{self.path}:backlog=1")
        other.socket.listen(0)
        for _ in range(3):
            self.assert_refused(f"unix:{self.path}", "in use", "stop the server")
        other.socket.accept()[0].close()

    def test_puts_back_a_file_that_answers_by_now(self) -> None:
        """A socket that another starting instance puts in the stale one's place is put back, and still answers."""
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        other = socket.socket(socket.AF_UNIX)
        self.addCleanup(other.close)

        rename = os.rename

        def taken_meanwhile(path: str, aside: str) -> None:
            self.patch(os, "rename", rename)
            os.unlink(path)
            other.bind(path)
            other.listen()
            rename(path, aside)

        self.patch(os, "rename", taken_meanwhile)
        self.assert_refused(f"unix:{self.path}", "another process has just taken it")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
        self.assertEqual(os.listdir(self.directory), ["s"])

    def test_fails_if_the_path_was_taken_before_listening(self) -> None:
        """An instance whose path was taken between bind and listen does not start without a path."""

        def thought_stale(listening: socket.socket, path: str, mode: int) -> tuple[int, int] | None:
            inode = bind_file(listening, path, mode)
            os.unlink(path)
            return inode

        self.patch(binding, "bind_file", thought_stale)
        self.assert_refused(f"unix:{self.path}", "another process has just taken it")

    def test_keeps_a_file_that_is_not_a_socket(self) -> None:
        """A file of any other kind is never removed."""
        with open(self.path, "w"):
            pass
        self.assert_refused(f"unix:{self.path}", "not a socket", "remove it")
        self.assertTrue(os.path.exists(self.path))

    def test_names_a_missing_directory(self) -> None:
        """A missing directory is named."""
        self.assert_refused("unix:/nonexistent/x.sock", "no directory /nonexistent")

    def test_leaves_the_path_of_a_successor(self) -> None:
        """On close, a path that leads to another process's socket by now is left alone."""
        bound = self.bound(f"unix:{self.path}")
        os.unlink(self.path)
        successor = self.bound(f"unix:{self.path}")
        bound.close()
        self.assertTrue(os.path.exists(self.path))
        successor.close()
        self.assertFalse(os.path.exists(self.path))

    def test_unlinks_after_a_change_of_directory(self) -> None:
        """The path is unlinked also when the process has gone elsewhere since."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        bound = self.bound("unix:s")
        os.chdir("/")
        bound.close()
        self.assertFalse(os.path.exists(self.path))


class AdoptionTests(Case):
    """`fd:` and `systemd:`."""

    def given(self, family: socket.AddressFamily = socket.AF_INET) -> int:
        """A descriptor that was handed over."""
        return os.dup(self.listening(family).fileno())

    def test_adopts_a_descriptor_as_shared(self) -> None:
        """An adopted socket is made ready, is shared, and is called by where it listens."""
        fd = self.given()
        os.set_inheritable(fd, True)
        bound = self.bound(f"fd:{fd}")
        self.assertEqual(bound.socket.fileno(), fd)
        self.assertEqual(bound.name, f"tcp:127.0.0.1:{bound.socket.getsockname()[1]}")
        self.assertTrue(bound.shared)
        self.assert_ready(bound.socket)

    def test_adopts_ipv6_and_unix_sockets(self) -> None:
        """IPv6 and Unix sockets are called by their names, too, and a Unix path is not ours to unlink."""
        self.assertRegex(self.bound(f"fd:{self.given(socket.AF_INET6)}").name, r"^tcp6:\[::1\]:\d+$")
        self.assertRegex(self.bound(f"fd:{self.given(socket.AF_UNIX)}").name, r"^unix:@graceful-\d+$")
        path = os.path.join(self.directory, "s")
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
        made.listen()
        bound = self.bound(f"fd:{made.detach()}")
        self.assertEqual((bound.name, bound.path), (f"unix:{path}", None))
        bound.close()
        self.assertTrue(os.path.exists(path))

    def test_detaches_the_filter_of_a_dead_predecessor(self) -> None:
        """A filter that is found on the socket is detached: it would keep clients out."""
        made = self.listening(socket.AF_UNIX)  # on which anybody may attach one
        keep_all = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF)
        memory = ctypes.create_string_buffer(keep_all, len(keep_all))
        program = struct.pack("@HP", 1, ctypes.addressof(memory))
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self.bound(f"fd:{os.dup(made.fileno())}")
        none_left = self.assertRaises(OSError, made.setsockopt, socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        self.assertEqual(none_left.errno, errno.ENOENT)

    def test_refuses_what_does_not_listen(self) -> None:
        """What is closed, no socket, or not listening is refused, and stays open."""
        fd = self.given()
        os.close(fd)
        self.assert_refused(f"fd:{fd}", f"descriptor {fd}", "not open")
        with open(os.devnull) as file:
            self.assert_refused(f"fd:{file.fileno()}", "not a socket")
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(type=kind) as other:
                self.assert_refused(f"fd:{other.fileno()}", "not a listening stream socket")
                other.getsockname()

    def test_finds_systemd_sockets_by_index_and_name(self) -> None:
        """Index and name lead to the descriptors that systemd has numbered."""
        fd = self.given()
        self.patch(binding, "FIRST_INHERITED", fd - 1)
        environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "admin:web"}
        for which in ("index=1", "name=web"):
            bound = bind(parse(f"systemd:domain=INET:{which}"), environ)
            self.assertEqual(bound.socket.detach(), fd)
        self.assert_refused("systemd:domain=INET6:name=web", "AF_INET", "domain=", **environ)
        self.assert_refused("systemd:domain=INET:index=2", "only 2", **environ)
        self.assert_refused("systemd:domain=INET:name=x", "only: admin, web", **environ)
        os.close(fd)

    def test_refuses_sockets_meant_for_another_process(self) -> None:
        """Descriptors that systemd has handed to another process are not taken; those of before the fork are."""
        fd = self.given()
        self.patch(binding, "FIRST_INHERITED", fd)
        environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
        self.assert_refused("systemd:domain=INET:index=0", "handed over no socket", **environ)
        bind(parse("systemd:domain=INET:index=0"), environ, 1).close()

    def test_says_what_is_missing_without_systemd(self) -> None:
        """Without systemd, or with nonsense for a count, the line says what is missing."""
        self.assert_refused("systemd:domain=INET:index=0", ".socket unit")
        nonsense = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"}
        self.assert_refused("systemd:domain=INET:index=0", ".socket unit", **nonsense)

    def test_activation_keeps_only_our_variables(self) -> None:
        """What systemd says is kept if it says it to us, and nothing else of the environment."""
        said = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:a"}
        self.assertEqual(activation({**said, "HOME": "/"}, 7), said)
        self.assertEqual(activation(said, 8), {})

    def test_activation_finds_what_twisted_has_taken(self) -> None:
        """If Twisted has taken the variables out of the environment, they are found where it keeps them."""
        from twisted.python.systemd import ListenFDs

        keeper = types.SimpleNamespace(_sddaemon=ListenFDs([3, 4], ("a", "a")))
        module = types.SimpleNamespace(_SystemdParser=keeper)
        self.patch(sys, "modules", {**sys.modules, "twisted.internet.endpoints": module})
        said = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:a"}
        self.assertEqual(activation({}, 7), said)


class HeldByAChildTests(SynchronousTestCase):
    """A child that the application has forked holds our descriptors, too."""

    def test_the_port_is_free_all_the_same(self) -> None:
        """Once we have closed a socket that is ours alone, a successor can listen on its address."""
        bound = bind(parse("tcp:0:interface=127.0.0.1"), {})
        childs = bound.socket.dup()
        self.addCleanup(childs.close)
        port = bound.socket.getsockname()[1]
        bound.close()
        bind(parse(f"tcp:{port}:interface=127.0.0.1"), {}).close()

    def test_a_shared_one_listens_on(self) -> None:
        """A socket that another process is meant to hold goes on listening for it."""
        bound = bind(parse("tcp:0:interface=127.0.0.1"), {})
        others = bound.socket.dup()
        self.addCleanup(others.close)
        evolve(bound, shared=True).close()
        with socket.create_connection(others.getsockname(), 5):
            others.accept()[0].close()
