"""The way out of a server: from "stop" to "gone", whatever it is that serves.

| module     | what it does                                                           |
|------------|------------------------------------------------------------------------|
| `state`    | names the states of an instance, and the result of a drain             |
| `schedule` | knows when the lame duck is over and when each of the deadlines comes  |
| `machine`  | has the steps in their order, and takes each when its event has come   |
"""

from __future__ import annotations

from graceful.drain.machine import Drain, Drainable
from graceful.drain.state import DrainResult, State

__all__ = ["Drain", "DrainResult", "Drainable", "State"]
