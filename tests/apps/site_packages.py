"""A package index: pypiserver, to which anybody may upload."""

from __future__ import annotations

import os
from pathlib import Path

import pypiserver

packages = Path(os.environ["SITE"]) / "packages"
packages.mkdir(exist_ok=True)
application = pypiserver.app(roots=[packages], authenticate=[], password_file=".", overwrite=False)
