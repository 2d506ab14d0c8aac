"""Another project's package `graceful` in the way of ours: one clear line instead of a traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

PROGRAMS = Path(sys.executable).parent
OTHER = '"""Minimalist framework for self-descriptive REST APIs."""\nVERSION = (0, 6, 3)\n__version__ = "0.6.3"\n'
TWISTD = (str(PROGRAMS / "twistd"), "-n", "--pidfile=")
CHECK = (*TWISTD, "graceful-app", "--check")
TWIST = ("-m", "twisted", "graceful-app", "--check")
REACTOR = (*TWISTD, "--reactor=graceful", "web", "--version")
STATUS = (str(PROGRAMS / "graceful"), "status")
STARTS = pytest.mark.parametrize("command", [CHECK, TWIST, REACTOR], ids=["twistd", "twist", "reactor"])


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of an environment in which nothing is installed."""
    environment = tmp_path_factory.mktemp("python")
    venv.create(environment, symlinks=True)
    return environment / "bin" / "python"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with all that is installed beside the tests, and a copy of ours that may be damaged."""
    site = tmp_path / "site"
    site.mkdir()
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        (site / found.name).symlink_to(found)
    for ours in ("graceful", "_graceful_app.py"):
        original = (site / ours).resolve()
        (site / ours).unlink()
        if original.is_dir():
            shutil.copytree(original, site / ours, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(original, site)
    (tmp_path / "run").mkdir()
    return site


@pytest.fixture
def hidden(installed: Path) -> Path:
    """A directory in which the other project is installed."""
    other = installed.parent / "other"
    (other / "graceful").mkdir(parents=True)
    (other / "graceful" / "__init__.py").write_text(OTHER)
    return other


def run(python: Path, command: Sequence[str], *path: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in an empty directory, with nothing else on Python's path."""
    return subprocess.run(
        [python, *command],
        cwd=path[-1].parent / "run",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def says(ended: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Assert that a command has said one line, which has these words, and no more."""
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (status, "", 1), ended
    assert [word for word in words if word not in ended.stderr] == []


@STARTS
def test_our_own_package_is_accepted_anywhere(python: Path, installed: Path, command: Sequence[str]) -> None:
    """Our own package is accepted, wherever it is."""
    ended = run(python, command, installed)
    assert (ended.returncode, ended.stderr) == (0, ""), ended


@STARTS
@pytest.mark.parametrize("deleted", [False, True], ids=["overwritten", "deleted"])
def test_an_installation_damaged_by_the_other_project_is_noticed(
    python: Path, installed: Path, command: Sequence[str], deleted: bool
) -> None:
    """Installed after ours the other project overwrites the package's first file, and uninstalled it deletes it."""
    first = installed / "graceful" / "__init__.py"
    first.unlink()
    if not deleted:
        first.write_text(OTHER)
    repair = ("pip uninstall graceful", "pip install --force-reinstall --no-deps graceful-app")
    says(run(python, command, installed), 1, str(first), *repair)


@STARTS
def test_hidden_by_a_package(python: Path, installed: Path, hidden: Path, command: Sequence[str]) -> None:
    """The other project's package may come first on the path."""
    says(
        run(python, command, hidden, installed), 1, str(hidden / "graceful"), str(installed), "pip uninstall graceful"
    )


@pytest.mark.parametrize("content", ["open('ran', 'w')", "print 'Python 2'"], ids=["module", "broken"])
def test_hidden_by_a_module(python: Path, installed: Path, content: str) -> None:
    """A stray `graceful.py` in the working directory is named, and does not get to run."""
    stray = installed.parent / "run" / "graceful.py"
    stray.write_text(content)
    says(run(python, TWIST, installed), 1, str(stray), str(installed))
    assert list(stray.parent.iterdir()) == [stray]


def test_command_goes_on(python: Path, installed: Path) -> None:
    """With only the first file lost, a running server can still be asked and stopped."""
    (installed / "graceful" / "__init__.py").write_text(OTHER)
    says(run(python, STATUS, installed), 2, "no server answers")


def test_command_cannot_be_imported(python: Path, installed: Path, hidden: Path) -> None:
    """The `graceful` command says what hides its package, by the status for "cannot be asked"."""
    says(run(python, STATUS, hidden, installed), 2, str(hidden / "graceful"), str(installed))


def test_command_that_is_broken(python: Path, installed: Path) -> None:
    """What goes wrong inside of our own package is not blamed on another one."""
    (installed / "graceful" / "cli.py").write_text("import nowhere\n")
    ended = run(python, STATUS, installed)
    assert ended.returncode == 1
    assert ended.stderr.endswith("ModuleNotFoundError: No module named 'nowhere'\n")


@pytest.mark.parametrize("command", [["web", "--version"], ["--help"]], ids=" ".join)
def test_twistd_with_another_service_says_nothing(python: Path, installed: Path, command: Sequence[str]) -> None:
    """A twistd that is asked for something else says nothing about it."""
    (installed / "graceful" / "__init__.py").write_text(OTHER)
    ended = run(python, [*TWISTD, *command], installed)
    assert (ended.returncode, ended.stderr) == (0, ""), ended
