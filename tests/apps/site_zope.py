"""Zope, with its objects in a database server (ZEO), since several processes use them while one takes over."""

from __future__ import annotations

import os
from pathlib import Path

from Zope2.Startup.run import make_wsgi_app
from ZPublisher.httpexceptions import HTTPExceptionHandler

application = HTTPExceptionHandler(
    make_wsgi_app({}, str(Path(os.environ["SITE"]) / "instance" / "etc" / "zope.conf"))
)
