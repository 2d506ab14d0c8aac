"""A machine of its own with systemd as process 1: what systemd does to a unit can only be seen where it rules.

systemd-nspawn(1) boots it in a second: its /usr is this machine's, read-only, its files are a temporary directory,
and its network is a loopback interface of its own, so that the examples' ports are free.  In /srv/site is what the
documentation has a reader install: `.venv` with the wheel under test, and a module `mysite.wsgi`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.support.processes import children_of
from tests.support.server import APPLICATIONS
from tests.support.waiting import wait_for

#: Where the interpreter is in the machine: not in a home directory or /tmp, which a hardened unit does not see.
PYTHON: Final = Path("/opt/python")
SITE: Final = Path("/srv/site")
VENV: Final = SITE / ".venv"
#: An interpreter that is not the system's may have a library of its own.
ENVIRONMENT: Final = {} if sys.base_prefix == "/usr" else {"LD_LIBRARY_PATH": f"{PYTHON}/lib"}
CLONE_NEWNET: Final = 0x40000000
#: Seconds that a boot may take on a machine under load.
BOOTS_IN: Final = 60.0
#: What the boot waits for: no logins, no network, no message bus.
TARGET: Final = """
[Unit]
Requires=basic.target systemd-journald.service
After=basic.target systemd-journald.service
AllowIsolate=yes
"""
#: Begins a command that needs the unified control groups, which this machine may not have: in the older hierarchy, a
#: systemd in a container may not notice that a unit's last process has gone.
_UNIFIED: Final = (
    "unshare", "--mount", "sh", "-c",
    '[ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$@"', "sh",
)  # fmt: skip
#: The programs that units and tests call.
SCRIPTS: Final = ("twistd", "graceful")


class Machine:
    """A booted machine.

    :ivar root: its file system, as this machine sees it; /run is in memory, and not seen.
    """

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="graceful-machine-"))
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._environment = {"PATH": f"{VENV}/bin:/usr/bin:/usr/sbin", "LANG": "C.UTF-8", **ENVIRONMENT}

    def __enter__(self) -> Machine:
        try:
            self._install()
            self._boot()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def path(self, path: str | Path) -> Path:
        """Return where a path of the machine is for this one; its directory exists."""
        found = self.root / str(path).lstrip("/")
        found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def _install(self) -> None:
        for link in ("bin", "sbin", "lib", "lib64"):
            if Path("/", link).is_symlink():
                self.path(link).symlink_to(os.readlink(Path("/", link)))
        for directory in ("usr", "proc", "sys", "dev", "run", "tmp", "var/log/journal", "var/lib", "root", "home"):
            self.path(directory).mkdir(parents=True, exist_ok=True)
        for file in ("passwd", "group", "ld.so.cache"):
            shutil.copy(Path("/etc", file), self.path(f"etc/{file}"))
        shutil.copytree("/etc/alternatives", self.path("etc/alternatives"), symlinks=True)
        self.path("etc/machine-id").write_text("")
        self.path("etc/os-release").write_text("ID=test\n")
        self.path("etc/systemd/system/test.target").write_text(TARGET)
        self.path("etc/systemd/journald.conf").write_text("[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\n")
        settings = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        self.path("etc/systemd/system.conf").write_text(f"[Manager]\nDefaultEnvironment={' '.join(settings)}\n")
        venv = self.path(VENV)
        (venv / "bin").mkdir(parents=True)
        (venv / "lib").mkdir()
        home = "/usr/bin" if sys.base_prefix == "/usr" else PYTHON / "bin"
        (venv / "pyvenv.cfg").write_text(f"home = {home}\n")
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        for alias in ("python", "python3", name):
            (venv / "bin" / alias).symlink_to(f"{home}/{name}")
        for script in SCRIPTS:
            _, _, rest = Path(sys.prefix, "bin", script).read_text().partition("\n")
            (venv / "bin" / script).write_text(f"#!{VENV}/bin/python\n{rest}")
            (venv / "bin" / script).chmod(0o755)
        shutil.copy(APPLICATIONS / "basic.py", self.path(SITE / "basic.py"))
        self.path(SITE / "mysite/__init__.py").write_text("")
        self.path(SITE / "mysite/wsgi.py").write_text("from basic import application\n")
        for path in (self.root, *self.root.glob("srv/**/*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))

    def _boot(self) -> None:
        binds = [f"--bind-ro={sys.prefix}/lib:{VENV}/lib", "--bind-ro=/usr"]
        if sys.base_prefix != "/usr":
            binds.append(f"--bind-ro={sys.base_prefix}:{PYTHON}")
        command = [
            "systemd-nspawn", "--boot", "--quiet", "--register=no", "--keep-unit", "--private-network",
            "--console=pipe", f"--directory={self.root}", f"--machine={self.root.name.replace('_', '0')}",
            "--link-journal=no", "--resolv-conf=off", "--timezone=off", *binds, "systemd.unit=test.target",
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                [*_UNIFIED, *command],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:
            raise AssertionError("systemd-nspawn is not installed: apt-get install systemd-container") from None
        try:
            wait_for(self._has_booted, BOOTS_IN)
        except AssertionError as error:
            raise AssertionError(f"systemd-nspawn cannot boot a machine here: {error}\n{self._said()}") from None

    def _has_booted(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"it has ended with exit status {self._process.returncode}")
        if not self._leader:
            self._leader = next(filter(_is_process_1, children_of(self._process.pid)), 0)
        return bool(self._leader) and self.try_run("systemctl", "is-active", "test.target").returncode == 0

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def end(self) -> None:
        """Switch the machine off, and remove it."""
        if self._process is not None:
            if self._leader and self._process.poll() is None:
                os.kill(self._leader, signal.SIGKILL)  # and with it every process of the machine
            else:
                self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.root)

    def _inside(self, command: Sequence[str]) -> list[str]:
        return [
            "nsenter",
            f"--target={self._leader}",
            "--root",
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--",
            *command,
        ]

    def try_run(self, *command: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, as root; return how it has ended."""
        return subprocess.run(
            self._inside(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=self._environment,
        )

    @contextmanager
    def begin(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """Begin to run a command in the machine, as root; it is killed at the end, if it has not ended."""
        process = subprocess.Popen(self._inside(command), stdin=subprocess.DEVNULL, env=self._environment)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Run a command in the machine, as root; return what it says.

        :raises AssertionError: it fails.
        """
        done = self.try_run(*command, timeout=timeout)
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def shows(self, unit: str, what: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={what}", unit).strip()

    def main(self, unit: str) -> int:
        """Return the number that the main process of a unit has in the machine."""
        return int(self.shows(unit, "MainPID"))

    def journal(self, unit: str, *options: str) -> list[str]:
        """Return the messages of a unit and about it, oldest first."""
        self.run("journalctl", "--sync")
        said = self.run("journalctl", "--unit", unit, "--output=json", *options)
        return [str(json.loads(line)["MESSAGE"]) for line in said.splitlines()]

    @contextmanager
    def network(self) -> Iterator[None]:
        """While this lasts, sockets that this thread makes, and what it starts, are in the machine's network."""
        here = os.open(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        there = os.open(f"/proc/{self._leader}/ns/net", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)
            os.close(there)


def _enter(network: int) -> None:
    """Have this thread enter a network namespace (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(network, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _is_process_1(pid: int) -> bool:
    """Whether a process is systemd as process 1 of its own namespace."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        return status.startswith("Name:\tsystemd\n") and "\t1\n" in status.partition("NSpid:")[2]
    return False
