"""The reactor itself: what its import loads, and how it is installed."""

from __future__ import annotations

import os
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase


class ImportTests(SynchronousTestCase):
    """What an import of the reactor loads, and how it is installed."""

    def run_python(self, program: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)

    def test_imports_no_reactor(self) -> None:
        """No module that twistd imports to install the reactor installs another one first."""
        self.run_python(
            "import sys, twisted.plugins, graceful.reactor, graceful.reactor.core, graceful.reactor.control; "
            "sys.exit('twisted.internet.reactor' in sys.modules)"
        )

    def test_imports_no_web_engine(self) -> None:
        """Neither the web engine nor twisted.web is imported for a service that needs none."""
        self.run_python(
            "import sys, graceful.reactor.core; "
            "sys.exit(bool({'httptools', 'twisted.web.http', 'graceful.web.connection'} & sys.modules.keys()))"
        )

    def test_falls_back_to_the_poll_reactor(self) -> None:
        """On a system without epoll, the reactor is made of the poll reactor."""
        self.run_python(
            "import sys; sys.modules['twisted.internet.epollreactor'] = None; "
            "from graceful.reactor import install; install(); "
            "from twisted.internet import pollreactor, reactor; "
            "assert isinstance(reactor, pollreactor.PollReactor); "
            "reactor.callWhenRunning(reactor.stop); reactor.run()"
        )

    def test_installs_only_once(self) -> None:
        """`install` installs the reactor; a second call fails, as with every reactor."""
        self.run_python(
            "from graceful.reactor import install; install(); "
            "from twisted.internet import error, reactor; "
            "assert type(reactor).__name__ == 'GracefulReactor', reactor\n"
            "try: install()\n"
            "except error.ReactorAlreadyInstalledError: pass\n"
            "else: raise AssertionError"
        )
