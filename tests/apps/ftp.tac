"""What `twistd ftp` runs, on loopback only, which that cannot be told."""

import os

from twisted.application.service import Application
from twisted.tap.ftp import Options, makeService

options = Options()
options.parseOptions(["--port", "0", "--root", os.environ["ROOT"]])
server = makeService(options)
server.kwargs["interface"] = "127.0.0.1"
application = Application("ftp")
server.setServiceParent(application)
