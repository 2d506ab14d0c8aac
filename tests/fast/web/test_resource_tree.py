"""Twisted's resources on connections of ours: what one does while its request is being parsed."""

from __future__ import annotations

from collections.abc import Callable
from socket import SHUT_WR
from typing import Any

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from graceful.web import known_heads
from graceful.web.resource_tree import ResourceTree
from tests.fast.doubles import CLOSE, Case, parse_answers


def asked(path: bytes, cookie: bytes, more: bytes = b"") -> bytes:
    """A request with a field of one client alone."""
    return b"GET %b HTTP/1.1\r\nHost: a\r\nCookie: %b\r\n%b\r\n" % (path, cookie, more)


class Page(Resource):
    """Notes what each request says, and once does something between its answer's end and the connection's.

    :ivar seen: path and cookies of each.
    :ivar meanwhile: what it does.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[bytes, Any]] = []
        self.meanwhile: Callable[[], object] | None = None

    def render(self, request: Any) -> Any:
        """Answer."""
        self.seen.append((request.uri, request.requestHeaders.getRawHeaders(b"Cookie")))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is None:
            return b"ok"
        request.finish()
        meanwhile()
        request.transport.loseConnection()
        return NOT_DONE_YET


class WhileParsingTests(Case):
    """A resource that ends its answer and its connection at once, when more has come from the client."""

    def setUp(self) -> None:
        """Serve it, to clients that nobody knows."""
        super().setUp()
        for remembered in (known_heads._fields, known_heads._once):
            remembered.clear()
        self.page = Page()
        self.engine.serve(ResourceTree(self.page, self.engine.hub))

    def test_what_is_remembered_of_a_head_is_its_own(self) -> None:
        """No client gets the fields of another one, though a request came while the one before it was parsed."""
        self.engine.connect().send(asked(b"/1", b"alice"))
        client = self.engine.connect()
        self.page.meanwhile = lambda: client.end.send(asked(b"/2", b"bob"))
        client.send(asked(b"/1", b"alice"))
        self.engine.connect().send(asked(b"/3", b"alice"))
        self.assertEqual(self.page.seen[-1], (b"/3", [b"alice"]))
        for sent, known in known_heads._fields.items():
            for _, value in known:
                self.assertIn(value, sent)

    def test_a_request_that_came_meanwhile_is_answered(self) -> None:
        """It is a request, as on each idle connection that is to be closed; the connection ends after it."""
        client = self.engine.connect()
        self.page.meanwhile = lambda: client.end.send(CLOSE)
        client.send(asked(b"/1", b"alice"))
        self.engine.turn()
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [200, 200])
        self.assertTrue(client.eof)

    def test_a_client_that_has_left_meanwhile_leaves_no_parser(self) -> None:
        """Also if its request has offered another protocol, behind which llhttp has to be begun again."""
        client = self.engine.connect()
        self.page.meanwhile = lambda: client.end.shutdown(SHUT_WR)
        client.send(asked(b"/1", b"alice", b"Connection: Upgrade\r\nUpgrade: other\r\n"))
        self.engine.turn()
        self.assertTrue(client.socket.closed)
        self.assertFalse(hasattr(client.connection.receiver.parser, "_parser"))
