"""What is counted goes from process to process, and is neither lost nor counted twice."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.control.counters import BOUNDS, CLASSES, PLACES
from graceful.control.totals import Totals


def rows(number: float) -> list[list[float]]:
    """A histogram in which everything is the same."""
    return [[number] * (len(BOUNDS) + 2) for _ in CLASSES]


class TotalsTests(SynchronousTestCase):
    """Sums, differences, and what another process says."""

    def test_what_was_told_and_the_rest_are_everything(self) -> None:
        """A successor that adds what it is told at the takeover and at the end has what its predecessor counted."""
        at_takeover = Totals(taken_down=1, finished=5, ended=rows(2))
        at_end = Totals(taken_down=3, finished=9, abandoned=1, ended=rows(7))
        told = [json.loads(json.dumps(one.told())) for one in (at_takeover, at_end.since(at_takeover))]
        self.assertEqual(Totals.read(told[0]).added(Totals.read(told[1])), at_end)

    def test_both_histograms_go_over(self) -> None:
        """How long exchanges waited goes from process to process like how long they took."""
        waits = rows(1)[: len(PLACES)]
        told = json.loads(json.dumps(Totals(waited=waits).told()))
        both = Totals.read(told).added(Totals(waited=waits))
        self.assertEqual(both.waited, rows(2)[: len(PLACES)])
        self.assertEqual(both.since(Totals(waited=waits)).waited, waits)
        self.assertEqual(Totals().plus([{"tally": {"waited": waits}}]).waited, waits)

    def test_nothing_goes_back(self) -> None:
        """What seems to have become less is no difference."""
        self.assertEqual(Totals(finished=1, ended=rows(1)).since(Totals(finished=2, ended=rows(2))).finished, 0)
        self.assertEqual(Totals(ended=rows(1)).since(Totals(ended=rows(2))).ended, rows(0))

    def test_what_was_not_counted_is_not_zero(self) -> None:
        """Without counters there are no rows, and adding others to none keeps them."""
        self.assertIsNone(Totals().added(Totals()).ended)
        self.assertEqual(Totals().added(Totals(ended=rows(1))).ended, rows(1))
        self.assertEqual(Totals(ended=rows(1)).added(Totals()).ended, rows(1))

    def test_what_cannot_be_understood_counts_as_nothing(self) -> None:
        """A process of another version may say anything."""
        strange: list[Any] = [
            None,
            3,
            [],
            {},
            {"finished": "7"},
            {"finished": -1},
            {"finished": True},
            {"ended": [[1]]},
        ]
        strange += [{"ended": rows(-1)}, {"ended": "x"}, {"ended": [None] * len(CLASSES)}, {"unknown": 5}]
        strange.append({"finished": float("inf")})
        for told in strange:
            self.assertEqual(Totals.read(told), Totals(), told)
