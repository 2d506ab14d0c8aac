"""The settings of the graceful reactor come from the environment, since `twistd --reactor` takes no options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from graceful.config.settings import BadSetting, Settings

#: The variable of each setting that is a number of seconds.
NUMBERS: Final = {"deadline": "GRACEFUL_DEADLINE", "lame_duck": "GRACEFUL_LAME_DUCK"}
#: The variable of each setting that is a text.
TEXTS: Final = {"control": "GRACEFUL_CONTROL", "status_listen": "GRACEFUL_STATUS_LISTEN"}


def settings_of(environ: Mapping[str, str] = os.environ) -> Settings:
    """Returns the settings; a variable that is missing or empty gives the default of `graceful-app`.

    :raises ValueError: a value cannot be used; the text is one line for the operator.
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
