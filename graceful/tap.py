"""The service that `twistd graceful-app` runs, made of its options; Twisted calls such a module a tap."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twisted.web.resource import IResource

from graceful.application.loading import load
from graceful.process.exit import LastLimit
from graceful.process.own_process import OwnProcess
from graceful.server.app_server import AppServer
from graceful.server.engine import Root
from graceful.server.instance import Instance
from graceful.wsgi import WSGIResource

if TYPE_CHECKING:
    from graceful.options import Options


def makeService(options: Options) -> Instance:
    """Return the service that `twistd graceful-app` runs; nothing is opened or started yet.

    For `--check` it does not return: it imports the application, binds every socket, closes them again, and exits.
    """

    def root() -> Root:
        found = load(options.application)
        return found if IResource.providedBy(found) else WSGIResource(None, None, found)

    process = OwnProcess(
        startup=options.startup,
        pid_file=options.pid_file,
        sockets=options.sockets,
        pid=options.pid,
        limit=LastLimit(),
        control=options.control,
        owner=options.owner,
        takeover=options.takeover,
        asked_at=options.asked_at,
        origin=options.origin,
    )
    server: Instance
    if options.supervisor is not None:
        from graceful.workers.supervised_sockets import SupervisedSockets

        source = SupervisedSockets(process, options.supervisor)
        server = AppServer(root, options.settings, process=process, source=source)
    elif options.settings.workers > 1:
        from graceful.workers.supervisor import Supervisor

        server = Supervisor(options.settings, process)
    else:
        server = AppServer(root, options.settings, process=process)
    if options.check:
        with options.startup.step():
            load(options.application)
            server.bind()
        options.startup.undo.close()
        print(f"{options.application or 'the demo'} would start, at {', '.join(server.names())}")
        sys.exit(0)
    return server
