"""Writes the figures of a run into the README, the documentation and its plot.

    python bench/throughput.py --json FILE && python bench/publish.py FILE

What stands between the markers `figures: make figures` and `/figures` is replaced.  Words about the figures are for
people to write: read them again afterwards.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Any, Final

from measure import NOISE, Cell
from throughput import machine_line

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "benchmarks.rst"
PLOT: Final = ROOT / "docs" / "reference" / "throughput.svg"
README: Final = ROOT / "README.md"
BEGIN, END = "figures: make figures", "/figures"

NAMES: Final = {
    "stock": "stock `twistd web --wsgi`",
    "gunicorn": "gunicorn (gthread)",
    "waitress": "waitress",
    "cheroot": "cheroot",
    "uwsgi": "uWSGI (C)",
    "fastpysgi": "fastpysgi (C)",
    "ours": "**graceful**",
    "ours-compiled": "**graceful, compiled**",
    "granian": "granian (Rust)",
    "uvicorn": "uvicorn",
    "gunicorn-asgi": "gunicorn",
    "hypercorn": "hypercorn",
    "daphne": "daphne",
    "granian-asgi": "granian",
    "ours-asgi": "**graceful**",
    "ours-asgi-compiled": "**graceful, compiled**",
}
OWN: Final = ("ours", "ours-compiled", "ours-asgi", "ours-asgi-compiled")
#: Those of the README: servers, and loads.
DOOR: Final = ("stock", "gunicorn", "uwsgi", "ours", "ours-compiled", "granian")
DOOR_LOADS: Final = {"small": "`/`, 13 bytes", "headers": "with browser headers", "big": "1 MiB"}
#: Columns of the tables in the documentation.
WSGI: Final = {
    "small": "`/`",
    "headers": "browser",
    "unique": "unique",
    "sleep": "10 ms",
    "post": "POST",
    "mix": "mix",
    "close": "new",
    "big": "1 MiB",
}
MANY: Final = {"small": "32", "small-256": "256", "small-1000": "1,000"}
ASGI: Final = {
    "asgi": "`/`",
    "asgi-json": "JSON",
    "asgi-big": "1 MiB",
    "asgi-upload": "upload",
    "asgi-echo": "echo",
    "asgi-events": "events",
}

Value = Callable[[Cell], "float | None"]


class Figures:
    """The medians of a run.

    :param cells: all of its cells.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells

    def servers(self, scenarios: Mapping[str, str], by: str) -> list[str]:
        """Returns the servers that were measured in any of the scenarios, the slowest of one first."""
        found = {cell.server for cell in self._cells if cell.scenario in scenarios and cell.server in NAMES}
        return sorted(found, key=lambda server: self.median(server, by, lambda cell: cell.rate) or 0)

    def median(self, server: str, scenario: str, value: Value) -> float | None:
        """Returns the median of the rounds; None if it was not measured, or not once without a fault."""
        found = [value(c) for c in self._cells if (c.server, c.scenario) == (server, scenario) and not c.faults]
        good = [one for one in found if one is not None]
        return median(good) if good else None

    def noisy(self) -> str:
        """Says in how many cells other programs used too much of the processors."""
        noisy = sum(cell.noisy for cell in self._cells)
        share = f"{100 * NOISE:.0f} % of a processor"
        return f"in {noisy} of {len(self._cells)} cells, other programs used more than {share}"


def number(value: float | None) -> str:
    """Returns a figure for people."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bold(server: str, text: str) -> str:
    """Returns the text in bold type, if it is ours."""
    return f"**{text}**" if server in OWN and text != "–" else text


def rows(figures: Figures, columns: Mapping[str, str], value: Value, by: str) -> list[list[str]]:
    """Returns the cells of a table, with its heading, without loads that were not measured."""
    servers = figures.servers(columns, by)
    measured = [one for one in columns if any(figures.median(server, one, value) is not None for server in servers)]
    table = [["server", *(columns[one] for one in measured)]]
    for server in servers:
        table.append([NAMES[server], *(bold(server, number(figures.median(server, one, value))) for one in measured)])
    return table


def in_rst(table: Sequence[Sequence[str]]) -> str:
    """Returns a simple table of reStructuredText."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    ruler = "  ".join("=" * width for width in widths)

    def line(row: Sequence[str]) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return "\n".join([ruler, line(table[0]), ruler, *map(line, table[1:]), ruler])


