"""How the documentation is built: `sphinx-build -W docs docs/_build`, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from graceful import __version__

project = "graceful"
author = "the graceful authors"
copyright = "2026, the graceful authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "command_line", "modules"]
exclude_patterns = ["_build", "_ext"]
default_role = "literal"  # in docstrings, `this` is code
highlight_language = "none"
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say what the types cannot

html_theme = "alabaster"
html_theme_options = {"description": "deploy at any moment", "page_width": "70rem", "code_font_size": "0.8em"}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_copy_source = False

# The date would make each build another one.
man_pages = [
    ("reference/command", "graceful", "serve Python web applications, and order their servers about", author, 1)
]
today = version
