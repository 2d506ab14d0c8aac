"""How long a connection may do nothing: each situation to the tenth of a second, by a clock that stands still."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.interfaces import IReactorTime

from graceful.config.settings import ON_ITS_WAY
from graceful.web import timeouts
from graceful.web.body_spool import HIGH, MEMORY
from graceful.web.connection import Connection
from graceful.web.timeouts import FRESH_LEAST, LINGER, LINGER_LONGEST, PAST_KEEP_ALIVE, RESTS
from tests.fast.doubles import CLOSE, EXPECT, GET, Case, Client, Engine, get, parse_answers, post, virtual_time

KEEP_ALIVE = 75
HEADER = 20
SEND = 60
GRACE = 10
LONG = 100_000.0


class Timed(Case):
    """An engine in virtual time."""

    def setUp(self) -> None:
        """Start an engine at a moment that is not zero."""
        self.clock = virtual_time(self)
        self.start()

    def start(self, **settings: Any) -> None:
        """Start an engine with the times that these tests count with."""
        times = {"keep_alive": KEEP_ALIVE, "header_timeout": HEADER, "send_timeout": SEND, "idle_grace": GRACE}
        self.engine = Engine(self, **{**times, **settings})

    def sweep(self) -> None:
        """Look at all connections now."""
        self.engine.turn()
        self.engine.sweep(self.clock.seconds())
        self.engine.turn()

    def wait(self, seconds: float) -> None:
        """Let time go by, with a look at the connections once a second, as the server has it, and at the end."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            seconds -= 1.0
            self.sweep()

    def ends_after(self, client: Client, seconds: float) -> None:
        """Check that the server ends its side after so many seconds from now, and not before."""
        self.wait(seconds - 0.1)
        client.take()
        self.assertFalse(client.eof, "too early")
        self.clock.advance(0.2)
        self.sweep()
        client.take()
        self.assertTrue(client.eof, "too late")

    def drain(self, *, quiet: bool = False) -> None:
        """Begin to stop."""
        self.engine.site.draining = True
        self.engine.site.draining_since = self.clock.seconds()
        self.engine.site.quiet = quiet

    def idle(self) -> Client:
        """A client that has had an answer, just now."""
        client, exchange = self.ask()
        self.answer(exchange)
        client.take()
        return client


class RestingTests(Timed):
    """What an idle connection keeps."""

    def test_an_idle_connection_gives_back_what_its_next_request_makes_again(self) -> None:
        """After a moment of silence the parser and what was remembered are gone, and the next request is as any."""
        field = b"X-Unknown: %d\r\n\r\n"
        client, exchange = self.ask(GET[:-2] + field % 1)
        self.answer(exchange)
        connection = client.connection
        parser = connection.receiver.parser
        connection.memo = {}
        self.wait(RESTS)
        self.assertEqual((connection.memo, hasattr(parser, "_parser")), ({}, True))
        self.wait(1.0)
        self.assertEqual((connection.memo, hasattr(parser, "_parser")), (None, False))
        client.take()
        for data in (GET[:-2] + field % 2, post(100), GET[:-2] + field % 3):
            client.send(data[:10]).send(data[10:])
            self.answer(self.engine.asked[-1])
            self.assertEqual([answer.status for answer in parse_answers(client.take())], [200])

    def test_a_connection_in_use_keeps_all(self) -> None:
        """While a request is under way or being answered, nothing is given back."""
        client = self.engine.connect().send(GET[:10])
        parser = client.connection.receiver.parser
        self.wait(3.0)
        self.assertTrue(hasattr(parser, "_parser"))
        client.send(GET[10:])
        self.wait(3.0)
        self.assertTrue(hasattr(parser, "_parser"))
        self.answer(self.engine.asked[-1])
        self.assertEqual(len(self.bodies(client)), 1)


