"""What makes `twistd graceful-app` and `twist graceful-app` exist.

Both commands import every plugin for a mere `--help`, and read a plugin's options before they install the
reactor that the user asked for; `twist` fails if one is installed by then.  Twisted's own `ServiceMaker`
would load the whole service to get at its options.  So this one loads each of the two when it is asked for,
and importing this module loads nothing of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.application.service import IService, IServiceMaker
from twisted.plugin import IPlugin
from zope.interface import implementer

if TYPE_CHECKING:
    from graceful.options import Options


@implementer(IPlugin, IServiceMaker)
class GracefulApp:
    """The plugin: a name for the command line, its options, and the service made of them."""

    tapname = "graceful-app"
    description = "Serve a WSGI application; deploy it at any moment."

    @property
    def options(self) -> type[Options]:
        """The class that parses the command line.

        :raises SystemExit: the package `graceful` is another project's; see `_graceful_app`.
        """
        from _graceful_app import check

        check(self.tapname)
        from graceful.process.gc_tuning import spare_imports

        spare_imports()
        from graceful.options import Options

        return Options

    def makeService(self, options: Options) -> IService:
        """Return the service that these options describe; nothing is opened or started yet."""
        from graceful.tap import makeService

        return makeService(options)


graceful_app = GracefulApp()
