"""httpx: no wait of a client is longer than the remaining time of the request that it works for.

Use :class:`Client`, or give :class:`Transport` to a client of your own.  As always in httpx, a time-out bounds each
wait and not the whole call.  A takedown cuts the connection in any case.
"""

from __future__ import annotations

from typing import Any

import httpx

from graceful.application.deadlines import DeadlineExceeded, at_most, remaining


class Transport(httpx.HTTPTransport):
    """Sends requests within the remaining time of the current exchange."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (see :class:`httpx.BaseTransport`).

        :raises DeadlineExceeded: no time remains, or less than the request needs.
        """
        given = request.extensions.get("timeout", {})
        bounded = {name: at_most(given.get(name)) for name in ("connect", "read", "write", "pool")}
        request.extensions = {**request.extensions, "timeout": bounded}
        try:
            return super().handle_request(request)
        except httpx.TimeoutException as error:
            if remaining() == 0:
                raise DeadlineExceeded(str(error)) from error
            raise


class Client(httpx.Client):
    """A client whose requests are bounded by the remaining time of the current exchange."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("transport", Transport())
        super().__init__(**options)