class FailingTests(Timed):
    """A connection whose look raises."""

    def test_it_is_closed_and_the_others_are_looked_at(self) -> None:
        """One fault does not keep the rest of the connections open for ever."""
        victim, other = self.idle(), self.idle()
        look = self.engine.sweep.look

        def look_at(connection: Connection, now: float) -> None:
            if connection is victim.connection:
                raise ZeroDivisionError
            look(connection, now)

        self.patch(self.engine.sweep, "look", look_at)
        self.ends_after(other, KEEP_ALIVE + PAST_KEEP_ALIVE)
        self.assertTrue(victim.socket.closed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FreshTests(Timed):
    """Accepted, and not a byte has come."""

    def test_a_silent_fresh_connection_lives_as_long_as_a_head_may_take(self) -> None:
        """A connection on which nothing comes lives as long as a head may take."""
        self.ends_after(self.engine.connect(), HEADER)

    def test_empty_lines_do_not_prolong_a_fresh_connection(self) -> None:
        """Empty lines do not prolong it."""
        client = self.engine.connect()
        self.wait(HEADER - 1)
        client.send(b"\r\n\r\n")
        self.ends_after(client, 1)

    def test_request_in_the_last_moment(self) -> None:
        """What has come when its time is over is still a request."""
        client = self.engine.connect()
        self.clock.advance(HEADER + 1)
        client.end.send(GET)
        self.engine.sweep(self.clock.seconds())
        self.answer(self.engine.asked[0])
        self.assertEqual(self.bodies(client), [b"/"])

    def test_in_a_drain_a_fresh_connection_has_the_idle_grace(self) -> None:
        """In a drain it has the idle grace, counted from the drain's beginning or its own accept."""
        client = self.engine.connect()
        self.wait(7)
        self.drain()
        self.ends_after(client, GRACE)
        later = self.engine.connect()
        self.ends_after(later, GRACE)

    def test_drain_near_the_end(self) -> None:
        """A drain never prolongs its time."""
        client = self.engine.connect()
        self.wait(HEADER - 2)
        self.drain()
        self.ends_after(client, 2)

    def test_drain_without_grace(self) -> None:
        """However short the idle grace, a fresh connection has a second for its first request."""
        self.start(idle_grace=0)
        client = self.engine.connect()
        self.drain()
        self.ends_after(client, FRESH_LEAST)

    def test_with_quiet_clients_a_fresh_connection_has_one_second(self) -> None:
        """With quiet clients it has one second from its accept; an older one is closed at once."""
        old = self.engine.connect()
        self.wait(2)
        fresh = self.engine.connect()
        self.drain(quiet=True)
        self.sweep()
        old.take()
        fresh.take()
        self.assertEqual((old.eof, fresh.eof), (True, False))
        self.ends_after(fresh, FRESH_LEAST)


class IdleTests(Timed):
    """Between two exchanges."""

    def test_idle_is_kept_a_second_longer_than_is_set(self) -> None:
        """An idle connection is kept a second longer than is set, for a balancer with the same time."""
        self.ends_after(self.idle(), KEEP_ALIVE + PAST_KEEP_ALIVE)

    def test_counts_from_the_answer(self) -> None:
        """The time counts from the end of the last answer, also if that took long to make or to send."""
        for size, taken_late in ((10, 0), (100_000, 50)):
            client, exchange = self.ask(buffer=5000)
            self.wait(100)
            self.answer(exchange, body=b"x" * size)
            self.wait(taken_late)
            client.take()
            self.ends_after(client, KEEP_ALIVE + PAST_KEEP_ALIVE)

    def test_every_request_counts(self) -> None:
        """Each exchange begins the time anew."""
        client = self.idle()
        for number in range(3):
            self.wait(KEEP_ALIVE - 1)
            client.send(get(number))
            self.answer(self.engine.asked[-1])
            self.assertEqual(self.bodies(client), [b"/%d" % number])
        self.ends_after(client, KEEP_ALIVE + PAST_KEEP_ALIVE)

    def test_in_a_drain_an_idle_connection_has_the_idle_grace(self) -> None:
        """In a drain it has the idle grace for one last request."""
        client = self.idle()
        self.wait(10)
        self.drain()
        self.ends_after(client, GRACE)

    def test_drain_near_the_end(self) -> None:
        """A drain never prolongs its time."""
        client = self.idle()
        self.wait(KEEP_ALIVE - 1)
        self.drain()
        self.ends_after(client, 1 + PAST_KEEP_ALIVE)

    def test_drain_without_grace(self) -> None:
        """Without a grace it is closed at once."""
        self.start(idle_grace=0)
        client = self.idle()
        self.wait(1)
        self.drain()
        self.clock.advance(0.01)
        self.sweep()
        client.take()
        self.assertTrue(client.eof)

    def announced(self, client: Client) -> int:
        """Have a client send a request; how long the answer says that it may use the connection."""
        client.send(GET)
        self.answer(self.engine.asked[-1])
        (answer,) = parse_answers(client.take())
        return int(answer.fields.get("keep-alive", "timeout=0").removeprefix("timeout="))

    def test_nothing_is_closed_within_the_announced_time(self) -> None:
        """In a drain too, the announced time is over before it is closed, and a request has time to come."""
        for times in (
            {},
            {"keep_alive": 2},
            {"idle_grace": 7.5},
            {"idle_grace": ON_ITS_WAY},
            {"keep_alive": 30, "idle_grace": 100},
        ):
            for drains in (False, True):
                self.start(**times)
                client = self.engine.connect()
                announced = self.announced(client)
                if drains:
                    self.drain()
                self.wait(announced + ON_ITS_WAY - 0.1)
                client.take()
                self.assertFalse(client.eof, (times, drains))

    def test_what_is_announced(self) -> None:
        """Clients are told what a drain keeps to, and the shorter of the two times, if it is a second at least."""
        for grace, keep_alive, announced in ((10, 75, 5), (10, 2, 2), (7.9, 75, 2), (5.9, 75, 0), (0, 75, 0)):
            self.start(idle_grace=grace, keep_alive=keep_alive)
            self.assertEqual(self.announced(self.engine.connect()), announced)

    def test_an_answer_that_is_taken_late_counts_from_then(self) -> None:
        """In a drain the grace counts from the moment at which the client has all of its answer."""
        client, exchange = self.ask()
        self.answer(exchange, body=b"x" * 20_000)
        self.drain()
        self.wait(GRACE - 1)
        self.assertTrue(client.connection.unsent())
        client.take()
        self.sweep()  # this one sees it
        self.ends_after(client, GRACE)

    def test_a_client_that_takes_nothing_is_not_waited_for(self) -> None:
        """In a drain a client that does not take what the kernel holds for it has the grace, and no more."""
        client, exchange = self.ask()
        self.answer(exchange, body=b"x" * 20_000)
        self.drain()
        self.wait(GRACE + 2)
        client.take()
        self.assertTrue(client.eof)

    def test_last_request_in_a_drain(self) -> None:
        """A request that comes within the grace is answered, as the last one."""
        client = self.idle()
        self.drain()
        self.wait(GRACE - 1)
        client.send(GET)
        self.answer(self.engine.asked[-1])
        (answer,) = parse_answers(client.take())
        self.assertEqual((answer.fields["connection"], client.eof), ("close", True))

    def test_with_quiet_clients_an_idle_connection_is_closed_at_once(self) -> None:
        """With quiet clients an idle connection is closed at once."""
        client = self.idle()
        self.wait(1)
        self.drain(quiet=True)
        self.sweep()
        client.take()
        self.assertTrue(client.eof)


class ReceivingTests(Timed):
    """A request has begun and is not complete."""

    def refused(self, client: Client) -> None:
        """Check that the client is told 408, and that the connection ends."""
        (answer,) = (answer for answer in parse_answers(client.take()) if answer.status >= 200)
        self.assertEqual((answer.status, answer.fields["connection"], client.eof), (408, "close", True))

    def test_a_head_has_one_limit_in_all(self) -> None:
        """A head has one limit in all, however it trickles."""
        client = self.engine.connect()
        for _ in range(HEADER - 1):
            client.send(b"G" if not self.engine.in_flight else b"E")
            self.wait(1)
        self.assertEqual(client.take(), b"")
        self.wait(1.1)
        self.refused(client)

    def test_head_counts_from_its_first_byte(self) -> None:
        """The limit counts from its first byte, not from the accept or the last answer."""
        client = self.idle()
        self.wait(50)
        client.send(b"GET")
        self.wait(HEADER - 0.1)
        self.assertEqual(client.take(), b"")
        self.wait(0.2)
        self.refused(client)

    def test_a_body_may_take_any_time_but_not_pause_for_too_long(self) -> None:
        """A body may take any time, but not pause for too long."""
        client = self.engine.connect()
        data = post(1000)
        client.send(data[:-100])
        for at in range(5):
            self.wait(SEND - 1)
            client.send(b"u")
            self.assertEqual(client.take(), b"", at)
        self.wait(SEND - 0.1)
        self.assertEqual(client.take(), b"")
        self.wait(0.2)
        self.refused(client)

    def test_a_client_that_waits_for_the_disk_is_not_refused(self) -> None:
        """A client that we keep waiting, since our disk is behind, is not refused for it, nor when it may go on."""
        client = self.engine.connect()
        data = post(4 * HIGH)
        while client.connection.reading:
            data = data[client.end.send(data) :]
            self.engine.turn()
        self.wait(10 * SEND)
        self.assertEqual(client.take(), b"")
        self.engine.disk.work()
        self.engine.reactor.run()
        self.engine.sweep(self.clock.seconds())
        self.engine.turn()
        client.send(data[:1000])
        self.assertEqual(client.take(), b"")

    def test_on_its_way_to_the_disk(self) -> None:
        """A body that is complete but not yet written does not make a connection idle."""
        client = self.engine.connect()
        client.send(post(MEMORY + 10))
        self.wait(10 * KEEP_ALIVE)
        self.drain(quiet=True)
        self.wait(10)
        self.engine.settle()
        self.answer(self.engine.asked[0])
        self.assertEqual(self.bodies(client), [b"/upload"])

    def test_waiting_for_continue(self) -> None:
        """A client that waits for its 100 Continue while we answer another request is not refused for it."""
        client, exchange = self.ask(get(1) + EXPECT)
        self.wait(10 * SEND)
        self.answer(exchange)
        self.engine.sweep(self.clock.seconds())
        self.engine.turn()
        client.send(b"hello")
        self.answer(self.engine.asked[1])
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [200, 100, 200])

    def test_body_after_continue(self) -> None:
        """Told to continue, it has the usual time to do so."""
        client = self.engine.connect()
        client.send(EXPECT)
        self.wait(SEND + 0.1)
        self.refused(client)

    def test_behind_good_ones(self) -> None:
        """A request that is too late is refused behind the answers before it."""
        client, exchange = self.ask(get(1) + b"GET /2")
        self.wait(HEADER + 1)
        self.assertEqual(client.take(), b"")
        self.answer(exchange)
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [200, 408])

    def test_a_drain_changes_nothing_for_a_request_that_has_begun(self) -> None:
        """A drain changes nothing for a request that has begun."""
        client = self.engine.connect()
        client.send(b"GET")
        self.wait(1)
        self.drain(quiet=True)
        self.wait(HEADER - 1.1)
        self.assertEqual(client.take(), b"")
        self.wait(0.2)
        self.refused(client)


