"""While the newer code cannot be imported, browsers are told so, and nothing else changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.trial.unittest import SynchronousTestCase

from graceful.web.broken_page import BrokenPage


class BrokenPageTests(SynchronousTestCase):
    """Requests come while code is broken."""

    def ask(self, text: str | None, method: str = "GET", **fields: str) -> str | None:
        """Returns the page that a request gets; None if the application answers."""
        page = BrokenPage()
        page.text = text
        handled: list[Any] = []
        sent: list[bytes] = []
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        exchange = SimpleNamespace(
            method=method,
            headers=headers,
            start=lambda status, fields: self.assertEqual(status, "500 Internal Server Error"),
            finish_and_release=sent.append,
        )
        page.before(handled.append)(cast(Any, exchange))
        self.assertEqual(len(handled) + len(sent), 1)
        return sent[0].decode() if sent else None

    def test_a_page_shows_the_error(self) -> None:
        """A browser that asks for a page gets the error, with nothing in it that is markup."""
        shown = self.ask("NameError: <b>", Sec_Fetch_Dest="document", Accept="text/html")
        self.assertIn("NameError: &lt;b&gt;", shown or "")
        self.assertIsNotNone(self.ask("x", accept="text/html,*/*"))

    def test_everything_else_is_the_applications(self) -> None:
        """Without an error, and for all other requests, the application answers."""
        self.assertIsNone(self.ask(None, Sec_Fetch_Dest="document"))
        self.assertIsNone(self.ask("x", Sec_Fetch_Dest="iframe", Accept="text/html"))
        self.assertIsNone(self.ask("x", Accept="*/*"))
        self.assertIsNone(self.ask("x", method="POST", Sec_Fetch_Dest="document"))
