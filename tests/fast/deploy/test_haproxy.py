"""HAProxy's runtime API: what is sent, and what is made of the text that comes back."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading

from twisted.trial.unittest import SynchronousTestCase

from graceful.deploy.haproxy import HAProxyError, Runtime, ServerState, Unreachable

# Of HAProxy 2.6.
STATES = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr \
srv_agent_port
3 site 1 one 127.0.0.1 2 0 1 1 1 6 3 4 6 0 0 0 - 18001 - 0 0 - - 0
3 site 2 two 127.0.0.1 0 0 1 1 2 8 2 0 6 0 0 0 - 18002 - 0 0 - - 0
3 site 3 three 127.0.0.1 2 8 1 1 0 6 3 4 2 22 0 0 - 18001 - 0 0 - - 0
3 site 4 four 127.0.0.1 0 1 1 1 2 8 2 0 14 0 0 0 - 18002 - 0 0 - - 0
3 site 5 five 127.0.0.1 2 0 0 1 2 1 0 0 0 0 0 0 - 18002 - 0 0 - - 0

"""
TRAFFIC = """# pxname,svname,qcur,qmax,scur,smax,slim,stot,status,check_status,cookie,
site,one,2,0,0,0,,41,DOWN 1/2,L4CON,one,
site,two,0,0,0,0,,,no check,,,

"""


class RuntimeTests(SynchronousTestCase):
    """One answer to one command."""

    def setUp(self) -> None:
        """Listen as HAProxy does."""
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path = os.path.join(directory, "admin.sock")
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.addCleanup(self.listening.close)
        self.listening.bind(self.path)
        self.listening.listen(1)
        self.runtime = Runtime(self.path)
        self.heard = b""

    def answer(self, text: str) -> None:
        """Answer the next command."""

        def run() -> None:
            connection, _ = self.listening.accept()
            with connection:
                self.heard = connection.recv(4096)
                connection.sendall(text.encode())

        thread = threading.Thread(target=run)
        thread.start()
        self.addCleanup(thread.join)

    def test_reads_columns_by_name(self) -> None:
        """States, weights and checks are read by the names of their columns."""
        self.answer(STATES)
        found = self.runtime.servers("site")
        self.assertEqual(self.heard, b"show servers state site\n")
        health = ("health",)
        self.assertEqual(
            found,
            {
                "one": ServerState("ready", True, 1, health, health),
                "two": ServerState("ready", False, 1, health, health),
                "three": ServerState("drain", True, 1, ("health", "agent"), ("agent",)),
                "four": ServerState("maint", False, 1, health, health),
                "five": ServerState("ready", True, 0, (), ()),
            },
        )
        self.assertEqual([name for name, state in found.items() if state.up], ["one"])

    def test_reads_the_traffic_of_a_server(self) -> None:
        """Requests, queue, status, check and cookie of a server are read."""
        self.answer(TRAFFIC)
        one = self.runtime.traffic("site", "one")
        self.assertEqual(self.heard, b"show stat site 4 -1\n")
        self.assertEqual(
            (one.requests, one.queued, one.status, one.check, one.cookie), (41, 2, "DOWN 1/2", "L4CON", "one")
        )
        self.answer(TRAFFIC)
        self.assertEqual(self.runtime.traffic("site", "two").requests, 0)
        self.answer(TRAFFIC)
        self.assertRaises(HAProxyError, self.runtime.traffic, "site", "three")

    def test_only_an_empty_answer_is_success(self) -> None:
        """An order is obeyed if it is answered by an empty line; any other answer is an error."""
        for order, sent in (
            (lambda: self.runtime.set_state("app", "one", "drain"), b"set server app/one state drain\n"),
            (lambda: self.runtime.set_check("app", "one", "health", False), b"disable health app/one\n"),
            (lambda: self.runtime.set_check("app", "one", "agent", True), b"enable agent app/one\n"),
        ):
            self.answer("\n")
            order()
            self.assertEqual(self.heard, sent)

    def test_errors_are_text(self) -> None:
        """Any other answer is an error, in one line."""
        for said, expected in (
            ("No such server.\n\n", "set server app/one state drain: No such server."),
            ("Permission denied\n\n", "set is denied: its stats socket needs `level admin`"),
        ):
            self.answer(said)
            error = self.assertRaises(HAProxyError, self.runtime.set_state, "app", "one", "drain")
            self.assertEqual(str(error), f"HAProxy at {self.path}: {expected}")
        self.answer("Can't find backend.\n\n")
        self.assertIn("backend nope: Can't find", str(self.assertRaises(HAProxyError, self.runtime.servers, "nope")))

    def test_tells_the_level_of_the_connection(self) -> None:
        """The level of the connection is read."""
        self.answer("admin\n\n")
        self.assertEqual(self.runtime.level(), "admin")

    def test_no_answer_is_unreachable(self) -> None:
        """No listener, a closed connection and silence are `Unreachable`: HAProxy may be restarting."""
        self.answer("")
        self.assertIn("hung up", str(self.assertRaises(Unreachable, self.runtime.level)))
        self.patch(__import__("graceful.deploy.haproxy", fromlist=["x"]), "ANSWERS_IN", 0.05)
        self.assertIn("no answer", str(self.assertRaises(Unreachable, self.runtime.level)))
        self.listening.close()
        self.assertIn("Connection refused", str(self.assertRaises(Unreachable, self.runtime.level)))
        os.unlink(self.path)
        self.assertIn("No such file", str(self.assertRaises(Unreachable, self.runtime.level)))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        runtime = Runtime(f"tcp:127.0.0.1:{port}")
        self.assertIn("Connection refused", str(self.assertRaises(Unreachable, runtime.level)))
