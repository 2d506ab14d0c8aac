"""Two applications of other projects, with their own clients, through each way of deploying.

`make soak` has more of them, for longer.
"""

from __future__ import annotations

import pytest

from tests.support.real_sites import SITES, Run


@pytest.mark.parametrize("name", ["dulwich", "django"])
def test_real_clients_of_a_real_application_notice_no_deploy(name: str) -> None:
    """`git push` and `git clone`, and forms of Django's administration, by SIGHUP, takeover and `graceful deploy`."""
    Run(SITES[name], 2).run(0.0, 1.5).check()
