"""Five kinds of clients that use a server at once, in a process of their own, until they are told to stop.

One kind of client proves little: the request that gets lost at a stop is the one that sat in the accept
queue, or came on a kept-alive connection just when the server gave up waiting, or was half uploaded, or was
an answer still in a socket's buffer.  So there are clients of each kind:

======== ===========================================================================================
new      one connection for each request
kept     keeps its connection, and sends a request up to 20 ms after it looked whether that is open
slow     requests that take the application a second
upload   sends its body in pieces over one to two seconds, and checks what arrived
download reads a body larger than all socket buffers in small pieces, and checks it
======== ===========================================================================================

This module is both sides: `Load` starts the process and talks to it, `main` is the process.  A process of
its own, since the clients' timing must not depend on what the test does meanwhile.  They speak in lines:
`mark` is answered by `marked` when every client has begun another request since, and `stop` by a JSON
report when every client has ended the request it was in.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from tests.support.clients import Answer, Connection, Failure, Outcome, request

KINDS = {"new": 4, "kept": 8, "slow": 4, "upload": 4, "download": 2}
"""How many clients there are of each kind."""

DOWNLOAD_SIZE = 8 * 1024 * 1024
DOWNLOAD_BUFFER = 64 * 1024
PATTERN = bytes(range(256)) * 256
PAUSE_AFTER_REFUSAL = 0.01
MARK_LIMIT = 30.0


@define
class Client:
    """One client: a thread, and what it has seen.

    :ivar begun: how many requests it has begun; written by its thread only.
    :ivar counts: how its requests ended, the same.
    :ivar failures: what was neither `ok` nor `refused`, with the moment and the reason, the same.
    :ivar refusals: from when to when each refused connection was tried, the same.
    """

    kind: str
    port: int
    stopping: threading.Event
    begun: int = 0
    counts: Counter[Outcome] = field(factory=Counter)
    failures: list[dict[str, Any]] = field(factory=list)
    refusals: list[tuple[float, float]] = field(factory=list)

    def run(self) -> None:
        """Make one request after the other until told to stop."""
        turn = TURNS[self.kind](self)
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                turn()
                self.counts["ok"] += 1
            except Failure as failure:
                self.counts[failure.outcome] += 1
                if failure.outcome == "refused":
                    self.refusals.append((started, time.monotonic()))
                    time.sleep(PAUSE_AFTER_REFUSAL)
                else:
                    self.failures.append({"kind": self.kind, "at": time.monotonic(), "why": str(failure)})

    def connect(self, *, receive_buffer: int | None = None) -> Connection:
        """Open a connection."""
        return Connection(self.port, receive_buffer=receive_buffer)

    def begin(self, connection: Connection, data: bytes) -> None:
        """Send the first bytes of a request."""
        connection.send(data)
        self.begun += 1


def expect(answer: Answer, body: bytes | None) -> None:
    """Check an answer's status and, unless it was consumed, its body."""
    if answer.status != 200:
        raise Failure("bad", f"{answer.status} {answer.reason}: {answer.body[:80]!r}")
    if body is not None and answer.body != body:
        raise Failure("bad", f"body {answer.body[:80]!r} instead of {body[:80]!r}")


def new(client: Client) -> Callable[[], None]:
    """Return the turn of a client that takes a new connection for each request."""

    def turn() -> None:
        time.sleep(random.uniform(0, 0.070))  # 100 times in a second, all four: several tests share the processors
        with client.connect() as connection:
            word = random.randbytes(8).hex()
            client.begin(connection, request(f"/echo?{word}", "Connection: close"))
            expect(connection.answer(), word.encode())
            connection.end()

    return turn


def kept(client: Client) -> Callable[[], None]:
    """Return the turn of a client that keeps its connection, and is idle for a moment between its requests."""
    keeper = Keeper(client)

    def turn() -> None:
        time.sleep(random.uniform(0, 0.120))
        connection = keeper.choose()
        time.sleep(random.uniform(0, 0.020))
        word = random.randbytes(8).hex()
        keeper.ask(connection, f"/echo?{word}", word.encode())

    return turn


def slow(client: Client) -> Callable[[], None]:
    """Return the turn of a client whose requests take a second, on a connection that it keeps."""
    keeper = Keeper(client)

    def turn() -> None:
        keeper.ask(keeper.choose(), "/sleep?seconds=1", b"slept")

    return turn


