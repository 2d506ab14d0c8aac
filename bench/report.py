"""Makes tables of many cells: medians, ratios, and the intervals that tell whether a small difference is real.

A machine is never the same twice: its clock speed varies, and other load comes and goes.  So two servers are compared
round by round, since within a round they were measured within seconds of each other, and each ratio comes with its 95
% interval.  A server measured against a second instance of itself shows what such an interval is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import comb
from statistics import median

from measure import NOISE, SCENARIOS, Cell
from tls_servers import ALL_KINDS

REFERENCES = ("stock", "stock-tls", "uvicorn")
"""The servers that others are compared with, if they are measured: one for each interface, and for TLS."""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(cells: Sequence[Cell], scenario: str, servers: Sequence[str], reference: str) -> str:
    """Returns a table in Markdown of one scenario: a line for each server, with its ratio to the reference."""
    figured = {"cpu": "CPU µs/req", "p50": "p50 ms", "p99": "p99 ms"}
    if any(cell.p999 is not None for cell in cells):
        figured["p999"] = "p99.9 ms"
    heading = ("server", "req/s, median [min-max]", f"× {reference}", *figured.values(), "notes")
    lines = [_row(heading), _row(["---"] + ["---:"] * (len(heading) - 2) + ["---"])]
    good = {server: [cell for cell in cells if cell.server == server and not cell.faults] for server in servers}
    base = median(cell.rate for cell in good[reference]) if good.get(reference) else None
    for server in servers:
        valid = good[server]
        rounds = [cell for cell in cells if cell.server == server]
        if valid:
            rates = [cell.rate for cell in valid]
            figures = [
                f"{_number(median(rates))} [{_number(min(rates))}-{_number(max(rates))}]",
                f"{median(rates) / base:.2f}" if base else "-",
                *(_number(median(getattr(cell, name) for cell in valid)) for name in figured),
            ]
        else:
            figures = ["-"] * (len(heading) - 2)
        lines.append(_row([server, *figures, _notes(rounds) or ALL_KINDS[server].unable.get(scenario, "")]))
    return "\n".join(lines)


def _notes(cells: Sequence[Cell]) -> str:
    notes = []
    invalid = sum(bool(cell.faults) for cell in cells)
    noisy = [cell.foreign for cell in cells if cell.noisy]
    if invalid:
        notes.append(f"**{invalid} of {len(cells)} INVALID**")
    if noisy:
        notes.append(f"{len(noisy)} of {len(cells)} noisy (others up to {max(noisy):.0%} of a cpu)")
    return ", ".join(notes)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns a 95 % confidence interval of the median, for any distribution of the values.

    Fewer than 6 values cannot give one; then the interval is from the least value to the greatest.
    """
    ordered = sorted(values)
    count, outside, cut = len(ordered), 1, 0
    # How often would `cut` values or fewer of `count` lie on one side of the median?
    while 2 * (outside + comb(count, cut + 1)) <= 0.05 * 2**count:
        cut += 1
        outside += comb(count, cut)
    return ordered[cut], ordered[count - 1 - cut]


def comparison(cells: Sequence[Cell], servers: Sequence[str], reference: str) -> str:
    """Returns a table in Markdown of one scenario: each server against the reference, round by round."""
    heading = (
        "server",
        "rounds",
        f"req/s, × {reference}",
        "95 % interval",
        f"CPU, × {reference}",
        "95 % interval",
    )
    lines = [_row(heading), _row(["---"] + ["---:"] * (len(heading) - 1))]
    good = {(cell.server, cell.round): cell for cell in cells if not cell.faults}
    numbers = sorted({cell.round for cell in cells})
    for server in servers:
        pairs = [
            (good[server, number], good[reference, number])
            for number in numbers
            if (server, number) in good and (reference, number) in good
        ]
        if server == reference or not pairs:
            continue
        figures = [str(len(pairs))]
        for name in ("rate", "cpu"):
            ratios = [getattr(mine, name) / getattr(theirs, name) for mine, theirs in pairs]
            low, high = median_interval(ratios)
            figures += [f"{median(ratios):.3f}", f"{low:.3f}-{high:.3f}"]
        lines.append(_row([server, *figures]))
    return "\n".join(lines)


def report(cells: Sequence[Cell], servers: Sequence[str], scenarios: Sequence[str]) -> str:
    """Returns all tables: each scenario's, and below it the comparison of variants of one server, if any."""
    families = [
        [server for server in servers if server.startswith("ours")],
        [server for server in servers if server in ("stock", "stock2", "reactor")],
    ]
    parts = []
    for name in scenarios:
        interface = SCENARIOS[name].interface
        shown = [server for server in servers if ALL_KINDS[server].interface == interface]
        if not shown:
            continue
        reference = next((server for server in REFERENCES if server in shown), shown[0])
        chosen = [cell for cell in cells if cell.scenario == name]
        parts += [f"### {SCENARIOS[name].title}", table(chosen, name, shown, reference)]
        for variants in ([server for server in family if server in shown] for family in families):
            if len(variants) < 2:
                continue
            parts += ["Round by round:", comparison(chosen, variants, variants[0])]
    faults = [
        f"- {cell.server}, {cell.scenario}, round {cell.round}: {'; '.join(cell.faults)}"
        for cell in cells
        if cell.faults
    ]
    if faults:
        parts += ["### INVALID: left out of every figure", "\n".join(faults)]
    parts.append(f"Noisy: others used more than {NOISE:.0%} of a cpu, however often it was tried.")
    return "\n\n".join(parts)