class OursTests(Timed):
    """What takes long on our side."""

    def test_an_exchange_may_wait_and_run_without_a_time_out(self) -> None:
        """An exchange may wait and run as long as it likes, in a drain, too."""
        client, exchange = self.ask()
        self.wait(1000)
        self.drain(quiet=True)
        self.wait(1000)
        self.answer(exchange)
        self.assertEqual(self.bodies(client), [b"/"])

    def test_pauses_of_a_stream(self) -> None:
        """A streaming exchange may pause between its pieces as long as it likes."""
        client, exchange = self.ask()
        self.stream(exchange, b"one")
        self.wait(1000)
        exchange.write(b"two")
        self.wait(1000)
        self.end(exchange, b"three")
        self.assertEqual(self.bodies(client), [b"onetwothree"])

    def test_requests_behind_a_running_exchange_are_not_late(self) -> None:
        """Requests that wait behind it, also unread ones, are not late for it."""
        client = self.ask(b"".join(get(number) for number in range(50)))[0]
        self.wait(1000)
        done = 0
        while done < len(self.engine.asked):
            self.answer(self.engine.asked[done])
            self.sweep()
            done += 1
        self.assertEqual(len(self.bodies(client)), 50)


class SendingTests(Timed):
    """The client is slow to take what is left of an answer."""

    def test_slow_but_steady(self) -> None:
        """A client that takes something now and then may take as long as it likes, in a drain, too."""
        client, exchange = self.ask(buffer=5000)
        self.answer(exchange, body=b"x" * 200_000)
        self.drain(quiet=True)
        got = b""
        while client.connection.write_token.held:
            self.wait(SEND - 1)
            got += client.take(10_000)
        got += client.take()
        (answer,) = parse_answers(got)
        self.assertTrue(answer.whole)

    def test_a_client_that_takes_nothing_is_reset(self) -> None:
        """A client that takes nothing for too long is cut off by a reset, so that nothing looks whole."""
        for version in (b"1.0", b"1.1"):
            client, exchange = self.ask(GET.replace(b"1.1", version), buffer=5000)
            self.stream(exchange, b"x" * 200_000)
            self.wait(SEND - 1)
            self.assertFalse(client.socket.closed)
            self.wait(1.1)
            self.assertTrue(client.socket.closed and client.socket.reset)
            exchange.release()
        self.nothing_left()

    def test_counts_from_the_last_progress(self) -> None:
        """The time counts from when the client last took something, not from the request."""
        client, exchange = self.ask(buffer=5000)
        self.wait(10 * SEND)
        self.answer(exchange, body=b"x" * 200_000)
        self.wait(SEND - 1)
        self.assertFalse(client.socket.closed)
        client.take(50_000)
        self.wait(SEND - 1)
        self.assertFalse(client.socket.closed)
        self.wait(1.1)
        self.assertTrue(client.socket.closed)


