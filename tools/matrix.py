"""Tries each CPython that the package names: takedowns rest on its bytecode, which each release may change.

    matrix.py short WHEEL       a few tests, on each version that is installed, beside the one that runs this
    matrix.py full WHEEL        all fast tests and those of stuck threads, on each version that can be had
    matrix.py compiled WHEEL    the compiled wheel of each version, and what tests of takedowns and answers make of it

Installed is what is on PATH, or what pyenv has.  An environment is made for each version, once, in `.venv/matrix`.
For `full` and `compiled`, others come from Debian's unstable release, in a directory of its own (debootstrap),
if this runs as root; each version that cannot be had is named.  With versions behind the wheel, only these are tried.
Each compiled wheel is left in `dist/manylinux`.  The end is a table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from attrs import frozen

ROOT: Final = Path(__file__).resolve().parent.parent
PLACE: Final = ROOT / ".venv" / "matrix"
TREE: Final = PLACE / "debian"
#: The tests of what rests on the interpreter, which take a few seconds.
SHORT: Final = (
    "tests/fast/asgi/test_executor_threads.py",
    "tests/fast/threads/test_async_exc.py",
    "tests/fast/threads/test_checkpoints.py",
    "tests/fast/threads/test_one_pass.py",
    "tests/fast/takedown/test_python_waits.py",
    "tests/fast/takedown/test_with_blocks.py",
    "tests/fast/wsgi/test_runner.py",
)
#: The second one has the table of stuck threads in it, and a thousand takedowns.
FULL: Final = ("tests/fast", "tests/real/test_stuck_threads.py")
#: Most fast tests stand in for what is compiled, or watch its bytecode; these do not.  The real ones start servers.
COMPILED: Final = (
    "tests/fast/takedown/test_python_waits.py",
    "tests/fast/takedown/test_with_blocks.py",
    "tests/fast/websocket",
    "tests/fast/wsgi",
    "tests/real/test_application.py",
    "tests/real/test_serving.py",
    "tests/real/test_stuck_threads.py",
)
TESTS: Final = {"short": SHORT, "full": FULL, "compiled": COMPILED}
_FULL: Final = ("WHEEL[fast]", "psycopg[binary,pool]>=3.1", "requests>=2.31")
#: What an environment has for each kind, with WHEEL for the wheel: tests of stuck threads need more than fast ones.
NEEDS: Final = {
    "short": ("WHEEL", "anyio", "asgiref", "hypothesis", "pytest", "pytest-xdist", "starlette"),
    "full": _FULL,
    "compiled": (*_FULL, "mypy>=2.4,<3", "mypy-zope>=1.0.17,<2", "setuptools>=77"),
}
#: What a process of the tree has of this machine, to reach a package index.
SHARED: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/apt/auth.conf",
    "/etc/ssl/certs/ca-certificates.crt",
)
#: Mounts for this process and its children alone; $0 is the tree, $1 the checkout, and the rest the command.
INSIDE: Final = """
set -e
mount --make-rprivate /
mount --rbind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mkdir -p "$0$1"
mount --bind "$1" "$0$1"
cd "$0$1"
tree=$0; checkout=$1; shift
exec chroot "$tree" sh -c 'cd "$0" && exec "$@"' "$checkout" "$@"
"""


@frozen
class Interpreter:
    """A CPython, and where it runs.

    :ivar version: such as "3.14".
    :ivar program: its command.
    :ivar in_tree: it runs in Debian's tree.
    """

    version: str
    program: str
    in_tree: bool = False

    @property
    def environment(self) -> Path:
        """Where its environment is: the path is the same inside the tree, since the checkout is mounted there."""
        return PLACE / (f"debian-{self.version}" if self.in_tree else self.version)

    def run(self, *command: str | Path) -> int:
        """Run a command; the status."""
        words = [str(word) for word in command]
        if self.in_tree:
            words = ["unshare", "--mount", "bash", "-c", INSIDE, str(TREE), str(ROOT), *words]
        return subprocess.run(words, cwd=ROOT, check=False).returncode

    def exactly(self) -> str:
        """Return the version with its third number, if the environment can tell."""
        release = self.environment / "pyvenv.cfg"
        found = release.exists() and re.search(rf"^version = ({self.version}\.\S+)", release.read_text(), re.M)
        return found[1] if found else self.version

    def prepare(self, wheel: str, kind: str) -> bool:
        """Make the environment, unless it is there and newer than the project's requirements.

        :param kind: for "full", it also gets the wheel as it is now, and for "compiled" one that it compiles itself.
        """
        python, done = self.environment / "bin" / "python", self.environment / f".done-{kind}"
        # To copy pip into an environment takes longer than all that is installed there; the tree cannot use this one.
        own: tuple[str, ...] = () if self.in_tree else ("--without-pip",)
        run_pip = (python, "-m", "pip") if self.in_tree else (sys.executable, "-m", "pip", "--python", python)
        # Most of what is installed is never imported; Python compiles the rest by itself.
        pip = (*run_pip, "--quiet", "--quiet", "--disable-pip-version-check", "install", "--no-compile")
        if not done.exists() or done.stat().st_mtime < (ROOT / "pyproject.toml").stat().st_mtime:
            if self.run(self.program, "-m", "venv", *own, self.environment):
                return False
            if self.run(*pip, *(one.replace("WHEEL", wheel) for one in NEEDS[kind])):
                return False
            done.touch()
        if kind == "compiled":
            built = self.environment / "compiled"
            shutil.rmtree(built, ignore_errors=True)
            build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, ".")
            if self.run("env", "GRACEFUL_COMPILE=1", *pip[:-2], *build):
                return False
            wheel = str(next(built.glob("*.whl")))
            subprocess.run([sys.executable, str(ROOT / "tools" / "label.py"), wheel], check=True)
        return kind == "short" or self.run(*pip, "--no-deps", "--no-index", "--force-reinstall", wheel) == 0

    def place(self, kind: str) -> Path:
        """Return where its tests run: those of compiled modules in a copy, beside no sources."""
        if kind != "compiled":
            return ROOT
        copy = self.environment / "tests"
        shutil.rmtree(copy, ignore_errors=True)
        for name in ("tests", "docs/how-it-works"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copy(ROOT / "pyproject.toml", copy)
        return copy


def versions() -> list[str]:
    """Return the versions that the package names."""
    text = (ROOT / "pyproject.toml").read_text()
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)


def installed(version: str) -> Interpreter | None:
    """Return the interpreter of this machine that has a version and can make environments; None if there is none."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    # pyenv's own commands on PATH refuse each version that has not been chosen.
    candidates = [shutil.which(f"python{version}"), *map(str, root.glob(f"versions/{version}.*/bin/python{version}"))]
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for program in filter(None, candidates):
        asked = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
        if asked.stdout.strip() == version:
            return Interpreter(version, program)
    return None


