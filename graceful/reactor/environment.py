"""The settings of a graceful reactor, which come by the environment: twistd's option for reactors takes none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from graceful.config.settings import BadSetting, Settings

#: The variable of each setting; those that are numbers, and those that are not.
NUMBERS: Final = {"deadline": "GRACEFUL_DEADLINE", "lame_duck": "GRACEFUL_LAME_DUCK"}
TEXTS: Final = {"control": "GRACEFUL_CONTROL", "status_listen": "GRACEFUL_STATUS_LISTEN"}


def settings_of(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings; those that are not there, or empty, have the defaults of `graceful-app`.

    :raises ValueError: one cannot be used; one line for the operator.
    """
    values: dict[str, Any] = {name: environ[variable] for name, variable in TEXTS.items() if environ.get(variable)}
    for name, variable in NUMBERS.items():
        if text := environ.get(variable):
            try:
                values[name] = float(text)
            except ValueError:
                raise ValueError(f"{variable}={text}: expected seconds") from None
    try:
        return Settings(**values)
    except BadSetting as bad:
        variable = (NUMBERS | TEXTS)[bad.name]
        raise ValueError(f"{variable}={environ[variable]}: {bad.problem}") from None
