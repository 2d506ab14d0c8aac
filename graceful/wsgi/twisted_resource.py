"""Twisted's own WSGIResource, served the fast way, too: at the root, or anywhere in a tree.

Its module imports most of twisted.web, which is a good part of a start.  So only a server that serves resources of
Twisted's imports this one.
"""

from __future__ import annotations

from typing import Any

from twisted.python.components import registerAdapter
from twisted.web.wsgi import WSGIResource as TwistedWSGIResource

from graceful.web.interfaces import IHandler
from graceful.wsgi.resource import WSGIResource


def handler_of(resource: Any) -> Any:
    """Returns what answers instead of a resource; None if that is rendered as it is."""
    return IHandler(resource, None)


def _recognise(resource: TwistedWSGIResource) -> WSGIResource:
    return WSGIResource(resource._reactor, resource._threadpool, resource._application)


registerAdapter(_recognise, TwistedWSGIResource, IHandler)
