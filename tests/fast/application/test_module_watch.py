"""Watching the files of the application's modules: each change is told, also one that came too early."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.application.module_watch import ModuleWatch, installed
from tests.fast.doubles import directory_for


class ModuleWatchTests(SynchronousTestCase):
    """The modules of a site in one directory."""

    def setUp(self) -> None:
        """Have one module, which is older than the import."""
        self.directory = os.path.realpath(directory_for(self))
        self.modules: dict[str, Any] = {}
        self.since = time.time() - 10
        self.site = self.imported("site", self.since - 10)
        self.changed: list[list[str]] = []
        self.watched: list[list[str]] = []
        self.events: list[set[str]] = []
        self.watch = ModuleWatch(self.changed.append, self.since, self.modules, self.yields, ())

    def imported(self, name: str, changed: float, directory: str = "") -> str:
        """Have a module imported that has changed at a time.  Returns its path."""
        path = os.path.join(self.directory, directory, f"{name}.py")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w"):
            pass
        os.utime(path, (changed, changed))
        self.modules[name] = SimpleNamespace(__file__=path)
        return path

    def yields(self, directories: Iterable[str]) -> Iterator[set[str]]:
        """Yield what a test wants."""
        self.watched.append(list(directories))
        while self.events:
            yield self.events.pop(0)

    def test_tells_what_is_seen_to_change(self) -> None:
        """Changes that are seen are told; a look at which nothing has changed is not."""
        new = os.path.join(self.directory, "never_imported.py")
        self.events = [set(), {self.site}, {new}]
        self.watch.follow()
        self.assertEqual((self.watched, self.changed), ([[self.directory]], [[self.site], [new]]))

    def test_tells_what_has_changed_since_the_import_began(self) -> None:
        """A file that has changed while it was imported is told, once."""
        early = self.imported("early", self.since + 1)
        self.events = [set(), set()]
        self.watch.follow()
        self.assertEqual(self.changed, [[early]])

    def test_a_time_in_the_future_is_no_change(self) -> None:
        """A file whose time is in the future, as by another machine's clock, does not deploy again and again."""
        self.imported("future", time.time() + 1000)
        self.events = [set(), set()]
        self.watch.follow()
        self.assertEqual(self.changed, [])

    def test_what_an_event_has_told_is_not_found_again(self) -> None:
        """A file that was never looked at, and whose time is a moment in the future: a clock's, or a test's."""
        now = time.time()
        soon = self.imported("soon", now + 1)
        self.events = [{soon}, set()]
        times = iter([now, now + 2])
        ModuleWatch(self.changed.append, self.since, self.modules, self.yields, (), times.__next__).follow()
        self.assertEqual(self.changed, [[soon]])

    def test_follows_what_is_imported_later(self) -> None:
        """When a module of another directory is imported, that is watched, too."""
        events = iter([set(), set()])

        def importing(directories: Iterable[str]) -> Iterator[set[str]]:
            self.watched.append(list(directories))
            for event in events:
                self.imported("later", self.since - 10, "package")
                yield event

        watch = ModuleWatch(self.changed.append, self.since, self.modules, importing, ())
        watch.follow()
        watch.follow()
        both = [self.directory, os.path.join(self.directory, "package")]
        self.assertEqual(self.watched, [[self.directory], both])

    def test_installed_packages_are_not_watched(self) -> None:
        """Python's own modules, installed packages, and modules without a file are not watched."""
        watch = ModuleWatch(self.changed.append, self.since, dict(sys.modules), self.yields)
        self.assertEqual([path for path in watch.files() if path.startswith(installed())], [])
        self.assertIn(os.path.realpath(__file__), watch.files())
