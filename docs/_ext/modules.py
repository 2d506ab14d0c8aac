"""The directive `modules`: the folders and modules of a package, each in the words of its own docstring.

A list of files that is kept by hand is wrong after the next commit.  This one is read from the sources whenever the
page is built: nothing is imported, so what a module needs at run time need not be there.

    .. modules:: graceful

lists the package's own modules first and then, under a heading of its own, each package inside it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

#: Where packages are looked for: the checkout.
ROOT = Path(__file__).parents[2]


class Undescribed(Exception):
    """A package that does not exist, or a module without a docstring."""


def docstring(path: Path) -> list[str]:
    """Return the paragraphs of a module's docstring, without importing the module.

    :raises Undescribed: the module has none.
    """
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    if not text.strip():
        raise Undescribed(f"{path.relative_to(ROOT)} has no docstring")
    return text.split("\n\n")


def summary(path: Path) -> str:
    """Return the first paragraph of a module's docstring, as one line."""
    return " ".join(docstring(path)[0].split())


def introduction(package: Path) -> str:
    """Return what the page says about a package: the first paragraph of its docstring, and the second if it is prose.

    A second paragraph that leads to a drawing or an example ends with a colon, and makes no sense without it.  A
    table, a list or an indented block is no prose either.
    """
    first, *others = docstring(package / "__init__.py")
    prose = [text for text in others[:1] if text[0].isalpha() and not text.rstrip().endswith(":")]
    return "\n\n".join([first, *prose])


def modules_of(package: Path) -> list[Path]:
    """Return the modules of a package, sorted by name, without `__init__` and without those of inner packages."""
    return sorted(path for path in package.glob("*.py") if path.name != "__init__.py")


def packages_of(package: Path) -> list[Path]:
    """Return the packages inside a package, sorted by name, at any depth."""
    return sorted(path.parent for path in package.glob("*/**/__init__.py"))


def listing(package: Path) -> Iterator[str]:
    """Yield the lines of reStructuredText that list the modules of one package."""
    if not modules_of(package):
        return
    yield from (".. list-table::", "   :widths: 30 70", "   :class: modules", "")
    for path in modules_of(package):
        yield f"   * - `{path.name}`"
        yield f"     - {summary(path)}"
    yield ""


def described(name: str) -> str:
    """Return a package and all packages inside it as reStructuredText.

    :param name: the package, with dots.
    :raises Undescribed: there is no such package, or one of its modules has no docstring.
    """
    package = ROOT.joinpath(*name.split("."))
    if not (package / "__init__.py").exists():
        raise Undescribed(f"there is no package {name}")
    lines = list(listing(package))
    for inner in packages_of(package):
        heading = f"`{inner.relative_to(ROOT)}/`"
        lines += [heading, "~" * len(heading), "", introduction(inner), "", *listing(inner)]
    return "\n".join(lines)


class Modules(SphinxDirective):
    """`.. modules:: PACKAGE`"""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the list; what is missing is an error of the build."""
        (name,) = self.arguments
        package = ROOT.joinpath(*name.split("."))
        # A directory changes when a file in it appears or goes, a file when it is written.
        for path in (*package.glob("**/*.py"), package, *packages_of(package)):
            self.env.note_dependency(str(path))
        try:
            text = described(name)
        except Undescribed as problem:
            raise self.error(str(problem)) from problem
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Make the directive known to Sphinx."""
    app.add_directive("modules", Modules)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
