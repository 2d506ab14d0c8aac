"""How much time is left: limits by prefix, a drain that shortens them, and what an application asks."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import graceful
from graceful.application import hooks
from graceful.application.current import current
from graceful.application.deadlines import at_most
from graceful.config.values import Limit
from graceful.web.limits import Limits, margin
from tests.fast.doubles import Case, get, post, virtual_time
from tests.fast.wsgi.test_runner import AppCase


class LimitsTests(Case):
    """The table of limits."""

    def setUp(self) -> None:
        """Time stands still."""
        super().setUp()
        self.clock = virtual_time(self)

    def until(self, limits: Limits, target: bytes) -> float | None:
        """How long an exchange may run that begins now."""
        _, exchange = self.ask(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        until = limits.until(exchange)
        return None if until is None else until - self.clock.seconds()

    def test_no_limits_by_default(self) -> None:
        """Without limits there is none."""
        limits = Limits()
        self.assertIsNone(self.until(limits, b"/"))
        self.assertFalse(limits.any)

    def test_the_longest_prefix_counts(self) -> None:
        """The longest prefix counts, and of two that are the same the last."""
        limits = Limits([Limit(10), Limit(1, "/a"), Limit(99, "/a/b"), Limit(2, "/a/b")])
        found = [self.until(limits, target) for target in (b"/", b"/a", b"/a?b", b"/a/b/c")]
        self.assertEqual(found, [10, 1, 1, 2])
        self.assertTrue(limits.any)

    def test_a_limit_that_is_tried_out_does_not_count(self) -> None:
        """A limit that is tried out is not told to the application, and does not hide another one."""
        limits = Limits([Limit(10), Limit(1, "/a", report=True)])
        self.assertEqual(self.until(limits, b"/a"), 10)
        exchange = self.engine.in_flight[-1]
        now = self.clock.seconds()
        self.assertIsNone(limits.passed(exchange, now + 1))
        self.assertEqual(limits.passed(exchange, now + 1.25), Limit(1, "/a", True))
        self.assertEqual(limits.passed(exchange, now + 12.5), Limit(10))

    def test_passed_by_the_margin(self) -> None:
        """An exchange is only taken down a margin after it has no more time."""
        self.assertEqual([margin(seconds) for seconds in (0.2, 8, 20, 200)], [0.05, 2, 5, 5])
        limits = Limits([Limit(100)])
        self.until(limits, b"/")
        exchange = self.engine.in_flight[-1]
        self.assertIsNone(limits.passed(exchange, self.clock.seconds() + 104.9))
        self.assertEqual(limits.passed(exchange, self.clock.seconds() + 105), Limit(100))

    def test_the_time_of_the_body_is_not_the_applications(self) -> None:
        """The time that a client takes to send its body is not the application's."""
        client = self.engine.connect().send(post(5)[:-1])
        self.clock.advance(60)
        client.send(b"u")
        self.assertEqual((Limits([Limit(10)]).until(self.engine.asked[-1]) or 0) - self.clock.seconds(), 10)

    def test_a_drain_shortens_the_limit_to_its_deadline(self) -> None:
        """A drain leaves as much as its deadline, less a margin, and never more than there was."""
        end = self.clock.seconds() + 200
        limits = Limits([Limit(50, "/short")], deadline=200, takedown_at=lambda: end)
        self.assertEqual(self.until(limits, b"/"), 195)
        self.assertEqual(self.until(limits, b"/short"), 50)
        self.clock.advance(180)
        self.assertEqual(self.until(limits, b"/short"), 15)
        end += 100
        self.assertEqual(self.until(limits, b"/"), 115)

    def test_a_limit_is_shown_as_it_is_typed(self) -> None:
        """A limit is shown as it is typed."""
        limits = [Limit(1.5), Limit(10, "/a"), Limit(10, "/a", True)]
        self.assertEqual([str(limit) for limit in limits], ["1.5", "/a=10", "/a=10:report"])


