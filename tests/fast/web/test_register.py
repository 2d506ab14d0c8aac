"""The one list of what is in flight."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from graceful.web.body_spool import MEMORY
from graceful.web.register import Register
from tests.fast.doubles import GET, Case, get, post


@define(eq=False)
class Connection:
    """A connection, as far as the register asks."""

    register: Register
    waiting: list[Deferred[None]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.register.connections.add(self)

    def when_gone(self) -> Deferred[None]:
        self.waiting.append(Deferred())
        return self.waiting[-1]

    def go(self) -> None:
        """Be closed."""
        self.register.connections.discard(self)
        for waiter in self.waiting:
            waiter.callback(None)


class ExchangeTests(SynchronousTestCase):
    """Exchanges in flight."""

    def test_each_exchange_gets_a_number_of_its_own(self) -> None:
        """Each gets a number of its own, in order, and is listed by it, oldest first."""
        register = Register()
        exchanges = [SimpleNamespace() for _ in range(3)]
        for exchange in exchanges:
            register.add(exchange)  # type: ignore[arg-type]
        self.assertEqual([exchange.id for exchange in exchanges], [1, 2, 3])
        self.assertEqual(register.in_flight(), exchanges)
        self.assertEqual((register.issued, register.finished), (3, 0))

    def test_an_exchange_that_is_not_in_flight_is_finished(self) -> None:
        """What is not in flight any more is finished."""
        register = Register()
        for _ in range(5):
            register.add(SimpleNamespace())  # type: ignore[arg-type]
        for number in (2, 4):
            del register.exchanges[number]
        self.assertEqual((register.finished, [exchange.id for exchange in register.in_flight()]), (2, [1, 3, 5]))


class AllGoneTests(SynchronousTestCase):
    """The wait for the last connection."""

    def setUp(self) -> None:
        """Make a register."""
        self.register = Register()

    def test_all_gone_fires_without_connections(self) -> None:
        """Without a connection there is nothing to wait for."""
        self.successResultOf(self.register.all_gone())

    def test_the_wait_ends_with_the_last_connection(self) -> None:
        """It is over with the last connection, in whatever order they go."""
        connections = [Connection(self.register) for _ in range(3)]
        gone = self.register.all_gone()
        for connection in (connections[1], connections[0]):
            connection.go()
            self.assertNoResult(gone)
        connections[2].go()
        self.successResultOf(gone)

    def test_connections_accepted_during_the_wait_are_waited_for(self) -> None:
        """A connection that is accepted while others are waited for is waited for, too."""
        first = Connection(self.register)
        gone = self.register.all_gone()
        second = Connection(self.register)
        first.go()
        self.assertNoResult(gone)
        third = Connection(self.register)
        second.go()
        self.assertNoResult(gone)
        third.go()
        self.successResultOf(gone)

    def test_gone_before_they_were_asked(self) -> None:
        """One that goes before the first ones are through does no harm."""
        first = Connection(self.register)
        gone = self.register.all_gone()
        Connection(self.register).go()
        first.go()
        self.successResultOf(gone)

    def test_any_number_of_waits_end(self) -> None:
        """Any number of waits end."""
        connection = Connection(self.register)
        waits = [self.register.all_gone() for _ in range(2)]
        connection.go()
        for wait in waits:
            self.successResultOf(wait)


class LifeTests(Case):
    """How long an exchange of a real connection is listed."""

    def phases(self) -> list[str]:
        """What the register says of each exchange."""
        return [
            exchange.describe(exchange.started).split(": ")[1].split(" for ")[0] for exchange in self.engine.in_flight
        ]

    def test_from_the_first_byte(self) -> None:
        """It is listed from its first byte on, with its phase, its method and target as soon as they are known."""
        client = self.engine.connect()
        self.assertEqual(self.phases(), [])
        client.send(GET[:1])
        self.assertEqual(self.phases(), ["receiving"])
        client.send(GET[1:])
        self.assertEqual(self.phases(), ["queued"])
        (exchange,) = self.engine.in_flight
        self.assertEqual((exchange.method, exchange.target), ("GET", b"/"))

    def test_until_the_last_byte(self) -> None:
        """It is listed until its last byte is in the kernel, and its maker is through as well."""
        client, exchange = self.ask(buffer=5000)
        exchange.start("200 OK", [])
        exchange.finish(b"x" * 100_000)
        self.assertEqual(self.phases(), ["sending"])
        client.take()
        self.assertEqual(self.phases(), ["sending"])
        exchange.release()
        self.assertEqual(self.phases(), [])
        _, exchange = self.ask()
        exchange.start("200 OK", [])
        exchange.finish(b"x")
        self.assertEqual(self.phases(), ["sending"])
        exchange.release()
        self.assertEqual((self.phases(), self.engine.site.register.finished), ([], 2))

    def test_last_on_its_connection(self) -> None:
        """The last one lingers until the connection is closed, which may be when the client has taken it all."""
        client, exchange = self.ask(GET.replace(b"1.1", b"1.0"))
        self.answer(exchange)
        self.assertEqual(self.phases(), ["lingering"])
        client.close()
        self.assertEqual(self.phases(), [])

    def test_bytes_each_way(self) -> None:
        """It counts the bytes of its bodies."""
        exchange = self.ask(post(1000))[1]
        exchange.start("200 OK", [])
        exchange.write(b"x" * 300)
        self.assertEqual((exchange.received, exchange.sent), (1000, 300))

    def test_exchange_is_recorded_once(self) -> None:
        """However many see its end, it is finished and recorded once."""
        records: list[int] = []
        self.engine.site.record = lambda exchange: records.append(exchange.id)
        client, exchange = self.ask()
        self.answer(exchange)
        for _ in range(3):
            self.engine.site.finished(exchange)
            exchange.release()
        client.close()
        self.assertEqual(records, [exchange.id])

    def test_once_among_threads(self) -> None:
        """It is counted once if two threads see it at the same time."""
        for _ in range(50):
            records: list[int] = []
            self.engine.site.record = lambda exchange, records=records: records.append(exchange.id)
            exchange = self.ask()[1]
            barrier = threading.Barrier(2)

            def end(barrier: threading.Barrier = barrier, exchange: object = exchange) -> None:
                barrier.wait(5)
                self.engine.site.finished(exchange)  # type: ignore[arg-type]

            threads = [threading.Thread(target=end) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            self.assertEqual(len(records), 1)

    def test_body_is_let_go(self) -> None:
        """Its body is closed and let go of with it."""
        small, large = self.ask(post(10))[1], self.engine.connect()
        large.send(post(MEMORY + 10))
        self.engine.settle()
        for exchange in (small, self.engine.asked[-1]):
            self.answer(exchange)
            self.assertIs(exchange.body, None)
        self.assertTrue(self.engine.disk.files[0].closed)

    def test_the_wait_for_all_connections_ends_with_the_last_real_one(self) -> None:
        """The wait for all connections ends with the last real one."""
        first, _ = self.ask(get(1))
        gone = self.engine.site.register.all_gone()
        second, _ = self.ask(get(2))
        first.close()
        self.assertNoResult(gone)
        second.close()
        self.successResultOf(gone)
