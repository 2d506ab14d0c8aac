"""The settings of the reactor."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.config.settings import Settings
from graceful.reactor.environment import settings_of


class EnvironmentTests(SynchronousTestCase):
    """Settings from the environment."""

    def test_defaults_are_those_of_graceful_app(self) -> None:
        """Without variables, or with empty ones, the settings are those of `graceful-app`."""
        self.assertEqual(settings_of({}), Settings())
        self.assertEqual(settings_of({"GRACEFUL_DEADLINE": "", "GRACEFUL_CONTROL": ""}), Settings())

    def test_each_setting_has_its_variable(self) -> None:
        """Each setting has its variable."""
        settings = settings_of(
            {
                "GRACEFUL_DEADLINE": "2.5",
                "GRACEFUL_LAME_DUCK": "3",
                "GRACEFUL_CONTROL": "a.sock",
                "GRACEFUL_STATUS_LISTEN": "tcp:1",
            }
        )
        self.assertEqual((settings.deadline, settings.lame_duck), (2.5, 3))
        self.assertEqual((settings.control, settings.status_listen), ("a.sock", ("tcp:1",)))

    def test_a_bad_value_is_named_by_its_variable(self) -> None:
        """The error names the variable whose value cannot be used."""
        for name, value in (
            ("GRACEFUL_DEADLINE", "soon"),
            ("GRACEFUL_DEADLINE", "nan"),
            ("GRACEFUL_LAME_DUCK", "-1"),
            ("GRACEFUL_CONTROL", "x" * 200),
            ("GRACEFUL_STATUS_LISTEN", "tcp"),
        ):
            error = self.assertRaises(ValueError, settings_of, {name: value})
            self.assertTrue(str(error).startswith(f"{name}={value}: "), error)
