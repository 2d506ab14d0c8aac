"""The server as one of the services in an application of your own.

Run it in this directory, and look at http://127.0.0.1:8080/:

    twistd -ny embedded.tac

Here the process is not the server's but twistd's, with two consequences.  At SIGTERM twistd tells all services to stop
at the same moment: the server finishes what is in flight, and the process waits for it; what requests need until their
end must not end with its own `stopService`.  And a process that SIGTERM has stopped ends as one that was killed by it
(143 in a shell), however well it went; the line `drained in ...` in the log says how it did.
"""

import os
import time

from twisted.application.internet import TimerService
from twisted.application.service import Application

from graceful import AppServer, Settings, WSGIResource

ticks = []


def site(environ, start_response):
    """A WSGI application that shows what the other service does."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(float(environ["QUERY_STRING"] or 10))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [f"The other service has ticked {len(ticks)} times.\n".encode()]


def tick():
    """All that the other service does."""
    ticks.append(time.monotonic())


application = Application("embedded")

TimerService(1, tick).setServiceParent(application)

settings = Settings(listen=os.environ.get("LISTEN", "tcp:8080:interface=127.0.0.1"), threads=10, deadline=30)
AppServer(WSGIResource(None, None, site), settings).setServiceParent(application)
