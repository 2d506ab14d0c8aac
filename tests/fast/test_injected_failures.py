"""A failure at each step of an exchange: the client gets an answer or a visible end, and nothing is left behind.

Each row of a table names a step, by the function that is made to raise there, and what the client must see.
After each row no exchange, connection, descriptor, relay, parked request or timer may be left, and the next request
of the same kind, for which nothing fails any more, is answered.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from attrs import frozen
from twisted.logger import capturedLogs, formatEvent
from twisted.web.resource import Resource

from graceful.downloads import file_sender, handover, media_types, prefixes, relay, relay_pool
from graceful.downloads.file_sender import FileSender
from graceful.downloads.files import BLOCK
from graceful.downloads.parked import Parked
from graceful.downloads.parking_lot import ParkedRequest, ParkingLot
from graceful.downloads.relay import Relay
from graceful.downloads.rest_of_file import RestOfFile
from graceful.takedown.lost_exchanges import SUSPECTED
from graceful.web.exchange import Exchange
from graceful.web.request_channel import RequestChannel
from graceful.web.resource_tree import ResourceTree
from graceful.web.sending_half import SendingHalf
from graceful.wsgi import WSGIResource, runner
from graceful.wsgi.runner import Runner
from tests.fast.doubles import HOST, parse_answers
from tests.fast.downloads.downloading import DownloadCase, Response

STRONG = (("ETag", '"v1"'), ("Accept-Ranges", "bytes"))
CONTENT = b"c" * (BLOCK * 2)

#: What may be raised at any step: a mistake, a system that refuses, and no memory.
ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: RuntimeError("injected"),
    lambda: OSError(errno.EMFILE, "injected"),
    lambda: MemoryError("injected"),
)


@frozen
class Step:
    """A row of the table.

    :ivar where: the object whose attribute is made to raise.
    :ivar name: that attribute.
    :ivar request: what the client asks for.
    :ivar seen: what the client must see: `500`, `cut` after a part of the answer, the `whole` answer, or `nothing`
        but the end of the connection.
    """

    where: Any
    name: str
    request: str
    seen: str

    def __str__(self) -> str:
        return f"{getattr(self.where, '__name__', self.where)}.{self.name} for {self.request}"


#: From the route to the last byte, by the way that the exchange takes.
STEPS = (
    Step(prefixes, "resolve", "file", "500"),
    Step(prefixes, "mark_download", "file", "500"),
    Step(prefixes, "open_best", "file", "500"),
    Step(prefixes, "media_type", "file", "500"),
    Step(media_types.mimetypes, "guess_type", "file", "500"),
    Step(prefixes, "file_head", "file", "500"),
    Step(FileSender, "begin", "file", "500"),
    Step(SendingHalf, "begin_pull", "file", "nothing"),
    Step(SendingHalf, "keep_unsent_low", "file", "500"),
    Step(FileSender, "_pull", "file", "cut"),
    Step(SendingHalf, "push_file", "file", "cut"),
    Step(file_sender, "fetch", "cold file", "cut"),
    Step(SendingHalf, "pause_pull", "cold file", "cut"),
    Step(FileSender, "_complete", "file", "whole"),
    Step(handover, "application_head", "token", "500"),
    Step(handover, "file_head", "token", "500"),
    Step(handover.AnswerHandOver, "_send", "token", "500"),
    Step(relay_pool, "upstream_fields", "url", "500"),
    Step(relay, "client_fields", "url", "500"),
    Step(Relay, "begin", "url", "500"),
    Step(Relay, "_first_response", "url", "500"),
    Step(RestOfFile, "of", "url", "500"),
    Step(Relay, "_deliver", "url", "cut"),
    Step(Relay, "data", "url", "cut"),
    Step(Relay, "body_ended", "url", "whole"),
    Step(Relay, "_finish", "url", "whole"),
    Step(RestOfFile, "next_delay", "broken url", "cut"),
    Step(Relay, "_ask_for", "broken url", "cut"),
    Step(Relay, "_next_response", "broken url", "cut"),
    Step(RestOfFile, "is_in", "broken url", "cut"),
    Step(Relay, "tick", "url", "cut"),
    Step(ParkedRequest, "begin", "parked", "500"),
    Step(ParkingLot, "enter", "parked", "500"),
    Step(Parked, "wait_at", "parked", "500"),
    Step(ParkedRequest, "_take", "parked", "500"),
    Step(ParkedRequest, "_view_fields", "parked", "500"),
    Step(ParkedRequest, "time_out", "forgotten", "500"),
    Step(WSGIResource, "handle", "application", "500"),
    Step(Runner, "__call__", "application", "500"),
    Step(runner, "of_connection", "application", "500"),
    Step(runner, "of_request", "application", "500"),
    Step(runner, "set_current", "application", "500"),
    Step(runner, "answer_failure", "failing application", "500"),
    Step(RequestChannel, "render", "resource", "500"),
    Step(SendingHalf, "transmit", "application", "nothing"),
)


class StepTests(DownloadCase):
    """Each step fails, with each error."""

    def setUp(self) -> None:
        """Serve applications as threads do, and a tree of resources."""
        super().setUp()
        self.file(CONTENT)
        self.cold = False
        self.tickets: list[Parked] = []
        self.responses: list[Response] = []
        self.resources = ResourceTree(self._page(), self.engine.hub)
        self.patch(
            self.resources, "_hub", SimpleNamespace(in_reactor_thread=lambda: False, call=self.engine.hub.call)
        )
        self.application = WSGIResource(None, None, self._application)
        self.run_application = Runner()
        self.application_threads: Any = SimpleNamespace(offer=self._offer)
        self.patch(self.engine.site, "pool_for", lambda threadpool: self.application_threads)
        self.engine.serve(SimpleNamespace(handle=self._handle))
        self.patch(file_sender.FileSender.__init__, "__defaults__", (lambda *block: not self.cold,))

    def _page(self) -> Resource:
        class Page(Resource):
            def getChild(self, path: bytes, request: Any) -> Resource:
                return self

            def render_GET(self, request: Any) -> bytes:
                return b"resource"

        return Page()

    def _handle(self, exchange: Exchange) -> None:
        (self.resources if exchange.target.startswith(b"/resource") else self.application).handle(exchange)

    def _offer(self, exchange: Exchange) -> bool:
        """Do what a thread of the pool does."""
        try:
            self.run_application(exchange)
        except BaseException:
            Runner.give_up(exchange)
        return True

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if path == "/failing":
            raise ValueError("the application's own")
        if path in ("/parked", "/forgotten"):
            ticket = Parked(timeout=5.0)
            self.tickets.append(ticket)
            return ticket(environ, start_response)
        if path == "/token":
            from graceful.downloads.token import Download

            return Download(os.path.join(self.directory, "file.txt"))(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"application"]

    # -- requests

    def ask_for(self, what: str) -> bytes:
        """Returns what a client gets, to its end or until nothing more happens."""
        target = {
            "file": "/files/file.txt",
            "cold file": "/files/file.txt",
            "url": "/remote/x",
            "broken url": "/remote/x",
            "failing application": "/failing",
        }.get(what, f"/{what}")
        self.cold = what == "cold file"
        client = self.engine.connect()
        client.send(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
        getattr(self, "_after_" + what.replace(" ", "_"), lambda: None)()
        data = client.take()
        self.clock.advance(SUSPECTED)
        for look in (self.relays.tick, self.parking_lot.tick):
            look(self.clock.seconds())
        data += client.take()
        self.eof = client.eof
        client.close()
        self.engine.turn()
        return data

    def _respond(self, code: int, *fields: tuple[str, str], length: int) -> Response:
        response = self.upstream.asked[-1].answer(code, *fields, length=length)
        self.responses.append(response)
        return response

    def _after_url(self) -> None:
        if self.upstream.asked and not self.upstream.asked[-1].cancelled:
            response = self._respond(200, *STRONG, length=10)
            if response.body is not None and not response.closed:
                response.data(b"01234")
                self.relays.tick(self.clock.seconds())
                if not response.closed:
                    response.data(b"56789")
                    response.end()

    def _after_broken_url(self) -> None:
        response = self._respond(200, *STRONG, length=10)
        response.data(b"01234")
        response.end(whole=False)
        asked = len(self.upstream.asked)
        self.clock.advance(1.0)
        if len(self.upstream.asked) > asked:
            fields = (("ETag", '"v1"'), ("Content-Range", "bytes 5-9/10"))
            rest = self._respond(206, *fields, length=5)
            if rest.body is not None and not rest.closed:
                rest.data(b"56789")
                rest.end()

    def _after_parked(self) -> None:
        self.engine.turn()
        self.tickets[-1].answer(200, [("Content-Type", "text/plain")], b"news")

    # -- checks

    @contextmanager
    def failing(self, step: Step, make: Callable[[], Exception]) -> Iterator[list[int]]:
        """Have a step raise; how often it did."""
        raised = [0]

        def fail(*arguments: Any, **options: Any) -> Any:
            raised[0] += 1
            raise make()

        was = step.where.__dict__[step.name]
        setattr(step.where, step.name, staticmethod(fail) if isinstance(was, staticmethod) else fail)
        try:
            yield raised
        finally:
            setattr(step.where, step.name, was)

    def check(self, step: Step, make: Callable[[], Exception]) -> None:
        """Let a step fail once, and then ask once more."""
        about = f"{step}: {make()!r}"
        with self.failing(step, make) as raised, capturedLogs() as events:
            data = self.ask_for(step.request)
        self.assertGreater(raised[0], 0, f"{about}: the step is not on the way")
        answers = parse_answers(data)
        if step.seen == "nothing":
            self.assertEqual((data, self.eof), (b"", True), about)
        elif step.seen == "whole":
            self.assertEqual([(answer.status, answer.whole) for answer in answers], [(200, True)], about)
        elif step.seen == "500":
            self.assertEqual([answer.status for answer in answers], [500], about)
        elif step.seen == "cut":
            self.assertTrue(self.eof, about)
            self.assertEqual([(answer.status, answer.whole) for answer in answers], [(200, False)], about)
        if step.where not in (FileSender, SendingHalf):  # an OSError there may be the client's
            said = [f"{formatEvent(event)} {event.get('log_failure')}" for event in events]
            self.assertTrue(any("injected" in line for line in said), about)
        self.flushLoggedErrors()
        self.nothing_left()
        for response in self.responses:
            self.assertIsNotNone(response.body, f"{about}: an upstream's connection waits for ever")
        if step.request != "forgotten" and not step.request.startswith("failing"):
            (answer,) = parse_answers(self.ask_for(step.request))
            self.assertEqual((answer.status, answer.whole), (200, True), f"after {about}")
            self.nothing_left()


def _add_tests() -> None:
    for number, step in enumerate(STEPS):
        for make in ERRORS:

            def test(self: StepTests, step: Step = step, make: Callable[[], Exception] = make) -> None:
                self.check(step, make)

            name = "".join(letter if letter.isalnum() else "_" for letter in str(step)).strip("_")
            test.__name__ = f"test_{number:02}_{name}_raises_{type(make()).__name__}"
            test.__doc__ = f"{step} raises."
            setattr(StepTests, test.__name__, test)


_add_tests()
