"""What makes `twistd --reactor=graceful` exist.

Every plugin is imported for a mere `--help`, so this loads nothing of the reactor before it is asked for.
"""

from __future__ import annotations

from twisted.application.reactors import Reactor


class GracefulReactorInstaller(Reactor):
    """The plugin: a name for the command line, and the module that installs the reactor."""

    def install(self) -> None:
        """Install it.

        :raises SystemExit: the package `graceful` is another project's; see `_graceful_app`.
        """
        from _graceful_app import check

        check("--reactor=graceful")
        super().install()


graceful = GracefulReactorInstaller("graceful", "graceful.reactor", "Finishes what is in flight before it stops.")
