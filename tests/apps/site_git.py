"""Git repositories over HTTP, each a directory of the site: dulwich."""

from __future__ import annotations

import os
from pathlib import Path

from dulwich.repo import Repo
from dulwich.server import Backend
from dulwich.web import make_wsgi_chain

SITE = Path(os.environ["SITE"])


class Repositories(Backend):
    """The directories."""

    def open_repository(self, path: str | bytes) -> Repo:
        """Returns the repository that the first part of a path names."""
        return Repo(str(SITE / os.fsdecode(path).strip("/")))


application = make_wsgi_chain(Repositories())
