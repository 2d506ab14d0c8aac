"""The records of a deploy: a lock, how it has found HAProxy's servers, and a history of verdicts.

The lock is the kernel's (flock(2)), so it ends with the process, however that ends.  How the servers were found must
outlive the process: it is written before anything is changed, and the next deploy reads it.  The records lie beside
the deployed file, or where `records` says.
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


class FoundServers:
    """How the servers in HAProxy were found before a deploy changed them, so that it can put them back.

    This class keeps it in memory; :class:`Journal` also keeps it on disk, for the deploy after one that was killed.
    """

    def __init__(self) -> None:
        self._found: dict[str, dict[str, Found]] = {}

    def recall(self, name: str) -> dict[str, Found]:
        """Returns how the servers of an instance were found by an earlier deploy that has not put them back."""
        return dict(self._found.get(name, {}))

    def remember(self, name: str, found: dict[str, Found]) -> None:
        """Remember how the servers of an instance were found; called before they are changed."""
        self._found[name] = dict(found)

    def forget(self, name: str) -> None:
        """Forget an instance whose servers are as they were found."""
        self._found.pop(name, None)


class JournalError(DeployError):
    """The records cannot be written or read, or another deploy is under way."""


class Journal(FoundServers):
    """The records of one deploy, with a lock that allows only one deploy at a time.

    :param plan: the plan that is deployed.
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
        """Remember how the servers of an instance were found; called before they are changed."""
        super().remember(name, found)
        self._write()

    def forget(self, name: str) -> None:
        """Forget an instance whose servers are as they were found."""
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
                name: {key: {"state": one.state, "checks": list(one.checks)} for key, one in servers.items()}
                for name, servers in self._found.items()
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
        """Release the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def unfinished(plan: Plan) -> dict[str, dict[str, Found]]:
    """Returns how the servers were found that an earlier deploy has not put back, by the instance's name.

    :raises JournalError: the record cannot be read.
    """
    path = plan.record("state")
    try:
        with open(path) as file:
            found = json.load(file)["found"]
        return {
            name: {key: Found(one["state"], tuple(one["checks"])) for key, one in servers.items()}
            for name, servers in found.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise JournalError(f"{path}: cannot be read; look at HAProxy's servers, and delete it") from None