class LingeringTests(Timed):
    """Everything is sent, and the client has yet to take it, or to close."""

    def lingering(self, size: int = 10, waits: float = 0) -> Client:
        """A client whose last answer is in the kernel."""
        client, exchange = self.ask(CLOSE)
        self.wait(waits)
        self.answer(exchange, body=b"x" * size)
        return client

    def closed_after(self, client: Client, seconds: float) -> None:
        """Check that the connection is closed after so many seconds, and not before."""
        self.wait(seconds - 0.1)
        self.assertFalse(client.socket.closed, "too early")
        self.wait(0.2)
        self.assertTrue(client.socket.closed, "too late")
        self.assertFalse(client.socket.reset)

    def test_a_silent_client_has_a_moment_to_close_after_its_answer(self) -> None:
        """A client that has everything and is silent has a moment to close, however long its answer was made."""
        for waits in (0, 10, 1000):
            client = self.lingering(waits=waits)
            client.take()
            self.closed_after(client, LINGER)
        self.nothing_left()

    def test_a_refused_client_has_a_moment_to_close(self) -> None:
        """A client that was refused for its silence has a moment to close."""
        client = self.engine.connect()
        client.send(b"GET")
        self.wait(HEADER + 1)
        self.assertEqual([answer.status for answer in parse_answers(client.take())], [408])
        self.closed_after(client, LINGER)

    def test_idle_too_long_lingers(self) -> None:
        """A client that was idle for too long has a moment to close."""
        client = self.idle()
        self.ends_after(client, KEEP_ALIVE + PAST_KEEP_ALIVE)
        self.closed_after(client, LINGER)

    def test_a_client_that_still_sends_is_read_for_longer(self) -> None:
        """One that still sends is read for longer, so as not to destroy its answer, but not for ever."""
        client = self.lingering()
        client.take()
        for _ in range(int(LINGER_LONGEST)):
            client.send(b"more")
            self.assertFalse(client.socket.closed)
            self.wait(1)
        self.wait(0.1)
        self.assertTrue(client.socket.closed)

    def test_has_not_taken_it(self) -> None:
        """What the client has yet to take is waited for as long as it takes something; so is it in a drain."""
        left = 0
        self.patch(Connection, "unsent", lambda connection: left)
        for drains in (False, True):
            self.start()
            left = 1000
            client = self.lingering()
            if drains:
                self.drain(quiet=True)
            for _ in range(10):
                self.wait(SEND - 1)
                self.assertEqual(len(self.engine.in_flight), 1)
                left -= 100
            self.assertFalse(client.socket.closed)
            self.wait(LINGER + 1)
            self.nothing_left()

    def test_a_lingering_client_that_takes_nothing_is_given_up(self) -> None:
        """One that takes nothing for too long is given up."""
        client = self.lingering()
        self.wait(1)
        self.closed_after(client, SEND)
        self.nothing_left()

    def test_a_connection_with_a_broken_socket_is_closed(self) -> None:
        """A connection whose socket is broken is closed like a silent one."""
        client = self.lingering()
        self.patch(client.connection, "fd", socket.socket().detach() + 1000)
        self.closed_after(client, LINGER)


