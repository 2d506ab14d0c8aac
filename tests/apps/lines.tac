"""A service with a protocol of its own, which knows when it is idle: between two lines of a conversation it is not."""

from twisted.application.internet import TCPServer
from twisted.application.service import Application
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from graceful.reactor import IIdling


@implementer(IIdling)
class Conversation(LineReceiver):
    """Is in the middle of something from `begin` to `end`."""

    busy = False
    idle = None

    def whenIdle(self):
        """Say when it is over; now, if nothing has begun."""
        if not self.busy:
            return succeed(None)
        self.idle = Deferred()
        return self.idle

    def lineReceived(self, line):
        """Take a line, and say so."""
        self.busy = line != b"end"
        self.sendLine(b"yes, " + line)
        if not self.busy and self.idle is not None:
            self.idle.callback(None)


application = Application("lines")
TCPServer(0, ServerFactory.forProtocol(Conversation), interface="127.0.0.1").setServiceParent(application)
