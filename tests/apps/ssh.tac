"""A conch SSH server: one user, one key, and commands that run as whoever runs the server."""

import os

from twisted.application.internet import TCPServer
from twisted.application.service import Application
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import ISession
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.session import SSHSession
from twisted.cred.portal import IRealm, Portal
from twisted.internet import reactor
from twisted.python.components import registerAdapter
from zope.interface import implementer


class User(ConchUser):
    """Who may run commands."""

    def __init__(self):
        super().__init__()
        self.channelLookup[b"session"] = SSHSession


@implementer(ISession)
class Commands:
    """A user's session, for one command."""

    def __init__(self, user):
        self.process = None

    def execCommand(self, protocol, command):
        """Run it."""
        self.process = reactor.spawnProcess(protocol, "/bin/sh", ["sh", "-c", command], os.environ)

    def eofReceived(self):
        """The client's input ends."""
        self.process.closeStdin()

    def closed(self):
        """The session is over."""


@implementer(IRealm)
class Realm:
    """Where everybody is the same user."""

    def requestAvatar(self, name, mind, *interfaces):
        """Log somebody in."""
        return interfaces[0], User(), lambda: None


registerAdapter(Commands, User, ISession)
key = Key.fromFile(os.environ["KEY"])
factory = SSHFactory()
factory.publicKeys = factory.privateKeys = {b"ssh-ed25519": key}
factory.portal = Portal(Realm(), [SSHPublicKeyChecker(InMemorySSHKeyDB({b"somebody": [key.public()]}))])
application = Application("ssh")
TCPServer(0, factory, interface="127.0.0.1").setServiceParent(application)
