"""A service with jobs in the reactor's pool: one that never ends, and one that waits for the reactor."""

import os
import time

from twisted.application.service import Application, Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread
from twisted.python import log


class Jobs(Service):
    """Starts the jobs that the environment's JOBS names."""

    def startService(self):
        """Start them when the reactor runs."""
        from twisted.internet import reactor

        super().startService()
        for name in os.environ["JOBS"].split():
            reactor.callWhenRunning(reactor.callInThread, getattr(self, name), reactor)

    def never(self, reactor):
        """Do not end."""
        log.msg("never is here")
        while True:
            time.sleep(0.1)

    def asks(self, reactor):
        """Ask the reactor for something that it never has."""
        log.msg("asks is here")
        try:
            blockingCallFromThread(reactor, Deferred)
        except Exception as error:
            log.msg(f"asks got {error!r}")

    def counted(self, reactor):
        """Have some work counted that takes no connection, until the file DONE is there."""
        done = Deferred()
        reactor.callFromThread(reactor.inFlight, done, "a job of some kind")
        log.msg("counted is here")
        while not os.path.exists(os.environ["DONE"]):
            time.sleep(0.01)
        reactor.callFromThread(done.callback, None)


application = Application("jobs")
Jobs().setServiceParent(application)
