"""httpx: no wait is longer than what its request has left.

Use a :class:`Client`, or give the :class:`Transport` to one of your own.  A time-out is, as always in httpx, for each
wait and not for the whole; at the takedown the connection is cut in any case.
"""

from __future__ import annotations

from typing import Any

import httpx

from graceful.application.deadlines import DeadlineExceeded, at_most, remaining


class Transport(httpx.HTTPTransport):
    """Sends requests within the time that is left."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request (see :class:`httpx.BaseTransport`).

        :raises DeadlineExceeded: nothing is left, or not enough.
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
    """A client whose requests obey."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("transport", Transport())
        super().__init__(**options)
