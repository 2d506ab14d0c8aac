"""What README.md and docs/ show: blocks of code, and commands in the middle of a sentence.

Documentation rots silently: an option is renamed, a log line gets a word more, and a reader who follows the text is
the first to find out.  So every block has a name, by which a test finds it and runs it; and a test makes sure that
every block and every command has one.

In Markdown the name stands in a comment before the fence, `<!-- example: NAME -->`; in reStructuredText it is the
`:name:` of a code-block.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, *sorted(page for page in DOCS.rglob("*.rst") if DOCS / "_build" not in page.parents))

_NAME = re.compile(r"<!-- example: (\S+) -->")
_FENCE = re.compile(r"```(\w*)")
_DIRECTIVE = re.compile(r"( *)\.\. code-block:: (\S+)")
_OPTION = re.compile(r" +:name: (\S+)")
_CODE = re.compile(r"(?<![`\w])(`{1,2})([^`\n]+)\1(?!`)")
_PROGRAM = re.compile(
    r"(?:\S*/)?(?:bash|curl|docker|git|graceful|gunicorn|haproxy|journalctl|kill|make|pip|pytest|python3?|sphinx-build"
    r"|systemctl|trial|twistd?|uvicorn|uwsgi) "
)
_TABLE = ("", ".. list-table::", "   :header-rows: 1", "   :widths: 28 16 56", "")


@frozen
class Block:
    """A block of code.

    :ivar page: the path of the file in the checkout.
    :ivar name: empty if it has none.
    :ivar text: without indentation, with a line end.
    :ivar span: the numbers of its first line and of the one behind its last, counted from 0.
    """

    page: str
    name: str
    text: str
    span: tuple[int, int]


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    lines = page.read_text().splitlines()
    path = str(page.relative_to(ROOT))
    return _fenced(path, lines) if page.suffix == ".md" else _directives(path, lines)


def _fenced(page: str, lines: list[str]) -> list[Block]:
    found, start = [], -1
    for number, line in enumerate(lines):
        if _FENCE.match(line) is None:
            continue
        if start < 0:
            start = number
        else:
            named = _NAME.fullmatch(lines[start - 1])
            text = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, named[1] if named is not None else "", text, (start, number + 1)))
            start = -1
    return found


def _directives(page: str, lines: list[str]) -> list[Block]:
    found = []
    for number, line in enumerate(lines):
        directive = _DIRECTIVE.fullmatch(line)
        if directive is not None:
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or _depth(lines[end]) > len(directive[1])):
                end += 1
            named = _OPTION.fullmatch(lines[number + 1]) if end > number + 1 else None
            body = lines[number + 2 if named is not None else number + 1 : end]
            text = textwrap.dedent("\n".join(body)).strip("\n") + "\n"
            found.append(Block(page, named[1] if named is not None else "", text, (number, end)))
        elif line.endswith("::") and not line.lstrip().startswith(".."):
            # A paragraph that ends in two colons begins a block that nobody could name.
            found.append(Block(page, "", line, (number, number + 1)))
    return found


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def commands(page: Path) -> list[str]:
    """Return the commands in the text of a page: code outside of blocks that begins with a program's name."""
    lines = page.read_text().splitlines()
    for block in blocks(page):
        start, end = block.span
        lines[start:end] = [""] * (end - start)
    found = [match[2] for match in _CODE.finditer("\n".join(lines))]
    return [code for code in found if _PROGRAM.match(code)]


def by_name() -> dict[str, Block]:
    """Return all blocks that have a name.

    :raises AssertionError: two have the same.
    """
    found: dict[str, Block] = {}
    for page in PAGES:
        for block in blocks(page):
            assert block.name not in found or not block.name, f"two blocks are called {block.name}"
            found[block.name] = block
    found.pop("", None)
    return found


def option_tables(text: str) -> str:
    """Return the reference's tables of options, one for each group of them.

    :param text: what `twistd graceful-app --help` says on a wide terminal.
    """
    tables = []
    for group in re.findall(r"^(\w[\w ]*):\n((?:  --.*\n(?: {28}.*\n)*)+)", text, re.MULTILINE):
        rows = [group[0], "~" * len(group[0]), *_TABLE, *_row("option", "default", "meaning")]
        for option in re.findall(r"  (--\S+(?: [A-Z/=±\[\]]+)?)\s+(.*?)(?: \[([^\]]*)\])?\n", group[1]):
            rows += _row(f"``{option[0]}``", option[2], option[1])
        tables.append("\n".join(rows) + "\n")
    return "\n".join(tables)


def _row(*cells: str) -> list[str]:
    """Return the lines of a row of a list-table."""
    return [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(cells)]
