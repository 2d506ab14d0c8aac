"""What makes `twistd --reactor=graceful` exist.

Every plugin is imported for a mere `--help`, so this loads nothing of the reactor before it is asked for.
"""

from __future__ import annotations

from twisted.application.reactors import Reactor

graceful = Reactor("graceful", "graceful.reactor", "Finishes what is in flight before it stops.")
