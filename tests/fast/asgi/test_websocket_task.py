"""The task of a WebSocket: which of its exceptions are faults, and that a takedown may end what it runs."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet.task import Clock

from graceful.asgi.blocked_code import application_frame
from graceful.websocket.keeper import Keeper
from tests.fast.asgi.doubles import AsgiCase, Message, Receive, Send
from tests.support.frames import close, request


class WebSocketDisconnect(Exception):
    """A framework's."""


class TaskTests(AsgiCase):
    """Applications that have a WebSocket."""

    def open(self, application: Any) -> Any:
        """Returns a client whose WebSocket an application has."""
        self.serve(application)
        site = self.engine.site
        clock: Any = Clock()
        site.websockets = Keeper(site.register, site.settings, clock, self.engine.hub.call)
        return self.connect(request())

    def test_a_client_that_leaves_is_no_fault(self) -> None:
        """A framework's exception for it that comes through is neither logged nor reported."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            assert (await receive())["type"] == "websocket.disconnect"
            raise WebSocketDisconnect

        client = self.open(application)
        client.send(close(1001))
        self.turn()
        client.close()
        self.turn()
        self.assertEqual((self.reports.kept, self.flushLoggedErrors()), ([], []))
        self.assertEqual((self.engine.site.register.exchanges, len(self.host.tasks)), ({}, 0))

    def test_the_same_exception_on_an_open_websocket_is_a_fault(self) -> None:
        """The client is there: it may be another one's."""

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            raise WebSocketDisconnect

        self.open(application)
        self.assertEqual([type(one) for _, one in self.reports.kept], [WebSocketDisconnect])
        self.assertEqual(len(self.flushLoggedErrors(WebSocketDisconnect)), 1)

    def test_its_code_is_the_applications(self) -> None:
        """A takedown may raise its exception there, if it blocks the loop; so it may in a hook and a lifespan."""
        found: dict[str, bool] = {}

        def look(name: str) -> None:
            ident = threading.get_ident()
            watch = threading.Thread(target=lambda: found.update({name: application_frame(ident) is not None}))
            watch.start()
            watch.join()

        async def application(scope: Message, receive: Receive, send: Send) -> None:
            look("websocket")

        async def hook() -> None:
            look("hook")

        self.open(application)
        self.host.tell(hook)
        self.turn()
        self.flushLoggedErrors()
        self.assertEqual(found, {"websocket": True, "hook": True})
