"""What ends the making of an answer that its client will not read."""

from __future__ import annotations


class Disconnected(ConnectionError):
    """The client will not read the rest of this answer.  Ends its making; not an error of the application's."""
