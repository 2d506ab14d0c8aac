"""Files of a site under test."""

from __future__ import annotations

from pathlib import Path


def edit(path: Path, text: str) -> None:
    """Replace a file as editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)