def in_markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns a table of Markdown."""
    lines = [table[0], ["---", *["---:"] * (len(table[0]) - 1)], *table[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def page(figures: Figures, facts: dict[str, object]) -> str:
    """Returns what the page of benchmarks has between its markers."""
    parts = ["\n".join(wrap(f"{machine_line(facts)}; {figures.noisy()}.", 118, break_on_hyphens=False))]
    several: dict[str, tuple[Mapping[str, str], Value]] = {
        "Answers a second:": (WSGI, lambda cell: cell.rate),
        "CPU time of the server for each, µs:": (WSGI, lambda cell: cell.cpu),
        "The time that 99 of 100 take at most, ms:": (WSGI, lambda cell: cell.p99),
        "The same of `/`, by the number of connections:": (MANY, lambda cell: cell.p99),
    }
    for title, (columns, value) in several.items():
        parts += [title, in_rst(rows(figures, columns, value, "small"))]
    latency = [["server", "median", "99 %", "99.9 %", "CPU µs"]]
    for server in figures.servers({"open": ""}, "small"):
        values: list[Value] = [lambda c: c.p50, lambda c: c.p99, lambda c: c.p999, lambda c: c.cpu]
        latency.append(
            [NAMES[server], *(bold(server, number(figures.median(server, "open", one))) for one in values)]
        )
    parts += ["Latency in ms while 2,000 requests begin each second:", in_rst(latency)]
    parts += ["ASGI, answers a second:", in_rst(rows(figures, ASGI, lambda cell: cell.rate, "asgi"))]
    parts += ["ASGI, CPU time for each, µs:", in_rst(rows(figures, ASGI, lambda cell: cell.cpu, "asgi"))]
    return "\n\n".join(parts)


def plot(figures: Figures) -> str:
    """Returns the plot: a bar for each server, beside each other for two loads."""
    servers = figures.servers({"small": ""}, "small")
    step, top, width = 24, 40, 210
    panels = []
    for left, (scenario, title) in zip((190, 480), {"small": "/, 13 bytes", "big": "1 MiB"}.items(), strict=True):
        rates = [figures.median(server, scenario, lambda cell: cell.rate) or 0 for server in servers]
        panels.append(f'<text x="{left}" y="24" class="title">{title}: answers a second</text>')
        for line, (server, rate) in enumerate(zip(servers, rates, strict=True)):
            y, length = top + line * step, width * rate / max(rates)
            kind = "own" if server in OWN else "other"
            panels.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="16" class="{kind}"/>')
            panels.append(f'<text x="{left + length + 5:.1f}" y="{y + 12}">{number(rate)}</text>')
    labels = []
    for line, server in enumerate(servers):
        name = escape(re.sub("[*`]", "", NAMES[server]))
        labels.append(f'<text x="182" y="{top + line * step + 12}" text-anchor="end">{name}</text>')
    height = top + len(servers) * step + 8
    style = "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}.own{fill:#2a7f62}.other{fill:#b7c4cf}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" role="img">'
    title = f"<title>Answers a second of each server</title><style>{style}</style>"
    back = f'<rect width="760" height="{height}" fill="#fff"/>'
    return "\n".join([head, title, back, *labels, *panels, "</svg>"]) + "\n"


def put(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two lines of a file."""
    before, found, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found and found_end):
        sys.exit(f"{path} has no {begin!r} with {end!r} behind it")
    path.write_text(f"{before}{begin}{text}{end}{after}")


def main(source: Path) -> None:
    """Write everything."""
    run: dict[str, Any] = json.loads(source.read_text())
    figures = Figures([Cell(**cell) for cell in run["cells"]])
    put(PAGE, f".. {BEGIN}\n", f".. {END}\n", f"\n{page(figures, run['machine'])}\n\n")
    table = rows(figures, DOOR_LOADS, lambda cell: cell.rate, "small")
    door = [table[0], *(row for row in table[1:] if row[0] in {NAMES[one] for one in DOOR})]
    put(README, f"<!-- {BEGIN} -->\n", f"<!-- {END} -->\n", f"{in_markdown(door)}\n")
    PLOT.write_text(plot(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
