"""WebSockets of a Starlette application in a real server: what is said on them, and what wrong clients get."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.support.clients import get
from tests.support.command import status_of
from tests.support.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, close, code_of, frame
from tests.support.home import Home
from tests.support.server import Server, resident
from tests.support.waiting import wait_for
from tests.support.websocket import WebSocket

APPLICATION = "asgi_websockets:app"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(module_home: Home) -> Iterator[Server]:
    """A server for all tests that do not stop it."""
    options = ("--idle-grace", "0.5", "--access-log", "-", "--websocket-max-message", "1M", "--close-spread", "0.5")
    with Server(module_home, *options, "--deadline", "3", application=APPLICATION) as running:
        running.tracebacks = None
        yield running


def test_an_unchanged_client_and_application_talk(server: Server) -> None:
    """Subprotocol, text, bytes, a message in fragments, pings, and both close codes."""

    async def talk() -> None:
        url = f"ws://127.0.0.1:{server.port}/echo"
        async with connect(url, subprotocols=["chat", "other"]) as client:  # type: ignore[list-item]
            assert client.subprotocol == "chat"
            await client.send("ä€😀")
            assert await client.recv() == "ä€😀"
            await client.send(bytes(MIB))
            assert await client.recv() == bytes(MIB)

            async def pieces() -> Any:
                for piece in ("one ", "two ", "three"):
                    yield piece

            await client.send(pieces())
            assert await client.recv() == "one two three"
            await asyncio.wait_for(await client.ping(), 5)
            await client.close(4002, "enough")
            assert client.close_code == 4002
        with pytest.raises(InvalidStatus) as denied:
            await connect(f"ws://127.0.0.1:{server.port}/denied")
        assert (denied.value.response.status_code, denied.value.response.body) == (401, b"not you")
        with pytest.raises(InvalidStatus) as unknown:
            await connect(f"ws://127.0.0.1:{server.port}/nowhere")
        assert unknown.value.response.status_code == 403

    asyncio.run(talk())
    server.wait_line("echo ended: 4002 enough")
    server.wait_line(r'"GET /echo HTTP/1.1" 101 \d{7} ')


def test_compression_is_not_agreed_on(server: Server) -> None:
    """Unless it is asked for: it would cost each connection memory."""
    with WebSocket(server.port, b"/echo", b"Sec-WebSocket-Extensions: permessage-deflate") as client:
        assert b"extensions" not in client.head.lower()
        client.say("x")
        assert client.hear() == "x"
        assert client.close() == 1000


def test_messages_are_compressed_when_asked_for(home: Home) -> None:
    """With a client that offers it by itself; a message is too long when it is so inflated."""

    async def talk(port: int) -> None:
        async with connect(f"ws://127.0.0.1:{port}/echo") as client:
            assert [one.name for one in client.protocol.extensions] == ["permessage-deflate"]
            for message in ("ä€😀" * 100, bytes(MIB), "ä€😀" * 100):
                await client.send(message)
                assert await client.recv() == message
            await client.send(bytes(MIB + 1))
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert client.close_code == 1009

    options = ("--websocket-compression", "deflate", "--websocket-max-message", "1M", "--idle-grace", "0.2")
    with Server(home, *options, application=APPLICATION) as server:
        asyncio.run(talk(server.port))


def test_frames_that_come_with_the_request_are_not_lost(server: Server) -> None:
    """They are read as frames, once it is open."""
    with WebSocket(server.port, behind=frame(TEXT, b"early") + frame(PING, b"p")) as client:
        assert {(one.opcode, one.payload) for one in (client.next(), client.next())} == {
            (TEXT, b"early"),
            (PONG, b"p"),
        }
        assert client.close() == 1000


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(3), 1002),
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(TEXT, b"x", mask=False), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(PING, bytes(126)), 1002),
        (frame(CLOSE, b"x"), 1002),
        (close(1005), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"x"), 1007),
        (frame(BINARY, bytes(MIB))[:2] + struct.pack("!Q", MIB + 1), 1009),
        (frame(BINARY, bytes(MIB), fin=False) + frame(CONT, b"x"), 1009),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1002),
    ],
    # Masks are random, and names that contain them would differ between the processes that share the tests.
    ids=[
        *("opcode", "rsv", "no mask", "continuation of nothing", "long ping", "short close", "close code"),
        *("not UTF-8", "not UTF-8 in two frames", "too large", "too large in two frames", "a request"),
    ],
)
def test_a_malformed_frame_is_refused_and_harms_no_other(server: Server, data: bytes, code: int) -> None:
    """The client gets the code of its fault and an orderly end; another one notices nothing."""
    with WebSocket(server.port) as other, WebSocket(server.port) as client:
        client.send(data)
        assert client.end() == code
        other.say("still here")
        assert other.hear() == "still here"
        assert other.close() == 1000


def test_a_wrong_handshake_gets_an_answer_of_http(server: Server) -> None:
    """Another version gets 426, and no key 400; the connection is one of HTTP."""
    with WebSocket(server.port, b"/echo", b"Sec-WebSocket-Version: 8") as client:
        assert client.status == 426
        assert b"Sec-WebSocket-Version: 13" in client.head
    with WebSocket(server.port, b"/echo", b"Sec-WebSocket-Key: x") as client:
        assert client.status == 400


def test_an_application_that_fails_closes_with_1011_and_is_reported(server: Server) -> None:
    """The log has the traceback and the number of a report."""
    with WebSocket(server.port, b"/fails") as client:
        assert code_of(client.next()) == 1011
        client.send(close(1011))
        client.nothing_more()
    server.wait_line(r"GET /fails websocket.*: the application failed \(OOPS-")
    server.wait_line("ZeroDivisionError: in a WebSocket")


def test_a_websocket_is_in_the_status_with_its_bytes(server: Server) -> None:
    """With its phase and its age; it is no idle connection, and holds no thread."""
    with WebSocket(server.port) as client:
        client.say("x" * 1000)
        assert len(client.hear()) == 1000
        (shown,) = [one for one in status_of(server.home)["in_flight"] if one["phase"] == "websocket"]
        assert (shown["method"], shown["path"]) == ("GET", "/echo")
        assert shown["bytes_sent"] > 1000
        assert shown["age"] >= 0
        assert client.close() == 1000
    wait_for(lambda: server.in_flight("websocket") == 0)


def test_a_slow_reader_costs_bounded_memory(server: Server) -> None:
    """An application that sends as fast as it can waits for a client that reads nothing."""
    with WebSocket(server.port, b"/flood", receive_buffer=4096) as client:
        server.wait_line("flood sent 8")
        before = resident(server.pid)
        time.sleep(1.0)  # in which it would send hundreds of megabytes
        assert resident(server.pid) - before < 2 * MIB
        assert client.next().opcode == BINARY
    server.wait_line("flood ended")


def test_a_sender_that_ignores_back_pressure_is_made_to_wait(server: Server) -> None:
    """What an application does not take stays with the client, once the kernel has enough."""
    before = resident(server.pid)
    with WebSocket(server.port, b"/deaf") as client:
        client.socket.settimeout(1.0)
        message = frame(BINARY, bytes(65536))
        with pytest.raises(TimeoutError):
            for _ in range(64 * 16):  # 64 MiB: the kernel's buffers are smaller
                client.send(message)
        assert resident(server.pid) - before < 4 * MIB
    with WebSocket(server.port) as client:
        client.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            for _ in range(1 << 16):
                client.send(frame(PING, bytes(125)) * 64)
        assert resident(server.pid) - before < 6 * MIB
    assert get(server.port).body == b"1"


def test_a_silent_client_is_asked_for_a_sign_and_given_up(home: Home) -> None:
    """One that answers pings stays; one that does not is cut."""
    options = ("--websocket-ping-interval", "1", "--websocket-ping-timeout", "1", "--idle-grace", "0.5")
    with Server(home, *options, "--close-spread", "0.2", application=APPLICATION) as server:
        with WebSocket(server.port) as silent, WebSocket(server.port) as fine:
            for _ in range(3):
                found = fine.next()
                assert found.opcode == PING
                fine.send(frame(PONG, found.payload))
            assert silent.next().opcode == PING
            assert silent.end() == 1011
            fine.say("still here")
            while (found := fine.next()).opcode == PING:
                fine.send(frame(PONG, found.payload))
            assert found.payload == b"still here"
            fine.send(close())
        server.wait_line("its client does not answer pings, and is cut")


def test_a_client_that_vanishes_is_1006_for_the_application(server: Server) -> None:
    """By an end without a close frame, or a reset."""
    before = len(server.log)
    with WebSocket(server.port) as client:
        client.say("x")
        assert client.hear() == "x"
    with WebSocket(server.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.wait_line("echo ended: 1006", count=2, start=before)
    wait_for(lambda: server.in_flight("websocket") == 0)
