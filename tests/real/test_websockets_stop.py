"""WebSockets at a stop and at a deploy: 1012, one after the other, and back on new code."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.real.test_moving import ended, replaced_here
from tests.support.clients import Answer, Connection, request
from tests.support.command import graceful, status_of
from tests.support.frames import close, code_of
from tests.support.home import Home
from tests.support.server import Server
from tests.support.tls import Certificate, TLSConnection
from tests.support.waiting import wait_for
from tests.support.websocket import WebSocket

APPLICATION = "asgi_websockets:app"


def wait_told(client: WebSocket) -> float:
    """Answer the server's close; returns when it came, monotonic seconds."""
    assert code_of(client.next()) == 1012
    now = time.monotonic()
    client.send(close(1012))
    client.nothing_more()
    return now


def test_a_stop_closes_websockets_one_after_the_other(home: Home, stack: ExitStack) -> None:
    """All are told 1012 within the spread, evenly; then the server has drained, and nothing was taken down."""
    with Server(home, "--close-spread", "2", "--idle-grace", "0.2", application=APPLICATION) as server:
        clients = [stack.enter_context(WebSocket(server.port)) for _ in range(20)]
        began = server.terminate()
        told = sorted(wait_told(client) - began for client in clients)
        assert server.wait() == 0
        assert server.drained()[1:] == (0, 0)
    assert told[-1] < 4.0
    assert told[-1] - told[0] > 1.2
    assert sum(second < told[0] + 1.0 for second in told) in range(5, 16)


def test_an_application_that_closes_first_is_left_alone(home: Home, stack: ExitStack) -> None:
    """It learns of the stop before anything is closed, and its own code goes to the client."""
    with Server(home, "--close-spread", "30", "--idle-grace", "0.2", application=APPLICATION) as server:
        client = stack.enter_context(WebSocket(server.port, b"/leaves-first"))
        server.terminate()
        assert code_of(client.next()) == 4001
        client.send(close(4001))
        client.nothing_more()
        assert server.wait() == 0


def test_what_is_left_at_the_deadline_is_taken_down(home: Home, stack: ExitStack) -> None:
    """A client that does not close has its seconds; an application that goes on is cancelled, and reported."""
    options = ("--close-spread", "0.2", "--idle-grace", "0.2", "--deadline", "2")
    with Server(home, *options, application=APPLICATION) as server:
        client = stack.enter_context(WebSocket(server.port, b"/stubborn"))
        server.terminate()
        wait_told(client)
        assert server.wait() == 70
        assert server.drained()[1:] == (1, 0)
        server.wait_line("stubborn: cancelled")
        server.wait_line(r"taking down exchange \d+ GET /stubborn .*: (websocket|lingering) for ")


def test_a_client_is_back_on_new_code(home: Home, stack: ExitStack, deploy: str) -> None:
    """At a takeover and at SIGHUP its WebSocket ends with 1012, and the next one is the successor's."""
    options = ("--close-spread", "0.5", "--idle-grace", "0.5")
    with Server(home, *options, application=APPLICATION) as server:
        server.tracebacks = None
        client = stack.enter_context(WebSocket(server.port, b"/version"))
        old = int(client.hear().split()[1])
        assert old == server.pid
        if deploy == "takeover":
            successor = Server(
                home, "--takeover", *options, application=APPLICATION, port=server.port, wait_open=False
            )
            stack.enter_context(successor)
        new = replaced_here(server, home, deploy)
        wait_told(client)
        again = stack.enter_context(WebSocket(server.port, b"/version"))
        assert int(again.hear().split()[1]) == new
        again.send(close())
        assert code_of(again.next()) == 1000
        ended(server, new, deploy)


class Stream:
    """An event stream that is read in a thread.

    :param connection: it is the answer on this one.
    """

    def __init__(self, connection: Connection) -> None:
        self._first, self._data = threading.Event(), bytearray()
        self._answer: list[Answer] = []
        connection.send(request("/events"))
        self._thread = threading.Thread(target=lambda: self._answer.append(connection.answer(consume=self._take)))
        self._thread.start()

    def _take(self, piece: bytes) -> None:
        self._data += piece
        self._first.set()

    def process(self) -> int:
        """Returns the process that it comes from."""
        assert self._first.wait(20)
        return int(bytes(self._data).split()[1])

    def ended_itself(self) -> None:
        """Wait for its end, and see that it is whole."""
        self._thread.join(20)
        assert (len(self._answer), bytes(self._data).endswith(b"event: bye\n\n")) == (1, True), self._data