class ApplicationTests(AppCase):
    """What an application asks."""

    def setUp(self) -> None:
        """Time stands still, and a limit is set."""
        super().setUp()
        self.clock = virtual_time(self)
        self.engine.site.limits = Limits([Limit(10)])

    def told(self, ask: Any, data: bytes = get(1)) -> Any:
        """What an application finds out."""
        found: list[Any] = []

        def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            found.append(ask(environ))
            start_response("204 No Content", [])
            return []

        self.serve(application, validate=False)
        self.get(data)
        return found[0] if found else None

    def test_the_remaining_time_is_never_negative(self) -> None:
        """What is left is the same for the code and in the environ, and never less than nothing."""
        self.assertEqual(self.told(lambda environ: graceful.remaining()), 10)
        self.assertEqual(self.told(lambda environ: environ["graceful.exchange"].remaining()), 10)

        def late(environ: Any) -> Any:
            self.clock.advance(60)
            return graceful.remaining()

        self.assertEqual(self.told(late), 0)

    def test_remaining_is_none_without_a_limit(self) -> None:
        """Without a limit, and outside of an exchange, it is None."""
        self.engine.site.limits = Limits()
        self.assertIsNone(self.told(lambda environ: graceful.remaining()))
        self.told(lambda environ: graceful.check())
        self.assertEqual((graceful.remaining(), graceful.check()), (None, None))

    def test_the_limit_follows_a_copied_context(self) -> None:
        """It follows into code that copies its context."""

        def ask(environ: Any) -> Any:
            found: list[Any] = []
            context = contextvars.copy_context()
            thread = threading.Thread(target=lambda: found.append(context.run(graceful.remaining)))
            thread.start()
            thread.join()
            return found[0]

        self.assertEqual(self.told(ask), 10)

    def test_check_raises_when_no_time_is_left(self) -> None:
        """To check does nothing as long as there is time; then it raises, and the client gets 503."""

        def ask(environ: Any) -> Any:
            graceful.check()
            self.clock.advance(10)
            graceful.check()

        self.serve(lambda environ, start_response: ask(environ), validate=False)
        answer = self.get()
        self.assertEqual((answer.status, answer.fields["retry-after"]), (503, "5"))
        self.assertRegex(answer.fields["x-oops-id"], "OOPS-[0-9a-f]{32}")
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_in_the_body(self) -> None:
        """In the middle of a body it cuts that."""

        def pieces() -> Iterable[bytes]:
            yield b"some"
            self.clock.advance(10)
            graceful.check()

        def application(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return pieces()

        self.serve(application, validate=False)
        self.assertFalse(self.get().whole)

    def test_a_time_out_is_never_longer_than_the_remaining_time(self) -> None:
        """A time-out of one's own is never longer than what is left."""

        def ask(environ: Any) -> Any:
            found = [at_most(None), at_most(99), at_most(3)]
            self.clock.advance(10)
            self.assertRaises(graceful.DeadlineExceeded, at_most, 3)
            return found

        self.assertEqual(self.told(ask), [10, 10, 3])
        self.assertEqual((at_most(None), at_most(3)), (None, 3))

    def test_draining_tells_whether_the_server_is_about_to_stop(self) -> None:
        """Whether the server is about to stop; outside of an exchange, whether any is."""
        self.assertFalse(self.told(lambda environ: graceful.draining()))
        hooks.going_down(self)
        self.addCleanup(hooks.gone, self)
        self.assertTrue(graceful.draining())
        self.assertFalse(self.told(lambda environ: graceful.draining()), "it is another server")
        self.engine.site.going_down = True
        self.assertTrue(self.told(lambda environ: graceful.draining()))
        hooks.gone(self)
        self.assertFalse(graceful.draining())

    def test_hooks_end_with_the_exchange(self) -> None:
        """What was to be called at the takedown is not, once the exchange has ended."""
        kept: list[Any] = []

        def ask(environ: Any) -> None:
            kept.append(environ["graceful.exchange"].on_takedown(lambda: self.fail("called")))

        self.told(ask)
        kept[0].run()

    def test_an_ended_exchange_does_not_refer_to_the_environ(self) -> None:
        """The exchange does not refer to the environ any more when it has ended: that refers to it."""
        environ = self.environ()
        self.assertIsNone(environ["graceful.exchange"].environ)


class RegisteredTests(SynchronousTestCase):
    """What is called at the drain and at the exit."""

    def test_hooks_can_be_registered_by_decorators(self) -> None:
        """They can be used as decorators."""
        self.patch(hooks, "at_drain", [])
        self.patch(hooks, "at_exit", [])

        @graceful.on_drain
        def drain() -> None: ...

        @graceful.on_exit
        def leave() -> None: ...

        self.assertEqual((hooks.at_drain, hooks.at_exit), ([drain], [leave]))

    def test_outside_of_an_exchange_there_is_no_current_one(self) -> None:
        """Outside of an exchange there is none."""
        self.assertIsNone(contextvars.Context().run(current.get))
