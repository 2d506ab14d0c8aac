"""Watching the files of the modules that the application has imported, for `--reload`.

Watched are the directories that have such a file, without those of installed packages and of Python itself: so a
module that is new, or was never imported without an error, is seen as well.  `watchfiles` tells of changes at once.
Once in a while the files are also looked at themselves: a file may have changed while it was imported, or while the
watched directories changed.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import time
from typing import Any, Final

from graceful.threads.start import start_thread

#: Milliseconds between two looks at the files themselves.
LOOK: Final = 1000
_INSTALLED: Final = ("stdlib", "platstdlib", "purelib", "platlib")

#: As :func:`watchfiles.watch`, for directories: yields the paths that have changed, and at times none.
Watch = Callable[[Iterable[str]], Iterator[set[str]]]


def installed() -> tuple[str, ...]:
    """Returns where installed packages and Python's own modules are."""
    places = [*map(sysconfig.get_path, _INSTALLED), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(os.path.realpath(place) + os.sep for place in places)


def watched_by_watchfiles(directories: Iterable[str]) -> Iterator[set[str]]:
    """Yields the Python files that have changed in directories, and once in a while none."""
    from watchfiles import watch

    for changes in watch(
        *directories,
        watch_filter=lambda change, path: path.endswith(".py"),
        rust_timeout=LOOK,
        yield_on_timeout=True,
        raise_interrupt=False,
        recursive=False,
    ):
        yield {path for _, path in changes}


class ModuleWatch:
    """Tells of changes, from a thread of its own.

    :param changed: called with the paths of files that have changed, in that thread.
    :param since: when the application's import began, seconds since the epoch.
    :param modules: those that are imported, by name.
    :param watch: tells of changes in directories.
    :param places: directories that are not watched, each with a slash at its end.
    :param now: tells the time as files have it, seconds since the epoch.
    """

    def __init__(
        self,
        changed: Callable[[list[str]], object],
        since: float,
        modules: Mapping[str, Any] = sys.modules,
        watch: Watch = watched_by_watchfiles,
        places: tuple[str, ...] | None = None,
        now: Callable[[], float] = time,
    ) -> None:
        self._changed = changed
        self._since = since
        self._modules = modules
        self._watch = watch
        self._places = installed() if places is None else places
        self._now = now
        self._times: dict[str, float] = {}

    def start(self) -> None:
        """Start the thread.

        :raises NoThread: the system refuses it.
        """
        start_thread(self._run, "reload", "the thread that watches the application's modules")

    def _run(self) -> None:
        while True:
            self.follow()

    def follow(self) -> None:
        """Watch until the application has imported something from another directory."""
        directories = self._directories()
        for paths in self._watch(sorted(directories)):
            changed = paths | self._later(paths)
            if changed:
                self._changed(sorted(changed))
            if self._directories() != directories:
                return

    def files(self) -> set[str]:
        """Returns the files of the modules that are watched."""
        found = set()
        for module in list(self._modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and path.endswith(".py"):
                real = os.path.realpath(path)
                if not real.startswith(self._places):
                    found.add(real)
        return found

    def _directories(self) -> set[str]:
        return {os.path.dirname(path) for path in self.files()} or {os.path.realpath(os.getcwd())}

    def _later(self, told: set[str]) -> set[str]:
        """Returns the files that have changed since the last look, or, seen for the first time, since the import.

        :param told: those that are known to have changed: what they are now is not found again.
        """
        found, now = set(), self._now()
        for path in self.files() | told:
            try:
                changed = os.stat(path).st_mtime
            except OSError:
                continue  # an editor is just replacing it
            if path in told:
                self._times[path] = changed
                continue
            before = self._times.get(path, self._since)
            if before < changed <= now:  # a time in the future would be later than each import
                found.add(path)
            self._times[path] = changed if path in self._times or changed <= now else self._since
        return found