class SweepTests(Timed):
    """The look at all connections."""

    def test_connections_that_close_during_a_sweep_do_no_harm(self) -> None:
        """Connections that go while others are looked at do no harm."""
        clients = [self.engine.connect() for _ in range(5)]
        self.clock.advance(LONG)
        for client in clients:
            client.end.close()
        self.engine.sweep(self.clock.seconds())
        self.nothing_left()


class PortionTests(Timed):
    """A look at very many connections."""

    def setUp(self) -> None:
        """Look at two of five connections at a time."""
        super().setUp()
        self.patch(timeouts, "PORTION", 2)
        self.clients = [Client(self.engine) for _ in range(5)]
        self.turns: list[Callable[[], None]] = []  # not a Clock, which makes calls at once that others have asked for
        clock = SimpleNamespace(callLater=lambda delay, function: self.turns.append(function))
        self.look = timeouts.Sweep(self.engine.site, cast(IReactorTime, clock))
        self.looked: list[Connection] = []
        self.patch(self.look, "look", lambda connection, now: self.looked.append(connection))

    def test_all_are_looked_at_a_portion_at_a_time(self) -> None:
        """Each connection that is open when its turn comes is looked at once."""
        self.look(self.clock.seconds())
        self.assertEqual(len(self.looked), 2)
        left = [client.connection for client in self.clients if client.connection not in self.looked]
        left[0].close()
        while self.turns:
            self.turns.pop()()
        self.assertCountEqual(
            self.looked, [client.connection for client in self.clients if client.connection is not left[0]]
        )

    def test_no_other_look_begins_meanwhile(self) -> None:
        """It goes on in later turns of the reactor, and the next one begins when it is done."""
        self.look(self.clock.seconds())
        self.look(self.clock.seconds())
        self.assertEqual(len(self.looked), 2)
        self.turns.pop()()
        self.assertEqual(len(self.looked), 4)
        while self.turns:
            self.turns.pop()()
        self.assertEqual(len(set(self.looked)), 5)
        self.assertEqual(len(self.looked), 5)
        self.look(self.clock.seconds())
        self.assertEqual(len(self.looked), 7)

    def test_a_look_that_fails_in_a_later_portion_is_not_the_last_one(self) -> None:
        """The next one begins in its time."""
        begun: list[float] = []

        def look_at_all(now: float) -> Iterator[None]:
            begun.append(now)
            yield
            raise ZeroDivisionError

        self.patch(self.look, "_look_at_all", look_at_all)
        self.look(self.clock.seconds())
        self.assertRaises(ZeroDivisionError, self.turns.pop())
        self.look(self.clock.seconds())
        self.assertEqual(len(begun), 2)
