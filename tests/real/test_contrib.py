"""Bridges to libraries: each waits no longer than its request has time, and says so when that is over."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
import psycopg_pool
import sqlalchemy
from psycopg.errors import QueryCanceled
from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.application.current import current
from graceful.application.deadlines import DeadlineExceeded
from graceful.contrib import psycopg as our_psycopg
from graceful.contrib import sqlalchemy as our_sqlalchemy
from graceful.threads.async_exc import Hook
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for

LEFT = 0.3


class FakeExchange:
    """An exchange with so much time left."""

    released = False
    method, shown_target = "GET", "/"

    def __init__(self, left: float | None) -> None:
        self.left = left

    def remaining(self) -> float | None:
        """What the test says."""
        return self.left


class ClientTests(SynchronousTestCase):
    """HTTP clients, and a server that takes connections and says nothing."""

    def setUp(self) -> None:
        """Start the server."""
        self.silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.silent.close)
        self.url = f"http://127.0.0.1:{self.silent.getsockname()[1]}/"
        self.exchange = FakeExchange(LEFT)
        token = current.set(self.exchange)  # type: ignore[arg-type]
        self.addCleanup(current.reset, token)

    def clients(self) -> Iterable[tuple[str, Callable[[float | None], object], type[Exception]]]:
        """Each client: how to ask with a time-out, and what it raises when that is over."""
        import httpx
        import requests
        import urllib3

        from graceful.contrib import httpx as our_httpx
        from graceful.contrib import requests as our_requests
        from graceful.contrib import urllib3 as our_urllib3

        with our_requests.Session() as session, our_httpx.Client() as client, our_urllib3.PoolManager() as pool:
            yield "requests", lambda timeout: session.get(self.url, timeout=timeout), requests.Timeout
            yield "httpx", lambda timeout: client.get(self.url, timeout=timeout), httpx.TimeoutException
            yield (
                "urllib3",
                lambda timeout: pool.request("GET", self.url, timeout=timeout, retries=False),
                urllib3.exceptions.TimeoutError,
            )

    def test_no_longer_than_is_left(self) -> None:
        """Without a time-out, or with a longer one, it waits until the time is over; that is DeadlineExceeded."""
        for name, ask, _ in self.clients():
            for timeout in (None, 1000):
                self.exchange.left = LEFT
                over = threading.Timer(LEFT / 2, setattr, [self.exchange, "left", 0])
                over.start()
                self.assertRaises(DeadlineExceeded, ask, timeout)
                over.join()
                self.assertEqual(self.exchange.left, 0, name)

    def test_a_shorter_time_out_stays_as_it_is(self) -> None:
        """A shorter time-out stays as it is, and what the library raises, too."""
        for _, ask, error in self.clients():
            self.exchange.left = 1000
            self.assertRaises(error, ask, 0.05)

    def test_no_call_begins_without_time_left(self) -> None:
        """With no time left it does not begin."""
        self.exchange.left = 0
        self.silent.close()
        for _, ask, _ in self.clients():
            self.assertRaises(DeadlineExceeded, ask, None)

    def test_without_a_limit_the_time_out_is_the_callers(self) -> None:
        """Without a limit, the time-out is one's own."""
        self.exchange.left = None
        for _, ask, error in self.clients():
            self.assertRaises(error, ask, 0.05)

    def test_an_answer_in_time_comes_through(self) -> None:
        """An answer that comes in time comes through."""
        body = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

        def serve() -> None:
            for _ in range(3):
                one, _ = self.silent.accept()
                with one:
                    one.recv(65536)
                    one.sendall(body)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.exchange.left = 1000
        for name, ask, _ in self.clients():
            answer: Any = ask(5)
            self.assertIn(b"ok", (getattr(answer, "content", b""), getattr(answer, "data", b"")), name)
        thread.join(5)


class RunningExchange:
    """An exchange whose time runs out.

    :ivar hooks: what its takedown would call.
    """

    released = False
    method, shown_target = "GET", "/"

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self.hooks: list[Hook] = []

    def remaining(self) -> float:
        """What is left of the time."""
        return max(0.0, self.until - time.monotonic())

    def on_takedown(self, function: Callable[[], object]) -> Hook:
        """As the real one."""
        return Hook(function, self.hooks)


@contextmanager
def exchange_of(seconds: float) -> Iterator[RunningExchange]:
    """Run the block for an exchange with so much time."""
    exchange = RunningExchange(seconds)
    token = current.set(exchange)  # type: ignore[arg-type]
    try:
        yield exchange
    finally:
        current.reset(token)


SLEEP = "select pg_sleep(1000)"


