"""The options of `twistd graceful-app`: their names, defaults and words, and how what is typed is read.

The command line, its help and the tables in the documentation are all made of this one table.  What a value may be is
not decided here: what cannot be read is handed on as it is, and the settings refuse it.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import Final, NamedTuple

from graceful.config.values import Limit

_WHOLE: Final = re.compile(r"[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGkmg]?)")
_OCTAL: Final = re.compile(r"[0-7]{3,4}")
_INDENT: Final = 28
_SHIFTS: Final = {"": 0, "K": 10, "M": 20, "G": 30}


def _whole(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _seconds(text: str) -> float | str:
    return float(text) if _SECONDS.fullmatch(text) else text


def _octal(text: str) -> int | str:
    return int(text, 8) if _OCTAL.fullmatch(text) else text


def _size(text: str) -> int | str:
    match = _SIZE.fullmatch(text)
    return int(match[1]) << _SHIFTS[match[2].upper()] if match else text


def limit_of(text: str) -> Limit | str:
    """A limit as it is typed: `SECONDS`, `/PREFIX=SECONDS`, each with `:report` behind it or without."""
    rest = text.removesuffix(":report")
    prefix, _, seconds = rest.rpartition("=")
    if (prefix and not prefix.startswith("/")) or not prefix.isascii() or not _SECONDS.fullmatch(seconds):
        return text
    return Limit(float(seconds), prefix, rest != text)


def _requests(text: str) -> tuple[int, int] | str:
    """A number with a jitter: `10000`, `10000±500`, or for keyboards without that sign, `10000+-500`."""
    most, _, jitter = text.replace("+-", "±").partition("±")
    if not (_WHOLE.fullmatch(most) and _WHOLE.fullmatch(jitter or "0")) or text.endswith(("±", "-")):
        return text
    return int(most), int(jitter or "0")


class Option(NamedTuple):
    """One row of the help, and for an option that takes one value also its parsing.

    :ivar value: what its value is called; empty for a flag.
    :ivar default: as it would be typed, or in words.
    :ivar read: makes the setting of what was typed.  What it does not understand it hands on as it is: the
        settings refuse it, and say what they expect.
    """

    name: str
    value: str
    default: str
    help: str
    read: Callable[[str], int | float | str | tuple[int, int]] | None = None


LISTEN: Final = Option(
    "listen",
    "ENDPOINT",
    "tcp:8080",
    "Listen there: tcp:8080, tcp:8080:interface=127.0.0.1, tcp6:8080, tls:8443:certificate=PATH, "
    "unix:/run/site.socket, fd:3, systemd:..., or any other Twisted endpoint; with :proxy=CIDR behind a balancer "
    "that speaks the PROXY protocol. Can be repeated.",
)
TRUSTED_PROXY: Final = Option(
    "trusted-proxy",
    "CIDR",
    "nobody",
    "Believe X-Forwarded-For and -Proto, Forwarded and X-Request-Id from this network or address, or with unix "
    "from every peer on a Unix socket. Can be repeated.",
)
REQUEST_TIMEOUT: Final = Option(
    "request-timeout",
    "SECONDS",
    "none",
    "How long a request may run. The application can ask for what is left; a request that exceeds its limit by a "
    "quarter (at most 5 s) is taken down. /PREFIX=SECONDS limits some requests; :report after the number only "
    "reports them. Can be repeated.",
)
REPORT_HIDE: Final = Option(
    "report-hide",
    "NAME",
    "",
    "Query value or header that no report shows; cookies and credentials are never shown. Can be repeated.",
)
DOWNLOAD: Final = Option(
    "download",
    "/PREFIX=TARGET",
    "none",
    "Serve paths without the application: TARGET is the URL of a file store, or a directory. Can be repeated.",
)
INTERNAL_DOWNLOAD: Final = Option(
    "internal-download",
    "/PREFIX=TARGET",
    "none",
    "Serve paths that the application's X-Accel-Redirect names; TARGET is as for --download. Can be repeated.",
)
STATUS_LISTEN: Final = Option(
    "status-listen",
    "ENDPOINT",
    "nowhere",
    "Serve health, metrics and the status page there, read-only; use loopback or a private address, such as "
    "tcp:9090:interface=127.0.0.1. Can be repeated.",
)
INTERFACE: Final = Option(
    "interface",
    "INTERFACE",
    "auto",
    "How the application is called: as wsgi or as asgi has it; auto looks at it.",
)
LOG_FORMAT: Final = Option(
    "log-format",
    "FORMAT",
    "text",
    "Format of twistd's log: text, or json for one JSON object a line.",
)
TAKEOVER: Final = Option(
    "takeover",
    "",
    "",
    "Take over the sockets of the server that answers at --control, which then drains; if none answers, bind them.",
)
CHDIR: Final = Option(
    "chdir",
    "DIR",
    "none",
    "Run the application there. A successor resolves the path again: a symbolic link may lead elsewhere by then.",
)
CONFIG: Final = Option(
    "config",
    "PATH",
    "tool.graceful in pyproject.toml",
    "Read options from that TOML file; the environment (GRACEFUL_THREADS) and the command line go before it.",
)
RELOAD: Final = Option(
    "reload",
    "",
    "",
    "For development: deploy in place whenever a file of the application changes. Needs graceful-app[reload].",
)
PRELOAD: Final = Option(
    "preload",
    "",
    "",
    "Import the application once for each release, and fork the workers, so that they share its memory. If its "
    "import leaves threads or connections behind, each worker imports it.",
)
CHECK: Final = Option(
    "check",
    "",
    "",
    "Check the options, import the application and bind the sockets, as a start does; serve nothing.",
)

GROUPS: Final = {
    "Sockets and clients": (
        LISTEN,
        Option(
            "max-connections",
            "N",
            "half of ulimit -n, at most 10000",
            "Client connections open at a time; more wait in the kernel's queue.",
            _whole,
        ),
        Option(
            "keep-alive",
            "SECONDS",
            "75",
            "How long a serving server keeps an idle connection open, and one second more.",
            _seconds,
        ),
        Option(
            "header-timeout",
            "SECONDS",
            "20",
            "Time in which the head of a request must be complete.",
            _seconds,
        ),
        Option(
            "send-timeout",
            "SECONDS",
            "60",
            "How long a client may send or receive nothing in the middle of a body.",
            _seconds,
        ),
        TRUSTED_PROXY,
    ),
    "Application": (
        INTERFACE,
        Option("threads", "N", "20", "Threads that run the application.", _whole),
        Option(
            "queue",
            "N",
            "1000",
            "Requests that may wait for a thread; one more is answered with 503.",
            _whole,
        ),
        Option(
            "max-wait",
            "SECONDS",
            "any time",
            "How long a request may wait for the application, also in a trusted proxy that sends X-Request-Start; "
            "one that has waited longer is answered with 503.",
            _seconds,
        ),
        REQUEST_TIMEOUT,
        Option(
            "max-body",
            "BYTES",
            "1G",
            "The largest request body, in bytes, or with K, M or G; a larger one is answered with 413.",
            _size,
        ),
        Option(
            "spool",
            "DIR",
            "the system's temporary one",
            "Directory for request bodies that are too large for memory.",
            str,
        ),
    ),
    "WebSockets": (
        Option(
            "websocket-max-message",
            "BYTES",
            "16M",
            "The longest message, in bytes, or with K, M or G; a longer one closes its WebSocket with 1009.",
            _size,
        ),
        Option(
            "websocket-ping-interval",
            "SECONDS",
            "20",
            "How long a client may be silent before it is sent a ping; 0 for no pings.",
            _seconds,
        ),
        Option(
            "websocket-ping-timeout",
            "SECONDS",
            "20",
            "Time in which a client must give a sign after a ping; 0 for no limit.",
            _seconds,
        ),
        Option(
            "websocket-compression",
            "METHOD",
            "off",
            "deflate compresses messages for clients that offer it (permessage-deflate), at up to 48 KiB of memory "
            "each.",
            str,
        ),
    ),
    "Workers": (
        Option(
            "workers",
            "N",
            "1",
            "Processes that serve. With more than 1, a supervisor starts them, watches them and holds the sockets.",
            _whole,
        ),
        Option(
            "max-requests",
            "N[±JITTER]",
            "never",
            "Replace a worker after N requests; with a JITTER, also written +-, not all of them at the same time.",
            _requests,
        ),
        Option(
            "max-rss",
            "BYTES",
            "never",
            "Replace a worker that holds more memory than this, in bytes, or with K, M or G.",
            _size,
        ),
        PRELOAD,
    ),
    "Downloads": (
        DOWNLOAD,
        Option(
            "download-immutable",
            "REGEX",
            "none",
            "Files of a --download directory never change if this is found in their path, as the hash of their "
            r"content in their names: '\.\w{12}\.'. Clients may keep them for a year without asking.",
            str,
        ),
        INTERNAL_DOWNLOAD,
        Option(
            "upstream-connect-timeout",
            "SECONDS",
            "5",
            "Time in which a file store must accept a connection.",
            _seconds,
        ),
        Option(
            "upstream-timeout",
            "SECONDS",
            "60",
            "How long a file store may send nothing.",
            _seconds,
        ),
    ),
    "Stopping": (
        Option(
            "deadline",
            "SECONDS",
            "200",
            "How long requests may run once the sockets are closed; then they are taken down.",
            _seconds,
        ),
        Option(
            "download-deadline",
            "SECONDS",
            "3600",
            "How long downloads, which hold no thread, may run once the sockets are closed.",
            _seconds,
        ),
        Option(
            "lame-duck",
            "SECONDS",
            "0",
            "How long a stopping server still accepts while its health says that it is going down.",
            _seconds,
        ),
        Option(
            "idle-grace",
            "SECONDS",
            "10",
            "How long an idle connection stays open while stopping, for one last request. Clients are told to stop "
            "using an idle connection 5 seconds earlier.",
            _seconds,
        ),
        Option(
            "close-spread",
            "SECONDS",
            "5",
            "Time over which a stopping server closes its WebSockets, with 1012, so that not all clients come back "
            "at once.",
            _seconds,
        ),
    ),
    "Reports": (
        Option(
            "reports",
            "DIR",
            "none",
            "Where to write a report of every request that was taken down, failed or was slow.",
            str,
        ),
        Option(
            "report-slower-than",
            "SECONDS",
            "never",
            "Report requests that run longer than this.",
            _seconds,
        ),
        REPORT_HIDE,
    ),
    "Health and control": (
        Option(
            "health-path",
            "PATH",
            "/+haproxy",
            "Path at which a balancer asks whether to send requests; '' for none.",
            str,
        ),
        Option(
            "going-down-status",
            "STATUS",
            "503",
            "Status at that path once the balancer should send nothing more; 404 for HAProxy's disable-on-404.",
            _whole,
        ),
        Option(
            "control",
            "PATH",
            "graceful.sock beside the pid file",
            "Unix socket for the graceful command; '' for none. With a NAME.pid other than twistd.pid, NAME.sock.",
            str,
        ),
        Option("control-mode", "MODE", "600", "Permissions of that socket, octal.", _octal),
        Option("control-group", "GROUP", "the server's", "Group of that socket.", str),
        STATUS_LISTEN,
        Option("app-version", "TEXT", "none", "The application's version, shown in status and health.", str),
    ),
    "Deploying": (
        TAKEOVER,
        CHDIR,
        RELOAD,
        Option(
            "takeover-timeout",
            "SECONDS",
            "60",
            "How long a successor may take from getting this server's sockets until it accepts.",
            _seconds,
        ),
        Option(
            "max-draining",
            "N",
            "5",
            "How many predecessors may drain at a time; with one more, the oldest takes down what it has left.",
            _whole,
        ),
    ),
    "Other": (
        Option(
            "access-log",
            "PATH",
            "none",
            "Where to log requests, in combined format with duration and request id; - is standard output.",
            str,
        ),
        Option(
            "access-log-format",
            "FORMAT",
            "combined",
            "What a line of that log is: combined, json for one JSON object a line, or a template such as "
            "'{time} {peer} \"{request}\" {status} {seconds}'.",
            str,
        ),
        LOG_FORMAT,
        CONFIG,
        CHECK,
        Option("version", "", "", "Show the versions and exit."),
        Option("help", "", "", "Show this help and exit."),
    ),
}

REPEATED: Final = (
    LISTEN,
    TRUSTED_PROXY,
    REQUEST_TIMEOUT,
    REPORT_HIDE,
    DOWNLOAD,
    INTERNAL_DOWNLOAD,
    STATUS_LISTEN,
)
"""Those that can be given several times."""

FLAGS: Final = (TAKEOVER.name, RELOAD.name, PRELOAD.name)
"""The names of those without a value that can be set in the environment and in a file, too."""

# Those that take one value.
PARAMETERS: Final = [option for group in GROUPS.values() for option in group if option.read]

DESCRIPTION: Final = (
    "Serves a WSGI or ASGI application. On SIGTERM it closes its sockets, finishes every live request, and exits. "
    "MODULE is imported as Python imports it, also from the current directory; CALLABLE is by default "
    "application, or else app. Without a MODULE a built-in demo is served. Defaults are in brackets."
)

_EXAMPLES: Final = """\
Examples:
  twistd -n graceful-app mysite.wsgi:application
  twistd --pidfile /run/site.pid graceful-app --listen tcp:8000:interface=127.0.0.1 \\
      --trusted-proxy 127.0.0.1 --access-log /var/log/site/access.log mysite.wsgi
"""


def help_text(width: int) -> str:
    """The help: the options in groups, and examples.

    :param width: columns.
    """
    lines = [*textwrap.wrap(DESCRIPTION, width), ""]
    for title, group in GROUPS.items():
        lines.append(f"{title}:")
        for option in group:
            text = f"{option.help} [{option.default}]" if option.default else option.help
            lines += option_lines(f"--{option.name} {option.value}".rstrip(), text, width)
        lines.append("")
    return "\n".join(lines) + "\n" + _EXAMPLES


def option_lines(typed: str, text: str, width: int) -> list[str]:
    """Returns the lines of a help about one option.

    :param typed: the option and what its value is called.
    :param width: columns.
    """
    head = f"  {typed}"
    body = textwrap.wrap(text, max(width - _INDENT, 20))
    above = [head] if len(head) > _INDENT - 2 else []
    first = f"{'' if above else head:<{_INDENT}}{body[0]}"
    return [*above, first, *(" " * _INDENT + line for line in body[1:])]
