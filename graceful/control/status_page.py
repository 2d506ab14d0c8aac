"""The status page: one file, no outside resource, and a policy that lets the browser run nothing but it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent / "status_page"


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _made() -> tuple[bytes, list[tuple[str, str]]]:
    style, script = ((_HERE / name).read_text() for name in ("page.css", "page.js"))
    page = (_HERE / "page.html").read_text().replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        f"default-src 'none'; script-src 'sha256-{_hash(script)}'; style-src 'sha256-{_hash(style)}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    fields = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("X-Frame-Options", "DENY"),
    ]
    return page.encode(), fields


#: The page, and the fields of its answer.
PAGE, PAGE_FIELDS = _made()
