"""How each server was found in its HAProxy before a deploy changed it, so that it can be put back."""

from __future__ import annotations

from graceful.deploy.balancer import Found


class Ledger:
    """What has to be put back, and how; kept where an interrupted deploy leaves it for the next.

    This one forgets; :class:`graceful.deploy.journal.Journal` does not.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Found]] = {}

    def recall(self, name: str) -> dict[str, Found]:
        """How the servers of an instance were found, by an earlier deploy that has not put them back."""
        return dict(self._found.get(name, {}))

    def remember(self, name: str, found: dict[str, Found]) -> None:
        """It is about to be changed."""
        self._found[name] = dict(found)

    def forget(self, name: str) -> None:
        """It is as it was found."""
        self._found.pop(name, None)
