"""`graceful serve`: the server that `twistd graceful-app` is, by a name that needs no knowledge of twistd.

It is twistd, in this very process: pid file, daemon, privileges and logs are its own.  A deploy in place starts the
command line of this process again, so that it starts `graceful serve` again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from graceful.commands.common import DONE, UNREACHABLE, say
from graceful.config.command_line import sort, twistd_help
from graceful.config.option_table import help_text


def serve(arguments: Sequence[str]) -> int:
    """Serve an application; returns when the server has ended, or is a daemon.

    :param arguments: what stands behind `graceful serve`.
    :returns: the exit status; 2 if the command line is wrong.
    """
    typed = sort(arguments)
    if typed.help:
        width = int(os.environ.get("COLUMNS", "80"))
        options, _, examples = help_text(width).rpartition("Examples:")
        print(f"Usage: graceful serve [options] [MODULE[:CALLABLE]]\n\n{options}{twistd_help(width)}")
        daemon = examples.replace("twistd --pidfile /run/site.pid graceful-app", "graceful serve --daemon")
        print(f"Examples:{daemon.replace('twistd -n graceful-app', 'graceful serve')}", end="")
        return DONE
    from twisted.python.usage import UsageError
    from twisted.scripts._twistd_unix import ServerOptions
    from twisted.scripts.twistd import runApp

    class Twistd(ServerOptions):
        """twistd's options, by which the server's know which program they belong to."""

        program = "graceful serve"

    config = Twistd()  # type: ignore[no-untyped-call]
    try:
        foreground = [] if typed.daemon else ["-n"]
        config.parseOptions([*typed.twistd, *foreground, "graceful-app", *typed.server])  # type: ignore[no-untyped-call]
    except (UsageError, KeyError, ValueError) as error:  # twistd lets the latter two through, for a user's name
        say(f"serve: {error.args[0]}; see graceful serve --help")
        return UNREACHABLE
    runApp(config)
    return DONE
