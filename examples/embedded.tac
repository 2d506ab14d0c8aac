"""A Twisted application of your own, in which the server is one of the services.

Run it in this directory, and look at http://127.0.0.1:8080/:

    twistd -ny embedded.tac

Here the process is not the server's but twistd's, with two consequences.  At SIGTERM twistd tells all services to
stop at the same moment.  The server finishes what is in flight, and the process waits for it; so a service that
requests need until their end must not end in its own `stopService`.  And twistd ends a process that SIGTERM has
stopped as one that SIGTERM has killed (143 in a shell), however well the stop went; the line `drained in ...` in the
log has the result.
"""

import os
import time

from twisted.application.internet import TimerService
from twisted.application.service import Application

from graceful import AppServer, Settings, WSGIResource

ticks = []


def site(environ, start_response):
    """Show what the other service does: a WSGI application."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(environ["QUERY_STRING"] or 10))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"The other service has ticked {len(ticks)} times.\n".encode()]


def tick():
    """Do the work of the other service."""
    ticks.append(time.monotonic())


application = Application("embedded")

TimerService(1, tick).setServiceParent(application)

settings = Settings(listen=os.environ.get("LISTEN", "tcp:8080:interface=127.0.0.1"), threads=10, deadline=30)
AppServer(WSGIResource(None, None, site), settings).setServiceParent(application)
