"""The directives `commands` and `server-options`: the tables of commands and options, as lists of definitions.

A manual page has no room for the tables of the reference, and a list that is kept by hand is wrong after the next
commit.

    .. commands::
    .. server-options::
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from completions import STARTING, Flag, commands, server_flags  # type: ignore[import-not-found]

#: Options that each command has.
USUAL = ("control", "help")


def definitions(rows: Iterable[tuple[str, str, list[nodes.Node]]]) -> nodes.definition_list:
    """Return a list of definitions.

    :param rows: what is defined, the definition, and what stands behind that.
    """
    found = nodes.definition_list()
    for term, text, inside in rows:
        definition = nodes.definition("", nodes.paragraph("", text), *inside)
        found += nodes.definition_list_item("", nodes.term("", "", nodes.strong("", term)), definition)
    return found


def typed(flag: Flag) -> str:
    """Return an option as it is typed."""
    return f"--{flag.name} {flag.value}".rstrip()


def sentence(text: str) -> str:
    """Return a text as a sentence."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


class Commands(SphinxDirective):
    """Lists the commands, each with its options."""

    def run(self) -> list[nodes.Node]:
        """Return the list."""
        self.env.note_reread()  # the tables may have changed, and the page has not
        rows = []
        for command in commands():
            arguments = "".join(f" {argument.value}" for argument in command.arguments)
            flags = [] if command.name in STARTING else command.flags
            inside = [
                *((argument.value, sentence(argument.help), []) for argument in command.arguments),
                *((typed(flag), sentence(flag.help), []) for flag in flags if flag.name not in USUAL),
            ]
            rows.append(
                (f"graceful {command.name}{arguments}", command.help, [definitions(inside)] if inside else [])
            )
        return [definitions(rows)]


class ServerOptions(SphinxDirective):
    """Lists the options of the server, in their groups."""

    def run(self) -> list[nodes.Node]:
        """Return the lists."""
        self.env.note_reread()
        found: list[nodes.Node] = []
        for title, flags in server_flags():
            found.append(nodes.rubric("", title))
            found.append(definitions((typed(flag), flag.help, []) for flag in flags))
        return found


def setup(app: Sphinx) -> ExtensionMetadata:
    """Tell Sphinx of the directives."""
    app.add_directive("commands", Commands)
    app.add_directive("server-options", ServerOptions)
    return {"parallel_read_safe": True}
