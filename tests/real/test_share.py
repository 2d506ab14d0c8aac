"""The manual page and the completions of shells: they are made of the tables of today, and work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from graceful.config.option_table import GROUPS
from tests.support.docs_blocks import ROOT
from tests.support.server import PROGRAMS

SHARE = PROGRAMS.parent / "share"
PAGE = SHARE / "man/man1/graceful.1"
BASH = SHARE / "bash-completion/completions/graceful"
ZSH = SHARE / "zsh/site-functions/_graceful"
FISH = SHARE / "fish/vendor_completions.d/graceful.fish"
#: What readline does at the tab key; only there may `compopt` be called.
IN_BASH = (
    'compopt() { :; }; source "$1"; COMP_WORDS=("${@:2}"); COMP_CWORD=$(($# - 2)); _graceful; '
    'printf "%s\\n" "${COMPREPLY[@]}"'
)

#: The beginning of a command line, and what it is completed with; `site.toml` and `spool` are in the directory.
LINES = {
    "re": "reload-certificates",
    "--control x.sock st": "status stop",
    "--control x.sock serve --thr": "--threads",
    "serve --pidf": "--pidfile",
    "serve --trusted-proxy unix --trusted": "--trusted-proxy",
    "serve --interface ": "auto wsgi asgi",
    "serve --threads ": "",
    "serve --config si": "site.toml",
    "serve --spool s": "spool",
    "config --access-log-format j": "json",
    "stop --wait c": "closed",
    "convert si": "site.toml",
}


def completed(shell: str, line: str, directory: Path) -> set[str]:
    """Returns what a shell completes a command line with, by its own means.

    :param directory: where it runs, and its home.
    """
    line = f"graceful {line}"
    command = {
        "bash": ["bash", "-c", IN_BASH, "bash", str(BASH), *line.split(" ")],
        "zsh": ["zsh", "-f", str(ROOT / "tests/support/complete.zsh"), str(ZSH.parent), line],
        "fish": ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(FISH), line],
    }[shell]
    assert shutil.which(shell), f"{shell} is not installed: run `make system`"
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    told = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60)
    assert told.stderr == ""
    # fish has a description behind a tab, and a slash behind a directory.
    return {match.partition("\t")[0].rstrip("/") for match in told.stdout.splitlines() if match}


def test_completions_are_those_of_the_tables(tmp_path: Path) -> None:
    """What the tables of commands and options make is what is installed: else `make manual` has to be run."""
    for name in ("graceful", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "tools/completions.py"], cwd=tmp_path, check=True, timeout=30)
    for path in (BASH, ZSH, FISH):
        assert (tmp_path / path.relative_to(PROGRAMS.parent)).read_text() == path.read_text(), "run make manual"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_options_and_values(shell: str, tmp_path: Path) -> None:
    """The shell itself offers commands, the options of each, files, and values of which there are few."""
    (tmp_path / "site.toml").touch()
    (tmp_path / "spool").mkdir()
    expected = {line: set(matches.split()) for line, matches in LINES.items()}
    if shell == "bash":
        del expected["convert si"]  # it is readline that offers files there
    assert {line: completed(shell, line, tmp_path) for line in expected} == expected


def test_zsh_offers_an_option_again_only_if_it_may_be_repeated(tmp_path: Path) -> None:
    """Where bash and fish offer all options of a command, zsh knows which it has seen."""
    assert completed("zsh", "serve --threads 3 --thr", tmp_path) == set()


def test_the_manual_page_has_every_option() -> None:
    """The manual page that is installed names every command and option, signals and exit statuses."""
    text = re.sub(r"\\f.|\\", "", PAGE.read_text())
    for option in (option for group in GROUPS.values() for option in group):
        assert f"--{option.name} {option.value}".rstrip() in text, f"{option.name}: run make manual"
    for word in ("graceful workers N", "--pidfile PATH", "SIGTTIN", "some exchanges were taken down"):
        assert word in text
