"""A service with a protocol of its own, which tells when a connection may be closed.

    twistd -ny conversation.tac

Under `twistd --reactor=graceful`, a stop waits for conversations that have begun, and for no others:

    twistd --reactor=graceful -ny conversation.tac
"""

from twisted.application.internet import TCPServer
from twisted.application.service import Application
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineReceiver
from zope.interface import implementer

from graceful.reactor import IIdling


@implementer(IIdling)
class Conversation(LineReceiver):
    """Echoes lines.  A conversation lasts from its first line to the line `end`."""

    busy = False
    idle = None

    def whenIdle(self):
        """Fire when the conversation is over; at once, if none has begun."""
        if not self.busy:
            return succeed(None)
        self.idle = Deferred()
        return self.idle

    def lineReceived(self, line):
        """Answer a line, and note whether the conversation is over."""
        self.busy = line != b"end"
        self.sendLine(b"yes, " + line)
        if not self.busy and self.idle is not None:
            self.idle.callback(None)


application = Application("conversation")
TCPServer(4025, ServerFactory.forProtocol(Conversation), interface="127.0.0.1").setServiceParent(application)
