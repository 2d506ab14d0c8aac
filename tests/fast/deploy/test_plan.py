"""deploy.toml: what it says, and everything that is wrong in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.deploy.plan import PlanError, plan, read

ONE = {"name": "app1", "control": "/run/app1.sock", "start": "start app1"}
HAPROXY = {"socket": "/run/haproxy.sock", "backend": "app"}

TEXT = """
parallel = 2
min_up = 3
margin = 10
start_within = 90
before = "check it"
records = "records"

[haproxy]
socket = ["admin.sock", "tcp:127.0.0.1:9999"]
backend = "app"

[[instance]]
name = "app1"
control = "app1.sock"
start = "start app1"
health = "http://127.0.0.1:8001/+haproxy"
check = "http://127.0.0.1:8001/login"
expect = 302
rollback = "start app1 again"
log = "app1.log"

[[instance]]
name = "app2"
control = "/run/app2.sock"
start = "start app2"
servers = ["app/two", "api/app2"]
"""


class ReadTests(SynchronousTestCase):
    """A file."""

    def setUp(self) -> None:
        """Have a directory for it."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "deploy.toml")

    def write(self, text: str) -> None:
        """Write it."""
        with open(self.path, "w") as file:
            file.write(text)

    def test_paths_begin_at_the_file(self) -> None:
        """Paths begin at the file; an instance's server has its name by default."""
        self.write(TEXT)
        found = read(self.path)
        self.assertEqual((found.parallel, found.min_up, found.margin, found.start_within), (2, 3, 10.0, 90.0))
        self.assertEqual((found.before, found.record("lock")), ("check it", f"{self.directory}/records/deploy.lock"))
        self.assertEqual(found.haproxy, (f"{self.directory}/admin.sock", "tcp:127.0.0.1:9999"))
        one, two = found.instances
        self.assertEqual((one.name, one.control), ("app1", f"{self.directory}/app1.sock"))
        self.assertEqual((one.servers, one.expect), ((("app", "app1"),), 302))
        self.assertEqual(one.checks, ("http://127.0.0.1:8001/login",))
        self.assertEqual((one.rollback, one.log), ("start app1 again", f"{self.directory}/app1.log"))
        self.assertEqual(two.servers, (("app", "two"), ("api", "app2")))
        self.assertEqual((two.control, two.health, two.checks), ("/run/app2.sock", None, ()))

    def test_unreadable_file_is_one_line(self) -> None:
        """A file that is missing, or is not TOML, is reported in one line."""
        self.assertIn("No such file", str(self.assertRaises(PlanError, read, self.path)))
        self.write("parallel = ")
        self.assertIn("not TOML", str(self.assertRaises(PlanError, read, self.path)))
        self.write("parallel = 0\n[[instance]]\nname='a'\ncontrol='c'\nstart='s'\n")
        error = self.assertRaises(PlanError, read, self.path)
        self.assertEqual(str(error), f"{self.path}: parallel must be a whole number, at least 1 and at most 1e+06")


class WrongTests(SynchronousTestCase):
    """A precaution that is misspelt would be believed in, and not be taken."""

    def wrong(self, said: str, **values: Any) -> None:
        """A file with these values must be refused."""
        values.setdefault("instance", [ONE])
        error = self.assertRaises(PlanError, plan, values, "/deploy.toml")
        self.assertIn(said, str(error))

    def test_name_control_and_start_are_enough(self) -> None:
        """A name, a control socket and a command are enough."""
        found = plan({"instance": [ONE]}, "/etc/deploy.toml")
        self.assertEqual((found.parallel, found.min_up, found.margin, found.haproxy), (1, 1, 30.0, ()))
        self.assertEqual(found.record("state"), "/etc/deploy.state")

    def test_names_each_mistake(self) -> None:
        """Each mistake is named."""
        self.wrong("there is no min-up here", **{"min-up": 2})
        self.wrong("there is no [[instance]]", instance=[])
        self.wrong("parallel must be a whole number", parallel=1.5)
        self.wrong("parallel must be", parallel=True)
        self.wrong("margin must be a number, at least 0", margin=-1)
        self.wrong("margin must be", margin="30")
        self.wrong("before must be a text", before=3)
        self.wrong("haproxy must be a table", haproxy="/run/haproxy.sock")
        self.wrong("[haproxy] needs a socket", haproxy={"backend": "app"})
        self.wrong("[haproxy] there is no sockets here", haproxy={**HAPROXY, "sockets": []})
        self.wrong("expected a path or tcp:HOST:PORT", haproxy={**HAPROXY, "socket": "tcp:9999"})
        self.wrong("give [haproxy] a backend", haproxy={"socket": "/s"})
        self.wrong("instance 1: expected a table", instance=[5])

    def test_names_the_instance_of_a_mistake(self) -> None:
        """A mistake in an instance is reported with the instance's name."""
        for key in ("control", "start"):
            self.wrong(f"instance app1: {key} is missing", instance=[{k: v for k, v in ONE.items() if k != key}])
        self.wrong("instance 1: name is missing", instance=[{}])
        self.wrong("instance app1: there is no helth here", instance=[{**ONE, "helth": "http://h/"}])
        self.wrong("instance app1: expected http://HOST:PORT/PATH", instance=[{**ONE, "health": "h/"}])
        self.wrong("instance app1: expected http://", instance=[{**ONE, "check": ["ftp://h/"]}])
        self.wrong("instance app1: check must be a text or a list", instance=[{**ONE, "check": [1]}])
        self.wrong("instance app1: expect must be a whole number", instance=[{**ONE, "expect": 42}])
        self.wrong("instance app1: start is empty", instance=[{**ONE, "start": " "}])
        self.wrong("servers are HAProxy's", instance=[{**ONE, "servers": ["app/app1"]}])
        for server in ("app1", "/app1", "app/", "app/a b", "app/a;b"):
            self.wrong("BACKEND/SERVER", haproxy=HAPROXY, instance=[{**ONE, "servers": [server]}])
        self.wrong("two instances have the name app1", instance=[ONE, {**ONE, "control": "/other"}])
        self.wrong("two instances have the control", instance=[ONE, {**ONE, "name": "app2"}])
        self.wrong("a name is that of a server", instance=[{**ONE, "name": "../app1"}])
