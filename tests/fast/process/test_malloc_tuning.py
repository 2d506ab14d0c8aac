"""The limits of the C library's memory, as they are set for a process that serves."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.malloc_tuning import LIMITS, TUNABLES, find_mallopt, keep_freed_memory

ALL = [(-8, 1), (-3, 32 << 20), (-1, 64 << 20)]


class KeepTests(SynchronousTestCase):
    """Which limits are set, and when."""

    def keep(self, environment: dict[str, str]) -> tuple[bool, list[tuple[int, int]]]:
        """Set them; whether that was done, and what was set."""
        done: list[tuple[int, int]] = []

        def mallopt(parameter: int, value: int) -> int:
            done.append((parameter, value))
            return 1

        return keep_freed_memory(environment, lambda: mallopt), done

    def test_the_three_limits_are_set_together(self) -> None:
        """One alone makes large answers twice as dear."""
        self.assertEqual(self.keep({}), (True, ALL))

    def test_limits_of_the_operator_are_left_alone(self) -> None:
        """An operator who has chosen one limit has chosen: no other one is set beside it."""
        for variable in (TUNABLES, *(variable for variable, _, _ in LIMITS)):
            self.assertEqual(self.keep({variable: "1"}), (False, []))

    def test_a_library_without_mallopt_is_left_alone(self) -> None:
        """Nothing is set where there is nothing to set."""
        self.assertFalse(keep_freed_memory({}, lambda: None))

    def test_this_machines_library_takes_them(self) -> None:
        """The C library says that it has taken each limit, if it is glibc."""
        found = find_mallopt()
        self.assertEqual(keep_freed_memory({}), found is not None)
