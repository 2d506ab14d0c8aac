"""urllib3: no wait of a pool is longer than the remaining time of the request that it works for.

Use :class:`PoolManager` instead of urllib3's.
"""

from __future__ import annotations

from typing import Any

import urllib3
from urllib3.exceptions import TimeoutError as Timeout

from graceful.application.deadlines import DeadlineExceeded, at_most, check, remaining


class PoolManager(urllib3.PoolManager):
    """A pool manager whose requests are bounded by the remaining time of the current exchange."""

    def urlopen(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request (see :meth:`urllib3.PoolManager.urlopen`); `timeout` is in seconds or a `Timeout`.

        :raises DeadlineExceeded: no time remains, or less than the request needs.
        """
        check()
        given = kwargs.get("timeout", self.connection_pool_kw.get("timeout"))
        if not isinstance(given, urllib3.Timeout):
            given = urllib3.Timeout(connect=given, read=given)
        kwargs["timeout"] = urllib3.Timeout(
            total=_bounded(given.total), connect=_bounded(given.connect_timeout), read=_bounded(given._read)
        )
        try:
            return super().urlopen(method, url, *args, **kwargs)
        except (Timeout, urllib3.exceptions.MaxRetryError) as error:
            if remaining() == 0:
                raise DeadlineExceeded(str(error)) from error
            raise


def _bounded(seconds: Any) -> Any:
    return at_most(seconds) if seconds is None or isinstance(seconds, int | float) else at_most(None)