def test_over_tls_clients_are_back_on_new_code(home: Home, stack: ExitStack, deploy: str) -> None:
    """As without TLS: 1012, the last word of an event stream, TLS's goodbye, and the successor."""
    certificate = Certificate(home.path)
    trust, options = certificate.context(), ("--close-spread", "0.5", "--idle-grace", "0.5")
    with Server(home, *options, application=APPLICATION, listen=[certificate.own]) as server:
        server.tracebacks = None
        client = stack.enter_context(WebSocket(server.port, b"/version", trust=trust))
        assert int(client.hear().split()[1]) == server.pid
        stream = Stream(stack.enter_context(TLSConnection(server.port, trust)))
        assert stream.process() == server.pid
        if deploy == "takeover":
            listen = [certificate.own.replace("tls:0:", f"tls:{server.port}:")]
            successor = Server(home, "--takeover", *options, application=APPLICATION, listen=listen, wait_open=False)
            stack.enter_context(successor)
        new = replaced_here(server, home, deploy)
        stream.ended_itself()
        wait_told(client)
        again = stack.enter_context(WebSocket(server.port, b"/version", trust=trust))
        assert int(again.hear().split()[1]) == new
        assert again.close() == 1000
        ended(server, new, deploy)


def test_a_rolling_restart_of_workers_tells_their_clients(home: Home, stack: ExitStack) -> None:
    """Each worker's WebSockets get 1012 and its event streams end themselves; all are back on new workers."""
    options = ("--workers", "2", "--close-spread", "0.5", "--idle-grace", "0.5")
    with Server(home, *options, application=APPLICATION) as server:
        server.tracebacks = None
        clients = [stack.enter_context(WebSocket(server.port, b"/version")) for _ in range(8)]
        streams = [Stream(stack.enter_context(Connection(server.port))) for _ in range(4)]
        old = {int(client.hear().split()[1]) for client in clients} | {stream.process() for stream in streams}
        server.send_signal(signal.SIGHUP)
        with ThreadPoolExecutor(len(clients)) as threads:
            told = list(threads.map(wait_told, clients))
        assert len(told) == len(clients)
        for stream in streams:
            stream.ended_itself()
        again = stack.enter_context(WebSocket(server.port, b"/version"))
        assert int(again.hear().split()[1]) not in old
        assert again.close() == 1000


def test_one_that_is_taken_down_by_order_is_told_so(home: Home, stack: ExitStack) -> None:
    """`graceful takedown` closes one WebSocket with 1011, also that of a task which goes on; another one stays."""
    with Server(home, "--close-spread", "0.2", "--idle-grace", "0.2", application=APPLICATION) as server:
        other = stack.enter_context(WebSocket(server.port))
        client = stack.enter_context(WebSocket(server.port, b"/stubborn"))
        wait_for(lambda: server.in_flight("websocket") == 2)
        (number,) = [one["id"] for one in status_of(home)["in_flight"] if one["path"] == "/stubborn"]
        assert graceful(home, "takedown", str(number)).returncode == 0
        assert code_of(client.next()) == 1011
        client.nothing_more()
        server.wait_line("stubborn: cancelled")
        wait_for(lambda: server.in_flight("websocket") == 1)
        assert status_of(home)["taken_down"] == 1
        other.say("still here")
        assert other.hear() == "still here"


def test_a_websocket_that_blocks_the_loop_is_freed(home: Home, stack: ExitStack) -> None:
    """`graceful takedown` raises its exception in the code that blocks, and the other WebSockets go on."""
    with Server(home, "--close-spread", "0.2", "--idle-grace", "0.2", application=APPLICATION) as server:
        other = stack.enter_context(WebSocket(server.port))
        client = stack.enter_context(WebSocket(server.port, b"/blocks"))
        server.wait_line("blocks: now")
        (number,) = [one["id"] for one in status_of(home)["in_flight"] if one["path"] == "/blocks"]
        assert graceful(home, "takedown", str(number)).returncode == 0
        assert code_of(client.next()) == 1011
        other.say("still here")
        assert other.hear() == "still here"
        server.wait_line("its task has come down")


def test_a_hurried_stop_cuts_what_is_left(home: Home, stack: ExitStack) -> None:
    """SIGQUIT waits for no client."""
    with Server(home, "--close-spread", "30", "--idle-grace", "0.2", application=APPLICATION) as server:
        stack.enter_context(WebSocket(server.port))
        wait_for(lambda: server.in_flight("websocket") == 1)
        server.send_signal(signal.SIGQUIT)
        assert server.wait() == 70
        assert server.drained()[1:] == (1, 0)
