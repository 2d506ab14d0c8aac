"""Counts what clients lose while a server under mixed load is replaced again and again.

The clients are those of the tests (`tests.support.load`): fresh connections, kept-alive ones with a moment between
looking and sending, requests of a second, slow uploads, slow downloads.  Besides, a prober asks for `/` all the
time, on fresh connections, and times each answer; and keepers (`keepers.py`) keep one connection through everything,
and count how often they had to open it again.  An ASGI application has clients with WebSockets besides
(`websocket_keepers.py`), which have to be told 1012 by each server that ends, and come back.  Each server is
redeployed as its own manual says (`ways.py`).

    python bench/redeploy.py --redeploys 10
    python bench/redeploy.py --ways takeover --redeploys 100 --requests 1000000

Prints a table in Markdown.  A request is "lost" if it was neither answered nor refused, but reset, cut short or
answered wrongly.  If none of N requests is lost, the share of lost ones is below 3/N with 95 % confidence.
"Opened again" is the number of connections, of 50, that a redeploy closes, on average; "told 1012" is the number of
WebSockets, of 50, that it closes in order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from interpreter import interpreter
from keepers import Keepers
from tests.support.load import Load, Report
from tests.support.prober import Prober
from ways import WAYS, Site, Stuck, Way, free_port
from websocket_keepers import WebSocketKeepers

#: Seconds of load between two redeploys, at least.
PAUSE: Final = 1.0
COLUMNS: Final = (
    *("way", "redeploys", "requests", "lost", "each", "refused", "opened again", "told 1012", "share (95 %)"),
    *("slowest `/`, ms", "else", "p99"),
)
#: Clients that keep their connection.
KEEPERS: Final = 50


def run(way: Way, redeploys: int, requests: int) -> str:
    """Redeploy under load.  Returns a row of the table.

    :param requests: spread the redeploys over at least this many requests.
    """
    with tempfile.TemporaryDirectory(prefix="graceful-bench-") as directory:
        site = Site(free_port(), Path(directory))
        spans: list[tuple[float, float]] = []
        try:
            way.first(site)
            site.wait(site.answers, "an answer")
            with Load(site.port) as load:
                keepers = Keepers(site.port, KEEPERS)
                websockets = WebSocketKeepers(site.port, KEEPERS if way.websockets else 0)
                prober = Prober(site.port)
                try:
                    for number in range(redeploys):
                        time.sleep(PAUSE)
                        while (
                            load.count() + len(prober.took) + keepers.answered + websockets.echoed
                            < requests * (number + 1) / redeploys
                        ):
                            time.sleep(PAUSE)
                        began = time.monotonic()
                        way.again(site)
                        spans.append((began, time.monotonic()))
                        if way.websockets:
                            # Their closes are spread over seconds; a redeploy is over when each client has its own.
                            site.wait(
                                partial(websockets.have_ended, KEEPERS * (number + 1)), "the end of every WebSocket"
                            )
                    time.sleep(PAUSE)
                finally:
                    prober.end()
                    keepers.end()
                    websockets.end()
                report = load.stop()
        finally:
            site.end()
    return _row(way, report, prober, keepers, websockets, spans)


def _row(
    way: Way,
    report: Report,
    prober: Prober,
    keepers: Keepers,
    websockets: WebSocketKeepers,
    spans: Sequence[tuple[float, float]],
) -> str:
    outcomes = Counter(outcome for _, outcome in prober.lost) + keepers.lost + websockets.lost
    for counts in report.counts.values():
        outcomes.update(counts)
    outcomes["ok"] += len(prober.took) + keepers.answered + websockets.echoed
    outcomes["refused"] += websockets.refused
    lost = sum(count for outcome, count in outcomes.items() if outcome not in ("ok", "refused"))
    total = outcomes["ok"] + lost
    within, outside = prober.split(spans)
    worst, usual = max(within, default=0.0), max(outside, default=0.0)
    most = outside[len(outside) * 99 // 100] if outside else 0.0
    ways = {outcome: count for outcome, count in outcomes.items() if outcome not in ("ok", "refused")}
    kinds = Counter(failure["kind"] for failure in report.failures)
    details = f" ({_said(ways)}; {_said(kinds)})" if lost else ""
    bound = f"< {3 / total:.1e}" if not lost else f"{lost / total:.1e}"
    cells = (
        way.name,
        len(spans),
        f"{total:,}",
        f"{lost}{details}",
        f"{lost / len(spans):.2f}",
        outcomes["refused"],
        f"{keepers.opened_again / len(spans):.2f}",
        f"{websockets.told / len(spans):.2f}" if way.websockets else "-",
        bound,
        f"{1e3 * worst:.0f}",
        f"{1e3 * usual:.0f}",
        f"{1e3 * most:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, separated by commas")
    parser.add_argument("--redeploys", type=int, default=10)
    parser.add_argument("--requests", type=int, default=0, help="spread over at least this many requests")
    given = parser.parse_args()
    print(f"CPython {interpreter()}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"|---|{'---:|' * (len(COLUMNS) - 1)}", flush=True)
    for name in given.ways.split(","):
        try:
            print(run(WAYS[name.strip()], given.redeploys, given.requests), flush=True)
        except Stuck as stuck:
            print(f"{name}: {stuck}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
