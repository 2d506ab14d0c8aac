"""Calendars: Radicale, which asks for no password."""

from __future__ import annotations

import os

from radicale import Application, config

configuration = config.load()
configuration.update(
    {
        "auth": {"type": "none"},
        "storage": {"filesystem_folder": os.environ["SITE"]},
        "logging": {"level": "warning"},
    },
    "site",
    privileged=True,
)
application = Application(configuration)
