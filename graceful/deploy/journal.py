"""What a deploy writes down: that it is under way, what it has to put back, and how it went.

The lock is the kernel's (flock(2)), so it ends with the process, however that ends.  What has to be put back must
outlive it: it is written before anything is changed, and the next deploy finds it.  Both lie beside the file that is
deployed, or where `records` says.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from typing import Any

from graceful.deploy import DeployError
from graceful.deploy.balancer import Found
from graceful.deploy.plan import Plan


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


class JournalError(DeployError):
    """It cannot be written down, or another deploy is under way."""


class Journal(Ledger):
    """The records of one deploy; also what takes care that there is only one.

    :param plan: whose.
    :raises JournalError: another deploy is under way, or nothing can be written.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._lock = -1
        path = plan.record("lock")
        try:
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip()
            self.close()
            raise JournalError(f"another deploy of {plan.path} is under way: process {who or '?'}") from None
        except OSError as error:
            self.close()
            raise JournalError(f"{path}: {error.strerror}; `records` in the file names another directory") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self._found = unfinished(plan)

    def remember(self, name: str, found: dict[str, Found]) -> None:
        """It is about to be changed."""
        super().remember(name, found)
        self._write()

    def forget(self, name: str) -> None:
        """It is as it was found."""
        super().forget(name)
        self._write()

    def _write(self) -> None:
        path = self._plan.record("state")
        try:
            if not self._found:
                if os.path.exists(path):
                    os.unlink(path)
                return
            found = {
                name: {key: {"state": one.state, "checks": list(one.checks)} for key, one in places.items()}
                for name, places in self._found.items()
            }
            with open(f"{path}.new", "w") as file:
                json.dump({"found": found}, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{path}.new", path)
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from None

    def append(self, verdict: Mapping[str, Any]) -> None:
        """Add a line to the history."""
        path = self._plan.record("history")
        try:
            with open(path, "a") as file:
                file.write(json.dumps(verdict) + "\n")
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from None

    def close(self) -> None:
        """Let others deploy."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def unfinished(plan: Plan) -> dict[str, dict[str, Found]]:
    """What an earlier deploy has not put back: how the servers of instances were found, by the instance's name.

    :raises JournalError: it cannot be read.
    """
    path = plan.record("state")
    try:
        with open(path) as file:
            found = json.load(file)["found"]
        return {
            name: {key: Found(one["state"], tuple(one["checks"])) for key, one in places.items()}
            for name, places in found.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise JournalError(f"{path}: cannot be read; look at HAProxy's servers, and delete it") from None
