"""Requests and answers of many forms: httpbin."""

from __future__ import annotations

from httpbin import app as application

__all__ = ["application"]
