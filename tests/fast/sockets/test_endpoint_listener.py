"""Listening through endpoint plugins."""

from __future__ import annotations

import os
from typing import Any, cast

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.sockets.binding import BindError
from graceful.sockets.endpoint_listener import EndpointListener


class Endpoint:
    """An endpoint and its port, as a plugin may have them.

    :ivar listening: what `listen` returns.
    :ivar stopping: what `stopListening` returns.
    """

    def __init__(self, host: object = None) -> None:
        self.host = host
        self.factory: object = None
        self.listening: Deferred[Any] = succeed(self)
        self.stopping: Deferred[Any] | None = None
        self.stopped = 0

    def listen(self, factory: object) -> Deferred[Any]:
        """Listen."""
        self.factory = factory
        return self.listening

    def getHost(self) -> object:
        """Where it listens."""
        return self.host

    def stopListening(self) -> Deferred[Any] | None:
        """Stop."""
        self.stopped += 1
        return self.stopping


class ForeignListenerTests(SynchronousTestCase):
    """With a plugin of our own."""

    def setUp(self) -> None:
        """Let every string lead to it."""
        self.endpoint = Endpoint(IPv4Address("TCP", "0.0.0.0", 8443))
        self.patch(endpoints, "serverFromString", lambda reactor, text: self.endpoint)
        self.factory = Factory()
        self.listener = EndpointListener(cast(Any, None), "ssl:8443", cast(Any, self.factory))

    def test_listens_with_our_factory(self) -> None:
        """The endpoint listens with our factory, and the name tells where it does."""
        self.successResultOf(self.listener.start())
        self.assertIs(self.endpoint.factory, self.factory)
        self.assertEqual(self.listener.name, "ssl:0.0.0.0:8443")

    def test_names_addresses_of_all_kinds(self) -> None:
        """Addresses of all kinds have names; of unknown ones it is the operator's string."""
        for host, name in (
            (IPv6Address("TCP", "::1", 443), "ssl:[::1]:443"),
            (UNIXAddress("/run/x.sock"), "ssl:/run/x.sock"),
            (object(), "ssl:8443"),
        ):
            self.endpoint.host, self.endpoint.listening = host, succeed(self.endpoint)
            listener = EndpointListener(cast(Any, None), "ssl:8443", cast(Any, self.factory))
            self.successResultOf(listener.start())
            self.assertEqual(listener.name, name)

    def test_fails_in_one_line_if_it_cannot_listen(self) -> None:
        """If it cannot listen, the failure has one line with the operator's string and the reason."""
        self.endpoint.listening = fail(CannotListenError("", 8443, OSError(98, "Address in use")))
        line = str(self.failureResultOf(self.listener.start(), BindError).value)
        self.assertIn("cannot listen on ssl:8443: ", line)
        self.assertIn("Address in use", line)

    def test_fails_for_an_unknown_prefix(self) -> None:
        """A prefix that no plugin has is a failure of the same kind."""

        def unknown(reactor: object, text: str) -> object:
            raise ValueError("Unknown endpoint type: 'sls'")

        self.patch(endpoints, "serverFromString", unknown)
        self.assertIn("sls", str(self.failureResultOf(self.listener.start(), BindError).value))

    def test_close_waits_for_the_port(self) -> None:
        """Closing waits for the plugin's port, and then says so in one record; it happens once."""
        self.successResultOf(self.listener.start())
        self.endpoint.stopping = Deferred()
        with capturedLogs() as events:
            done = self.listener.close()
            self.assertNoResult(done)
            self.assertEqual(events, [])
            self.endpoint.stopping.callback(None)
            self.successResultOf(done)
            self.successResultOf(self.listener.close())
        self.assertEqual(
            [formatEvent(event) for event in events], [f"socket ssl:0.0.0.0:8443 closed (pid {os.getpid()})"]
        )
        self.assertEqual(self.endpoint.stopped, 1)

    def test_closes_a_port_that_returns_no_deferred(self) -> None:
        """A port that has nothing to wait for returns no Deferred."""
        self.successResultOf(self.listener.start())
        self.successResultOf(self.listener.close())

    def test_closes_silently_if_never_started(self) -> None:
        """What never listened has nothing to close, nor to say."""
        with capturedLogs() as events:
            self.successResultOf(self.listener.close())
        self.assertEqual(events, [])

    def test_closes_even_if_the_port_fails_to_stop(self) -> None:
        """A port that fails to stop does not keep the drain."""
        self.successResultOf(self.listener.start())
        self.endpoint.stopping = fail(RuntimeError("no"))
        self.successResultOf(self.listener.close())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
