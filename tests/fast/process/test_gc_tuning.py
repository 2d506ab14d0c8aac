"""The garbage collector, as it is set for a process that serves."""

from __future__ import annotations

import gc

from twisted.trial.unittest import SynchronousTestCase

from graceful.process import gc_tuning as collector


class SettleTests(SynchronousTestCase):
    """What is done once, when the application is imported."""

    def setUp(self) -> None:
        """Leave the collector of the other tests as it is."""
        self.addCleanup(gc.unfreeze)
        self.addCleanup(gc.set_threshold, *gc.get_threshold())

    def test_collects_the_youngest_less_often(self) -> None:
        """With the interpreter's own thresholds the youngest are looked at less often, the others as before."""
        for own in ((700, 10, 10), (2000, 10, 10)):
            gc.set_threshold(*own)
            collector.freeze_startup_objects()
            self.assertEqual(gc.get_threshold(), (collector.YOUNG, 10, 10))

    def test_imports_are_spared(self) -> None:
        """What Twisted has imported is not looked at any more, and what comes then less often; a choice is kept."""
        imported: list[object] = [object()]
        gc.set_threshold(700, 10, 10)
        collector.spare_imports()
        self.assertFalse(any(one is imported for one in gc.get_objects()))
        self.assertEqual(gc.get_threshold(), (collector.YOUNG, 10, 10))
        gc.set_threshold(700, 5, 5)
        collector.freeze_startup_objects()
        self.assertEqual(gc.get_threshold(), (700, 5, 5))

    def test_keeps_thresholds_of_the_application(self) -> None:
        """An application that has set thresholds keeps them, also if it has none looked for."""
        for chosen in ((0, 10, 10), (700, 5, 5), (50_000, 20, 100)):
            gc.set_threshold(*chosen)
            collector.freeze_startup_objects()
            self.assertEqual(gc.get_threshold(), chosen)

    def test_freezes_what_exists(self) -> None:
        """What there is by then is not looked at any more."""
        imported: list[object] = [object()]
        collector.freeze_startup_objects()
        self.assertFalse(any(one is imported for one in gc.get_objects()))