class DatabaseTests(SynchronousTestCase):
    """Connections that are used again, by one request after the other and by what is none."""

    postgres: ClassVar[Postgres]

    @classmethod
    def setUpClass(cls) -> None:
        """Start a PostgreSQL."""
        cls.postgres = Postgres().__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        """End it."""
        cls.postgres.__exit__(None, None, None)

    def pool(self, dsn: str = "", **options: Any) -> psycopg_pool.ConnectionPool[our_psycopg.Connection]:
        """A pool of one connection."""
        pool = psycopg_pool.ConnectionPool(
            f"{self.postgres.dsn} {dsn}",
            connection_class=our_psycopg.Connection,
            min_size=1,
            max_size=1,
            open=True,
            **options,
        )
        self.addCleanup(pool.close)
        return pool

    def engine(self, **options: Any) -> sqlalchemy.Engine:
        """An engine with one connection."""
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(self.postgres.dsn), pool_size=1, **options
        )
        our_sqlalchemy.obey(engine)
        self.addCleanup(engine.dispose)
        return engine

    @staticmethod
    def timeout_of(connection: psycopg.Connection[Any]) -> str:
        """The limit that is on a connection, which is not set or taken off by looking."""
        result = connection.pgconn.exec_(b"SHOW statement_timeout").get_value(0, 0)
        assert result is not None
        return result.decode()

    def users(self) -> Iterator[tuple[str, Callable[[str], object], Callable[[], str]]]:
        """Each kind of connection: its name, how to execute, and what limit is on it when it was given back."""
        for autocommit in (False, True):
            pool = self.pool(kwargs={"autocommit": autocommit})

            def execute(sql: str, pool: Any = pool) -> object:
                with pool.connection() as connection:
                    return connection.execute(sql)

            def left(pool: Any = pool) -> str:
                connection = pool.getconn()
                try:
                    return self.timeout_of(connection)
                finally:
                    pool.putconn(connection)

            yield f"psycopg, autocommit {autocommit}", execute, left
            engine = self.engine(**({"isolation_level": "AUTOCOMMIT"} if autocommit else {}))

            def execute_by(sql: str, engine: sqlalchemy.Engine = engine) -> object:
                with engine.connect() as connection:
                    return connection.execute(sqlalchemy.text(sql))

            def left_by(engine: sqlalchemy.Engine = engine) -> str:
                with engine.connect() as connection:
                    raw: Any = connection.connection.dbapi_connection
                    return self.timeout_of(raw)

            yield f"SQLAlchemy, autocommit {autocommit}", execute_by, left_by

    def test_time_that_runs_out_is_deadline_exceeded_on_every_use(self) -> None:
        """Time that runs out is DeadlineExceeded on the first use of a connection, and on each later one."""
        for name, execute, left in self.users():
            for seconds in (0.5, 0.6, 0.55, 0.3):
                with exchange_of(seconds) as exchange:
                    began = time.monotonic()
                    self.assertRaises(DeadlineExceeded, execute, SLEEP)
                    self.assertTrue(seconds - 0.01 < time.monotonic() - began < seconds + 2, name)
                    self.assertEqual(exchange.hooks, [], name)
                self.assertEqual(left(), "0", name)

    def test_a_limit_that_has_ended_a_statement_is_deadline_exceeded_though_time_was_added(self) -> None:
        """A statement that its limit has ended is DeadlineExceeded, though the exchange has got more time."""
        watcher = psycopg.connect(self.postgres.dsn, autocommit=True)
        self.addCleanup(watcher.close)

        def sleeps() -> bool:
            active = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'"
            row = watcher.execute(active).fetchone()
            return row is not None and row[0] == 1

        for name, execute, _ in self.users():
            with exchange_of(1.0) as exchange:

                def extend(exchange: Any = exchange) -> None:
                    wait_for(sleeps)  # with the limit that it was given before
                    exchange.until = time.monotonic() + 100

                extension = threading.Thread(target=extend)
                extension.start()
                self.assertRaises(DeadlineExceeded, execute, SLEEP)
                extension.join()
                self.assertGreater(exchange.remaining(), 10, name)

    def test_what_others_cancel_is_query_canceled(self) -> None:
        """A statement that is cancelled while there is time is what the library says."""
        with exchange_of(100):
            for name, execute, left in self.users():
                with self.assertRaises(Exception) as caught:
                    execute("set statement_timeout = 50; select pg_sleep(1000)")
                self.assertFalse(isinstance(caught.exception, DeadlineExceeded), name)
                self.assertEqual(left(), "0", name)

    def test_a_connection_is_given_back_without_a_limit_whatever_was_raised(self) -> None:
        """A connection that is given back has no limit, though its block has raised, the takedown included."""

        class Stop(BaseException):
            """As a takedown."""

        pool = self.pool(kwargs={"autocommit": True})
        for raised in (None, ValueError, Stop):
            with exchange_of(100):
                try:
                    with pool.connection() as connection:
                        connection.execute("select 1")
                        self.assertNotEqual(self.timeout_of(connection), "0")
                        if raised is not None:
                            raise raised
                except (ValueError, Stop):
                    pass
            connection = pool.getconn()
            self.assertEqual(self.timeout_of(connection), "0")
            pool.putconn(connection)

    def test_a_connection_that_cannot_be_relieved_is_replaced(self) -> None:
        """A limit that cannot be taken off ends its connection: nothing else gets it."""
        pool = self.pool(kwargs={"autocommit": True})
        with exchange_of(100), pool.connection() as connection:
            connection.execute("select 1")
            broken = connection
            self.patch(our_psycopg, "_command", lambda *ignored: False)
        self.assertTrue(broken.closed)
        with pool.connection() as connection:
            self.assertEqual(self.timeout_of(connection), "0")

    def test_a_limit_of_the_connections_own_stays_in_force_and_comes_back(self) -> None:
        """A shorter limit of one's own stays in force, and that is no DeadlineExceeded; a longer one comes back."""
        for autocommit in (False, True):
            options = {"kwargs": {"autocommit": autocommit}}
            pool = self.pool("options='-c statement_timeout=300'", **options)
            with exchange_of(100), pool.connection() as connection:
                self.assertRaises(QueryCanceled, connection.execute, SLEEP)
            pool = self.pool("options='-c statement_timeout=5min'", **options)
            with exchange_of(0.3):
                for _ in range(2):
                    with self.assertRaises(DeadlineExceeded), pool.connection() as connection:
                        connection.execute(SLEEP)
            with pool.connection() as connection:
                self.assertEqual(self.timeout_of(connection), "5min")

    def test_a_transaction_begins_as_the_connection_says(self) -> None:
        """The transaction that is begun with a limit has the level and the access that psycopg's would have."""

        def configure(connection: psycopg.Connection[Any]) -> None:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            connection.read_only = connection.deferrable = True

        pool = self.pool(configure=configure)
        with exchange_of(100), pool.connection() as connection:
            for setting, value in ("isolation", "serializable"), ("read_only", "on"), ("deferrable", "on"):
                self.assertEqual(connection.execute(f"show transaction_{setting}").fetchone(), (value,))
        with exchange_of(100), self.pool().connection() as connection:
            connection.execute("set transaction isolation level serializable")  # nothing was asked before it
            self.assertNotEqual(self.timeout_of(connection), "0")

    def test_each_transaction_of_an_autocommit_connection_has_its_limit(self) -> None:
        """Each transaction has a limit, also the second one, and again behind a rollback to a savepoint."""
        pool = self.pool(kwargs={"autocommit": True})
        with exchange_of(100), pool.connection() as connection:
            for _ in range(2):
                with connection.transaction():
                    connection.execute("select 1")
                    self.assertNotEqual(self.timeout_of(connection), "0")
                    with connection.transaction(force_rollback=True):
                        connection.execute("select 1")
                    connection.execute("select 1")
                    self.assertNotEqual(self.timeout_of(connection), "0")
                self.assertEqual(self.timeout_of(connection), "0")

    def test_every_way_to_ask_is_bounded(self) -> None:
        """Copies, streams and server-side cursors are bounded as other statements are."""

        def copy(connection: our_psycopg.Connection) -> object:
            with connection.cursor() as cursor, cursor.copy(f"copy ({SLEEP}) to stdout") as copied:
                return copied.read()

        def stream(connection: our_psycopg.Connection) -> object:
            return list(connection.cursor().stream(SLEEP))

        def fetch(connection: our_psycopg.Connection) -> object:
            with connection.cursor("name") as cursor:
                cursor.execute(SLEEP)
                return cursor.fetchone()

        def iterate(connection: our_psycopg.Connection) -> object:
            with connection.cursor("name") as cursor:
                cursor.execute(SLEEP)
                return list(cursor)

        pool = self.pool()
        for way in (copy, stream, fetch, iterate) * 2:
            with exchange_of(0.3), self.assertRaises(DeadlineExceeded), pool.connection() as connection:
                way(connection)
        with pool.connection() as connection, connection.cursor("name") as cursor:
            cursor.execute("select generate_series(1, 250)")
            self.assertEqual([row[0] for row in cursor], list(range(1, 251)))

    def test_the_pool_can_take_the_limit_off(self) -> None:
        """For connections that are got without a block, the pool takes the limit off."""
        pool = self.pool(kwargs={"autocommit": True}, reset=our_psycopg.unlimit)
        with exchange_of(100):
            connection = pool.getconn()
            connection.execute("select 1")
            pool.putconn(connection)
        connection = pool.getconn()
        self.assertEqual(self.timeout_of(connection), "0")
        pool.putconn(connection)


class ImportTests(SynchronousTestCase):
    """What is imported when."""

    def test_every_name_of_the_package_is_there(self) -> None:
        """Every name of the package is there, and functions are functions, whatever was imported before."""
        for name in graceful.__all__:
            self.assertIsNotNone(getattr(graceful, name))
        self.assertTrue(callable(graceful.remaining) and callable(graceful.check) and callable(graceful.draining))
