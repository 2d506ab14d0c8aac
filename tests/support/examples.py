"""How many examples Hypothesis tries of what anybody may send.

GRACEFUL_TEST_EXAMPLES multiplies the number: `make soak` tries twenty times as many as `make test`, and the lowest
versions of the parsers get a fifth of them.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import settings

FACTOR: Final = float(os.environ.get("GRACEFUL_TEST_EXAMPLES", "1"))


def examples(number: int) -> settings:
    """Returns the decorator of a property.

    :param number: how many examples of it are tried in `make test`.
    """
    return settings(max_examples=max(1, round(number * FACTOR)), deadline=None)
