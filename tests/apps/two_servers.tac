"""Two servers with one root in one application; what they serve can stop and start the second."""

import os

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.web.resource import Resource

from graceful import AppServer, Settings, WSGIResource


def text(environ, start_response):
    """Answer which thread answers."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"served"]


class Second(Resource):
    """Stops or starts the second server."""

    isLeaf = True

    def render_GET(self, request):
        """Do it after the answer, which may go out through the very server."""
        if request.postpath == [b"stop"]:
            reactor.callLater(0, second.disownServiceParent)
        else:
            reactor.callLater(0, second.setServiceParent, application)
        return b"done"


root = Resource()
wsgi = WSGIResource(None, None, text)
root.putChild(b"wsgi", wsgi)
root.putChild(b"second", Second())

application = Application("two servers")
first = AppServer(root, Settings(listen=os.environ["LISTEN"], idle_grace=0.1))
second = AppServer(lambda: root, Settings(listen=os.environ["LISTEN"], idle_grace=0.1))
second.setName("second")
first.setServiceParent(application)
second.setServiceParent(application)
