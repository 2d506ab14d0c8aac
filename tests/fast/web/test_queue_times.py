"""How long requests wait, what proxies say of it, and that one is refused that has waited for too long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

import graceful.web.queue_times
from graceful.config.settings import Settings
from graceful.web.exchange import Exchange
from graceful.web.queue_times import LONGEST, QueueTimes, start_of

NOW = 1_795_442_160.0


class StartTests(SynchronousTestCase):
    """X-Request-Start has no standard, and several forms."""

    def test_reads_the_forms_of_proxies(self) -> None:
        """nginx's seconds, HAProxy's microseconds, also without leading zeros, and Heroku's milliseconds are read."""
        for text, seconds in (
            (b"t=1795442160.123", NOW + 0.123),
            (b"1795442160", NOW),
            (b"t=1795442160123456", NOW + 0.123456),
            (b"t=17954421601234", NOW + 0.001234),
            (b"1795442160123", NOW + 0.123),
            (b"t=1795442160123456789", NOW + 0.123456789),
        ):
            self.assertAlmostEqual(start_of(text) or 0.0, seconds, 6, str(text))

    def test_takes_nothing_else_for_a_time(self) -> None:
        """What is no time is ignored."""
        for text in (b"", b"t=", b"now", b"-1795442160", b"179544216", b"1795442160.", b"1795442160, 1", b"9" * 30):
            self.assertIs(start_of(text), None, str(text))


class QueueTimesTests(SynchronousTestCase):
    """One exchange waits for a thread."""

    def setUp(self) -> None:
        """Have an exchange of a trusted proxy."""
        self.now = 100.0
        self.patch(graceful.web.queue_times, "monotonic", lambda: self.now)
        self.counted: list[tuple[float, float | None]] = []
        self.answered: list[int] = []
        site = SimpleNamespace(answer=lambda exchange, status: self.answered.append(status))
        self.token = SimpleNamespace(current=None, closed=False)
        connection: Any = SimpleNamespace(trusted=True, site=site, write_token=self.token, peer="", scheme="http")
        self.exchange = self.token.current = Exchange(connection)
        self.exchange.started, self.exchange.id = 100.0, 1
        self.times = self.measure(None)

    def measure(self, max_wait: float | None) -> QueueTimes:
        """Returns what measures."""
        return QueueTimes(max_wait, lambda: NOW, lambda waited, before: self.counted.append((waited, before)))

    def wait(self, times: QueueTimes, seconds: float, *starts: bytes) -> list[Exchange]:
        """Have the exchange wait, with what a proxy says.  Returns what was run."""
        ran: list[Exchange] = []
        handled: list[Exchange] = []
        self.exchange.headers = [(b"x-request-START", start) for start in starts]
        times.before(handled.append)(self.exchange)
        self.assertEqual(handled, [self.exchange])
        self.now += seconds
        times.runs(ran.append)(self.exchange)
        return ran

    def test_measures_from_its_turn_until_a_thread_has_it(self) -> None:
        """The time in the queue is counted, and known to the log."""
        self.assertEqual(self.wait(self.times, 2.0), [self.exchange])
        self.assertEqual((self.counted, self.exchange.waited), ([(2.0, None)], 2.0))

    def test_adds_what_a_trusted_proxy_says(self) -> None:
        """What the last proxy says counts; the time in which the request itself came is none of it."""
        self.exchange.started = 99.5
        self.wait(self.times, 2.0, b"t=1795442000.0", b"t=1795442157.0")
        self.assertEqual(self.counted, [(2.0, 2.5)])

    def test_believes_only_trusted_proxies_and_sane_times(self) -> None:
        """A client's own word, a day and no time are ignored; a clock that is ahead counts as no time at all."""
        for trusted, start, before in (
            (False, b"t=1795442157.0", None),
            (True, b"t=%d" % (NOW - LONGEST - 1), None),
            (True, b"yesterday", None),
            (True, b"t=%d" % (NOW + 5), 0.0),
        ):
            self.setUp()
            self.token.current.connection.trusted = trusted
            self.wait(self.times, 2.0, start)
            self.assertEqual(self.counted, [(2.0, before)])

    def test_refuses_what_has_waited_for_too_long(self) -> None:
        """What has waited longer, here and in the proxy together, gets 503, and is not run."""
        times = self.measure(3.0)
        self.assertEqual(self.wait(times, 2.0, b"t=1795442158.5"), [])
        self.assertEqual((self.answered, self.counted), ([503], [(2.0, 1.5)]))

    def test_runs_what_has_not(self) -> None:
        """What has waited no longer is run, and so is one whose client has left: that ends it."""
        times = self.measure(3.0)
        self.assertEqual(self.wait(times, 3.0), [self.exchange])
        self.token.closed = True
        self.assertEqual(self.wait(times, 30.0), [self.exchange])
        self.assertEqual(self.answered, [])

    def test_finds_what_waits_too_long_in_the_queue(self) -> None:
        """An exchange that still waits is found when its time is over."""
        times = self.measure(3.0)
        self.assertFalse(times.too_long(self.exchange, 200.0))  # its turn has not come
        times.before(lambda exchange: None)(self.exchange)
        self.assertEqual([times.too_long(self.exchange, now) for now in (103.0, 103.1)], [False, True])

    def test_a_substitute_has_its_times(self) -> None:
        """An exchange that stands for another one has that one's times, as far as they are measured."""
        self.assertFalse(hasattr(self.exchange.substitute(), "waited"))
        self.wait(self.times, 2.0)
        self.assertEqual(self.exchange.substitute().waited, 2.0)

    def test_is_needed_only_if_its_times_are_used(self) -> None:
        """By default nothing is measured: only --max-wait, metrics, and a log that shows the times need it."""
        for settings, needed in (
            ({}, False),
            ({"access_log": "-"}, False),
            ({"access_log_format": "json"}, False),
            ({"access_log": "-", "access_log_format": "json"}, True),
            ({"access_log": "-", "access_log_format": "{status} {seconds}"}, False),
            ({"access_log": "-", "access_log_format": "{proxy_queue_seconds}"}, True),
            ({"status_listen": ("tcp:0:interface=127.0.0.1",)}, True),
            ({"max_wait": 3.0}, True),
        ):
            self.assertEqual(QueueTimes.needed(cast(Any, Settings)(**settings)) is not None, needed, str(settings))
