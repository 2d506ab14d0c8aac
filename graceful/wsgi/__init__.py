"""WSGI (PEP 3333) on top of :mod:`graceful.web`: environ, the application's thread, its answer."""

from __future__ import annotations

from graceful.wsgi.resource import WSGIResource

__all__ = ["WSGIResource"]