def counts(result: Path) -> str:
    """Return the columns of the table that a run of pytest fills: its tests, and how many failed or were skipped."""
    if not result.exists():
        return "    -       -        -"
    suites = list(ElementTree.parse(result).iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return f"{tests:5}  {failures + errors:6}  {skipped:7}"


def make_tree(wanted: Sequence[str], kind: str) -> list[Interpreter]:
    """Make Debian's tree, and install versions in it.

    :param kind: for "compiled", with what compiles.
    :returns: those that it has.
    """
    if os.getuid() != 0:
        print(f"matrix: {', '.join(wanted)}: not installed, and only root can have them from Debian", flush=True)
        return []
    inside = Interpreter("", "", in_tree=True)
    if not (TREE / ".done").exists():
        subprocess.run([str(ROOT / "tools" / "apt-missing"), "debootstrap"], check=True)
        shutil.rmtree(TREE, ignore_errors=True)
        TREE.mkdir(parents=True)
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", "sid", str(TREE)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in (*SHARED, *map(str, Path("/etc/apt/apt.conf.d").glob("*proxy*"))):
            if os.path.exists(name):
                shutil.copy(name, f"{TREE}{name}")
        inside.run("apt-get", "-qq", "update")
        (TREE / ".done").touch()
    install = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", "--no-install-recommends", "install")
    if inside.run("sh", "-c", "command -v pg_ctl || ls -d /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1"):
        inside.run(*install, "postgresql")
    found = []
    for version in wanted:
        packages, there = [f"python{version}", f"python{version}-venv"], f"command -v python{version}"
        if kind == "compiled":
            packages += [f"python{version}-dev", "gcc", "libc6-dev"]
            there += f" && command -v python{version}-config && command -v gcc"
        if inside.run("sh", "-c", f"{{ {there}; }} >/dev/null") == 0 or not inside.run(*install, *packages):
            found.append(Interpreter(version, f"python{version}", in_tree=True))
    return found


def main(kind: str, wheel: str, *only: str) -> int:
    """Try all that can be had.

    :param kind: "short", "full" or "compiled".
    :param only: versions; all if none is named.
    :returns: the exit status.
    """
    named = [version for version in versions() if not only or version in only]
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    here = [installed(version) for version in named]
    interpreters = [one for one in here if one]
    if kind == "short":
        interpreters = [one for one in interpreters if one.version != own]
    else:
        missing = [version for version, one in zip(named, here, strict=True) if one is None]
        interpreters += make_tree(missing, kind) if missing else []
        for version in missing:
            if version not in {one.version for one in interpreters}:
                print(f"matrix: {version} cannot be had here", flush=True)
    failed = []
    table = ["python   tests  failed  skipped  seconds"]
    for one in interpreters:
        ready = one.prepare(wheel, kind)
        began = time.monotonic()
        # Two processes only where that gains more time than their start takes.
        result = one.environment / "result.xml"
        result.unlink(missing_ok=True)
        pytest = ("-m", "pytest", "--quiet", f"--numprocesses={0 if kind == 'short' else 2}", f"--junitxml={result}")
        takedowns = "GRACEFUL_TEST_TAKEDOWNS=" + os.environ.get("GRACEFUL_TEST_TAKEDOWNS", "1000")
        place = ("env", "-C", one.place(kind), takedowns)
        if not ready or one.run(*place, one.environment / "bin" / "python", *pytest, *TESTS[kind]):
            failed.append(one.version)
        table.append(f"{one.exactly():8} {counts(result)}  {time.monotonic() - began:7.0f}")
        print(f"matrix: {table[-1]}", flush=True)
    print("", *table, sep="\n", flush=True)
    if failed:
        print(f"matrix: failed on {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
