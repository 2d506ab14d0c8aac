"""requests: no wait is longer than what its request has left.

Use a :class:`Session`, or mount the :class:`Adapter` on one of your own.  A time-out is, as always in requests, for
each wait and not for the whole; at the takedown the connection is cut in any case.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import HTTPAdapter

from graceful.application.deadlines import DeadlineExceeded, at_most, remaining


class Adapter(HTTPAdapter):
    """Sends requests within the time that is left."""

    def send(self, request: Any, stream: bool = False, timeout: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Send a request (see :meth:`requests.adapters.HTTPAdapter.send`).

        :raises DeadlineExceeded: nothing is left, or not enough.
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
    """A session whose requests obey."""

    def __init__(self) -> None:
        super().__init__()
        self.mount("http://", Adapter())
        self.mount("https://", Adapter())
