"""ASGI 3 on top of :mod:`graceful.web`: an asyncio loop in a thread of its own, scopes, messages, lifespan."""

from __future__ import annotations

from graceful.asgi.asgi_resource import ASGIResource

__all__ = ["ASGIResource"]
