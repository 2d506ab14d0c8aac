"""requests: no wait of a session is longer than the remaining time of the request that it works for.

Use :class:`Session`, or mount :class:`Adapter` on a session of your own.  As always in requests, a time-out bounds
each wait and not the whole call.  A takedown cuts the connection in any case.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

from graceful.application.deadlines import DeadlineExceeded, at_most, remaining


class Adapter(HTTPAdapter):
    """Sends requests within the remaining time of the current exchange."""

    def send(self, request: Any, stream: bool = False, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Send a request (see :meth:`requests.adapters.HTTPAdapter.send`).

        :raises DeadlineExceeded: no time remains, or less than the request needs.
        """
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        if connect is None or isinstance(connect, int | float):
            timeout = at_most(connect), at_most(read)
        try:
            return super().send(request, stream, timeout, *args, **kwargs)
        except requests.Timeout as error:
            if remaining() == 0:
                raise DeadlineExceeded(str(error)) from error
            raise


class Session(requests.Session):
    """A session whose requests are bounded by the remaining time of the current exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.mount("http://", Adapter())
        self.mount("https://", Adapter())
