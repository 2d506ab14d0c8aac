"""`graceful reload-certificates`: has a server load its certificates again."""

from __future__ import annotations

import argparse
import time
from typing import Any

from graceful.commands.common import DONE, FAILED, connect, control_path, say


def reload_certificates(arguments: argparse.Namespace) -> int:
    """Load the certificates of a server again; status 1 if one of them cannot be used."""
    with connect(control_path(arguments)) as client:
        told: dict[str, Any] = client.post("/reload-certificates")
    for one in told["certificates"]:
        print(line_of(one))
    for why in told["refused"]:
        say(f"{why}: the certificate of before is used on")
    if not told["certificates"]:
        say("the server has no certificates of its own: it listens by tls: nowhere")
    return FAILED if told["refused"] or not told["certificates"] else DONE


def line_of(certificate: dict[str, Any]) -> str:
    """Returns a line about a certificate."""
    ends = time.strftime("%Y-%m-%d", time.gmtime(certificate["ends"]))
    return f"{certificate['file']}: {', '.join(certificate['names'])}, until {ends}"
