"""What a browser shows while the code on disk cannot be imported, and the former code goes on.

Only a page is replaced: what it loads, and every other client, gets the answers of the former code.  Below the error
is the page of the former code: a script fetches it, which is no request for a page, and shows it in a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from graceful.web.exchange import Exchange

_PAGE: Final = """<!doctype html>
<title>The application cannot be imported</title>
<style>
html, body {{ margin: 0; height: 100%; font: 16px/1.4 system-ui, sans-serif }}
body {{ display: flex; flex-direction: column }}
header {{ background: #7a1f1f; color: #fff; padding: 1rem; max-height: 60%; overflow: auto }}
h1 {{ font-size: 1.1rem; margin: 0 }}
pre {{ font-size: .9rem; white-space: pre-wrap }}
iframe {{ border: 0; flex: 1 }}
</style>
<header><h1>The application cannot be imported; the former code goes on</h1><pre>{text}</pre></header>
<iframe title="The page of the former code"></iframe>
<script>
fetch(location.href).then(answer => answer.text()).then(page => {{ document.querySelector("iframe").srcdoc = page }})
</script>
"""
FIELDS: Final = [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")]


class BrokenPage:
    """Answers browsers that ask for a page.

    :ivar text: why the code cannot be imported; None if it can.
    """

    def __init__(self) -> None:
        self.text: str | None = None

    def before(self, handle: Callable[[Exchange], object]) -> Callable[[Exchange], None]:
        """Returns a handler that answers with the error if there is one, and else calls `handle`."""

        def answer(exchange: Exchange) -> None:
            if self.text is None or exchange.method != "GET" or not _asks_for_page(exchange):
                handle(exchange)
                return
            exchange.start("500 Internal Server Error", FIELDS)
            exchange.finish_and_release(_PAGE.format(text=escape(self.text)).encode())

        return answer


def _asks_for_page(exchange: Exchange) -> bool:
    fields = {name.lower(): value.lower() for name, value in exchange.headers}
    destination = fields.get(b"sec-fetch-dest")  # browsers send it to trustworthy addresses only, such as localhost
    if destination is not None:
        return destination == b"document"
    return fields.get(b"accept", b"").startswith(b"text/html")