class Keeper:
    """Keeps one connection open for as long as the server allows it.

    One only: a client that waits for a new connection while it has others lets these become idle for longer
    than a server that stops will wait for them.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: Connection | None = None

    def choose(self) -> Connection:
        """Return the kept connection, or a new one if there is none, or the server has closed it."""
        connection, self._kept = self._kept, None
        if connection is not None:
            if not connection.closed_while_idle():
                return connection
            connection.close()
        return self._client.connect()

    def ask(self, connection: Connection, target: str, body: bytes) -> None:
        """Make one request, and keep the connection if the answer allows it."""
        try:
            self._client.begin(connection, request(target))
            answer = connection.answer()
            expect(answer, body)
            if answer.says_close:
                connection.end()
        except BaseException:
            connection.close()
            raise
        if not answer.says_close:
            self._kept = connection


def upload(client: Client) -> Callable[[], None]:
    """Return the turn of a client that sends a body in twenty pieces over one to two seconds."""

    def turn() -> None:
        pieces = [random.randbytes(random.randint(1, 20_000)) for _ in range(20)]
        size, digest = sum(map(len, pieces)), hashlib.sha256(b"".join(pieces)).hexdigest()
        pause = random.uniform(1, 2) / len(pieces)
        with client.connect() as connection:
            head = request("/upload", f"Content-Length: {size}", "Connection: close", method="POST")
            client.begin(connection, head + pieces[0])
            for piece in pieces[1:]:
                time.sleep(pause)
                connection.send(piece)
            expect(connection.answer(), f"{size} {digest}".encode())
            connection.end()

    return turn


def download(client: Client) -> Callable[[], None]:
    """Return the turn of a client that reads a large body slowly."""
    expected = hashlib.sha256()
    for _ in range(DOWNLOAD_SIZE // len(PATTERN)):
        expected.update(PATTERN)

    def turn() -> None:
        digest = hashlib.sha256()

        def consume(piece: bytes) -> None:
            digest.update(piece)
            time.sleep(0.012)

        with client.connect(receive_buffer=DOWNLOAD_BUFFER) as connection:
            client.begin(connection, request(f"/big?bytes={DOWNLOAD_SIZE}", "Connection: close"))
            expect(connection.answer(consume=consume), None)
            connection.end()
        if digest.digest() != expected.digest():
            raise Failure("bad", "the download's bytes are not those of the file")

    return turn


TURNS = {"new": new, "kept": kept, "slow": slow, "upload": upload, "download": download}


def main(port: int) -> None:
    """Run the clients, obeying standard input."""
    stopping = threading.Event()
    clients = [Client(kind, port, stopping) for kind, number in KINDS.items() for _ in range(number)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    for line in sys.stdin:
        if line == "stop\n":
            break
        if line == "count\n":
            print(sum(client.counts["ok"] for client in clients), flush=True)
            continue
        before = [client.begun for client in clients]
        limit = time.monotonic() + MARK_LIMIT
        while waiting := [c.kind for c, begun in zip(clients, before, strict=True) if c.begun == begun]:
            if time.monotonic() > limit:
                break
            time.sleep(0.01)
        print(f"still waiting: {waiting}" if waiting else "marked", flush=True)
    stopping.set()
    for thread in threads:
        thread.join()
    counts: dict[str, Counter[Outcome]] = {kind: Counter() for kind in KINDS}
    for client in clients:
        counts[client.kind].update(client.counts)
    failures = [failure for client in clients for failure in client.failures]
    refusals = [moment for client in clients for moment in client.refusals]
    print(json.dumps({"counts": counts, "failures": failures, "refusals": sorted(refusals)}), flush=True)


@frozen
class Report:
    """How the requests of all clients ended.

    :ivar counts: for each kind of client, how many requests ended in which way.
    :ivar failures: what was neither `ok` nor `refused`.
    :ivar refusals: from when to when each refused connection was tried (`time.monotonic`).
    """

    counts: dict[str, dict[Outcome, int]]
    failures: list[dict[str, Any]]
    refusals: list[tuple[float, float]]

    def refused_outside(self, closed: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        """Return the refusals that fall in none of the given spans."""
        return [
            (tried, refused)
            for tried, refused in self.refusals
            if not any(tried <= end and refused >= start for start, end in closed)
        ]

    def check(self, closed: Sequence[tuple[float, float]] = ()) -> None:
        """Assert that nothing was lost.

        :param closed: the spans of time in which nobody was listening, when a refusal is right.
        """
        assert not self.failures, f"{self.failures[:20]} in {self.counts}"
        outside = self.refused_outside(closed)
        assert not outside, f"refused while somebody listened: {outside}, nobody listened {closed}"
        silent = [kind for kind, counts in self.counts.items() if not counts.get("ok")]
        assert not silent, f"no answer at all for {silent}"


class Load:
    """The process with the clients, from the side of the test.

    :param port: where they connect to.
    """

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.load", str(port)],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *ignored: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def mark(self) -> None:
        """Wait until every client is in a request that it began after this moment."""
        self._say("mark")
        answer = self._hear()
        assert answer == "marked", answer

    def count(self) -> int:
        """How many requests were answered so far."""
        self._say("count")
        return int(self._hear())

    def stop(self) -> Report:
        """Let every client end its request, and return how all of them went."""
        self._say("stop")
        return Report(**json.loads(self._hear()))

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        """Return the next line; the clients' own timeouts bound the wait."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the load process ended with {self._process.wait()}"
        return line.strip()


if __name__ == "__main__":
    main(int(sys.argv[1]))
