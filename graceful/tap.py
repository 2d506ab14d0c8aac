"""The service that `twistd graceful-app` runs, made of its options; Twisted calls such a module a tap."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from twisted.web.resource import IResource

from graceful.application.loading import is_asgi
from graceful.asgi import ASGIResource
from graceful.process.own_process import OwnProcess
from graceful.server.app_server import AppServer
from graceful.server.engine import Root
from graceful.server.instance import Instance
from graceful.web.hub_reactor import install_unless_chosen
from graceful.workers.parent import Parent
from graceful.wsgi import WSGIResource

if TYPE_CHECKING:
    from graceful.options import Options


def makeService(options: Options) -> Instance:
    """Return the service that `twistd graceful-app` runs; nothing is opened or started yet.

    For `--check` it does not return: it imports the application, binds every socket, closes them again, and exits.
    """

    def root() -> Root:
        found = options.load()
        if IResource.providedBy(found):
            return found
        return ASGIResource(found) if is_asgi(found, options.interface) else WSGIResource(None, None, found)

    process = OwnProcess(
        startup=options.startup,
        pid_file=options.pid_file,
        sockets=options.sockets,
        pid=options.pid,
        limit=options.limit,
        control=options.control,
        owner=options.owner,
        takeover=options.takeover,
        asked_at=options.asked_at,
        notify=options.notify,
        origin=options.origin,
        reload=options.reload,
        preload=options.preload,
    )
    server: Instance
    if options.supervisor is not None:
        from graceful.workers.supervised_sockets import SupervisedSockets

        assert isinstance(options.supervisor, Parent)
        source = SupervisedSockets(process, options.supervisor)
        server = AppServer(root, options.settings, process=process, source=source)
    elif options.settings.workers > 1 or options.reload:
        from graceful.workers.supervisor import Supervisor

        server = Supervisor(options.settings, process)
    else:
        server = AppServer(root, options.settings, process=process)
    if options.check:
        with options.startup.step():
            options.load()
            server.bind()
        options.startup.undo.close()
        print(f"{options.application or 'the demo'} would start, at {', '.join(server.names())}")
        sys.exit(0)
    install_unless_chosen()
    return server
