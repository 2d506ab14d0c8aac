"""Whether an application's exception says no more than that its client has left, which is no fault of it.

Frameworks have exceptions of their own for that, and task groups put them into groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graceful.web.disconnected import Disconnected

#: Exceptions of a chain that are looked at, so that a chain that is a circle has an end.
MOST: Final = 100


def says_that_the_client_left(error: BaseException | None) -> bool:
    """Whether an exception, or one that it comes from, says that the client has left; of a group, each must."""
    for _ in range(MOST):
        if error is None:
            return False
        if isinstance(error, Disconnected) or "Disconnect" in type(error).__name__:
            return True
        members = _members(error)
        if members and all(says_that_the_client_left(one) for one in members):
            return True
        error = error.__cause__ or error.__context__
    return False


def _members(error: BaseException) -> Sequence[BaseException]:
    """Returns the exceptions of a group; none of any other exception.  Python 3.10 has groups as a package only."""
    members = getattr(error, "exceptions", ())
    if isinstance(members, tuple) and all(isinstance(one, BaseException) for one in members):
        return members
    return ()
