"""The settings of an instance, independent of how they are given.

The command line is one way to start the server, an `Application` in a .tac file another, a test a third.  All
of them need the same limits with the same defaults, and the same refusal of values that would only show much
later what they break.  So the values live here, apart from how they are typed.
"""

from __future__ import annotations

import grp
import os
import re
import resource
import tempfile
from collections.abc import Callable
from typing import Any, Final

from attrs import Attribute, field, frozen
from attrs.validators import optional

from graceful.config.values import UNIX, BadTarget, Limit, parse_mapping, parse_network
from graceful.logs.access_forms import COMBINED, JSON, BadTemplate, parse_template
from graceful.sockets.address import LONGEST_UNIX_PATH
from graceful.sockets.address import parse as parse_address

#: The value of `access_log` that means standard output.
STANDARD_OUTPUT: Final = "-"

#: Seconds that a time-out may be at most; more is a mistake in the unit.
YEAR: Final = 365 * 86_400

#: Connections that `max_connections` is by default at most, however many files the process may open.
MOST_CONNECTIONS: Final = 10_000

#: The default of `health_path`.
HEALTH_PATH: Final = "/+haproxy"

#: Seconds that a request which a client has sent in time may be on its way.  A round trip takes half of one nearly
#: anywhere; what is lost is sent again after a second, and after two more (RFC 6298 §2.1, §5.5).  The rest is for a
#: client that measures in whole seconds, or that got the answer late.
ON_ITS_WAY: Final = 5.0

#: Bytes of a control socket's path: an instance that leaves moves its socket to PATH.<pid>.
LONGEST_CONTROL_PATH: Final = LONGEST_UNIX_PATH - len(".4194304")

_PATH: Final = re.compile(r"/[!-\"$->@-~]*")
_TEXT: Final = re.compile(r"[ -~]{0,100}")


class BadSetting(ValueError):
    """A value that cannot be used.

    :ivar name: the setting.
    :ivar value: the value, or the one of several that is bad.
    :ivar problem: what is wrong with it, or what is expected.
    """

    def __init__(self, name: str, value: object, problem: str) -> None:
        super().__init__(f"{name}={value!r}: {problem}")
        self.name = name
        self.value = value
        self.problem = problem


#: What may be said of the compression of WebSockets' messages.
OFF: Final = "off"
DEFLATE: Final = "deflate"

Validator = Callable[[Any, "Attribute[Any]", Any], None]


def _whole(least: int, what: str = "whole number") -> Validator:
    def check(settings: object, attribute: Attribute[Any], value: object) -> None:
        if type(value) is not int or value < least:
            raise BadSetting(attribute.name, value, f"expected a {what}, {least} or more")

    return check


def _seconds(*, zero: bool) -> Validator:
    def check(settings: object, attribute: Attribute[Any], value: object) -> None:
        good = isinstance(value, int | float) and 0 <= value <= YEAR
        if not good or (value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            raise BadSetting(attribute.name, value, f"expected seconds, {least}, at most a year ({YEAR})")

    return check


def _compression(settings: object, attribute: Attribute[Any], value: object) -> None:
    if value not in (OFF, DEFLATE):
        raise BadSetting(attribute.name, value, f"expected {OFF} or {DEFLATE}")


def _directory(settings: object, attribute: Attribute[Any], value: str) -> None:
    if not os.path.isdir(value):
        raise BadSetting(attribute.name, value, "expected a directory, which this is not")
    if not os.access(value, os.W_OK | os.X_OK):
        raise BadSetting(attribute.name, value, "expected a directory that can be written to")


def _optional_directory(settings: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None:
        _directory(settings, attribute, value)


def _line_format(settings: object, attribute: Attribute[Any], value: str) -> None:
    try:
        parse_template(value)
    except BadTemplate as error:
        raise BadSetting(attribute.name, value, str(error)) from None


def _log_file(settings: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is None or value == STANDARD_OUTPUT:
        return
    place = value if os.path.exists(value) else os.path.dirname(value) or "."
    if not value or os.path.isdir(value) or not os.access(place, os.W_OK):
        raise BadSetting(attribute.name, value, "expected a file that can be written, or - (standard output)")


def _listen(settings: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if not value:
        raise BadSetting(attribute.name, value, "expected at least one endpoint, such as tcp:8080")
    for endpoint in value:
        try:
            address = parse_address(endpoint)
        except ValueError as error:
            problem = str(error).removeprefix(f"{endpoint!r} ")
            raise BadSetting(attribute.name, endpoint, problem) from None
        for network in address.proxy or ():
            problem = _why_no_network(network)
            if problem:
                raise BadSetting(attribute.name, endpoint, f"proxy={network}: {problem}")


def _proxies(settings: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    for network in value:
        problem = _why_no_network(network)
        if problem:
            raise BadSetting(attribute.name, network, problem)


def _why_no_network(network: str) -> str:
    """Returns what is wrong with the name of a trusted peer; empty if nothing."""
    try:
        if network != UNIX:
            parse_network(network)
    except ValueError as error:
        return f"expected a network such as 10.0.0.0/8, an address, or {UNIX} ({error})"
    return ""


def _limits(settings: object, attribute: Attribute[Any], value: tuple[Limit, ...]) -> None:
    for limit in value:
        if not isinstance(limit, Limit):
            raise BadSetting(attribute.name, limit, "expected SECONDS, /PREFIX=SECONDS, or one of these and :report")
        if not isinstance(limit.seconds, int | float) or not 0 < limit.seconds <= YEAR:
            raise BadSetting(attribute.name, str(limit), f"expected seconds, more than 0, at most a year ({YEAR})")


def _mappings(settings: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    for mapping in value:
        try:
            parse_mapping(mapping)
        except BadTarget as error:
            raise BadSetting(attribute.name, mapping, str(error)) from None


def _expression(settings: object, attribute: Attribute[Any], value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise BadSetting(attribute.name, value, f"expected a regular expression ({error})") from None


def _health_path(settings: object, attribute: Attribute[Any], value: str) -> None:
    if value and not _PATH.fullmatch(value):
        raise BadSetting(attribute.name, value, "expected a path such as /health, or nothing to have none")


def _error_status(settings: object, attribute: Attribute[Any], value: object) -> None:
    if type(value) is not int or not 400 <= value <= 599:
        raise BadSetting(attribute.name, value, "expected a status from 400 to 599, such as 503, or 404 for HAProxy")


def _control(settings: object, attribute: Attribute[Any], value: str | None) -> None:
    if value and len(os.path.abspath(value).encode()) > LONGEST_CONTROL_PATH:
        raise BadSetting(attribute.name, value, f"expected a path of at most {LONGEST_CONTROL_PATH} bytes in all")


def _mode(settings: object, attribute: Attribute[Any], value: object) -> None:
    if type(value) is not int or not 0o600 <= value <= 0o777 or value & 0o600 != 0o600:
        raise BadSetting(attribute.name, value, "expected permissions in octal, such as 600 or 660")


def _group(settings: object, attribute: Attribute[Any], value: str | None) -> None:
    if value is not None and not value.isdigit():
        try:
            grp.getgrnam(value)
        except KeyError:
            raise BadSetting(attribute.name, value, "there is no such group: expected a name or a number") from None


def _status_listen(settings: object, attribute: Attribute[Any], value: tuple[str, ...]) -> None:
    if value:
        _listen(settings, attribute, value)
    for endpoint in value:
        address = parse_address(endpoint)
        if address.kind == "plugin":
            raise BadSetting(attribute.name, endpoint, "expected tcp:, tcp6:, unix:, fd: or systemd:")
        if address.proxy or address.tls:
            raise BadSetting(attribute.name, endpoint, "it speaks plain HTTP, without proxy= and certificate=")


def _requests(settings: object, attribute: Attribute[Any], value: object) -> None:
    good = value is None or (
        isinstance(value, tuple) and [type(one) for one in value] == [int, int] and 0 <= value[1] < value[0]
    )
    if not good:
        raise BadSetting(attribute.name, value, "expected a number, or one give or take fewer: 10000 or 10000±500")


def _printable(settings: object, attribute: Attribute[Any], value: str) -> None:
    if not _TEXT.fullmatch(value):
        raise BadSetting(attribute.name, value, "expected at most 100 printable ASCII characters")


def _several(value: str | tuple[str, ...] | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def half_of_open_files(
    getrlimit: Callable[[int], tuple[int, int]] = resource.getrlimit,
) -> int:
    """Return the default of `max_connections`, from the limit on open files (`ulimit -n`).

    A connection needs a descriptor, and a second one while a large body of it is in a temporary file or while
    the application answers from a file or a database.  So it is half of the limit, and 10,000 at most.
    """
    soft, _ = getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(soft // 2, MOST_CONNECTIONS))


@frozen(kw_only=True)
class Settings:
    """The settings of an instance, with the command line's defaults.

    Every time is in seconds and may be a fraction.

    :ivar listen: endpoints to listen on: `tcp:8080`, `tcp:8080:interface=127.0.0.1`, `tcp6:8080`,
        `unix:/run/site.socket`, `fd:3`, `systemd:...`, or any other Twisted endpoint string.
    :ivar max_connections: how many client connections are open at a time; more wait in the kernel's queue.
        Default: half of the open files that the process may have, and 10,000 at most.
    :ivar threads: how many threads run the application.
    :ivar queue: how many exchanges may wait for a thread; one more is answered with 503.
    :ivar max_wait: seconds that an exchange may wait for the application, here and in a trusted proxy before; one
        that has waited longer is answered with 503.  None for any time.
    :ivar deadline: seconds from the closing of the sockets until what is still running is taken down.
    :ivar download_deadline: the same for downloads, which hold no thread; `deadline` if that is longer.
    :ivar lame_duck: seconds for which a stopping instance still accepts while its health says "going down".
    :ivar idle_grace: seconds that an idle connection is kept open in a drain, for one last request.  Clients are
        told to leave an idle connection before: see :attr:`announced_keep_alive`.
    :ivar close_spread: seconds over which a stopping instance closes its WebSockets.
    :ivar keep_alive: seconds after which a serving instance closes an idle connection, and one second more.
    :ivar header_timeout: seconds within which the head of a request must be complete.
    :ivar send_timeout: seconds for which a client may neither take nor send anything in the middle of a body.
    :ivar request_timeout: how long an exchange may run (see :class:`graceful.config.values.Limit`): the application
        is told, and a while later it is taken down.
    :ivar max_body: bytes of the largest request body that is taken; a larger one is answered with 413.
    :ivar websocket_max_message: bytes of the longest WebSocket message; a longer one closes the WebSocket with 1009.
    :ivar websocket_ping_interval: seconds of silence after which a WebSocket's client gets a ping; 0 for never.
    :ivar websocket_ping_timeout: seconds within which it has to give a sign; 0 for no limit.
    :ivar websocket_compression: `deflate` for permessage-deflate where a client offers it, or `off`.
    :ivar download: paths that are served without the application: `/files=http://librarian:58000/`, or a directory.
    :ivar download_immutable: a regular expression that is found in the paths of those files that never change, as
        those with a hash in their names: clients may keep them for ever; empty for none.
    :ivar internal_download: the same, for paths that the application's `X-Accel-Redirect` may name.
    :ivar upstream_connect_timeout: seconds within which an upstream server must take a connection.
    :ivar upstream_timeout: seconds for which an upstream server may say nothing.
    :ivar spool: directory for request bodies too large for memory.  Default: the system's temporary one.
    :ivar trusted_proxy: whose X-Forwarded-For, X-Forwarded-Proto, Forwarded and X-Request-Id are believed:
        networks (`10.0.0.0/8`), addresses, and `unix` for every peer on a Unix socket.
    :ivar access_log: file for the access log, `-` for standard output, None for none.
    :ivar access_log_format: what a line of it is: `combined`, `json`, or a template with names in braces.
    :ivar reports: directory for reports of what was taken down and what failed; None for none.
    :ivar report_slower_than: seconds from which on an exchange is reported as slow; None for never.
    :ivar report_hide: names of query values and header fields that no report may show; cookies and credentials never.
    :ivar health_path: where a balancer asks whether to send requests; empty for nowhere.
    :ivar going_down_status: the status of that answer once it should send none.
    :ivar control: path of the Unix socket for orders; empty for none.  None: none in a service among others, and in
        `graceful-app` the usual one.
    :ivar control_mode: the permissions of that socket.
    :ivar control_group: its group, name or number.
    :ivar takeover_timeout: seconds that a successor has, from getting the sockets until it accepts.
    :ivar max_draining: how many predecessors may still finish what they have; one more, and the oldest takes it down.
    :ivar workers: how many processes serve; 1 for this one.  With more, it is a supervisor.
    :ivar max_requests: a worker is replaced after the first number of requests, give or take the second.
    :ivar max_rss: bytes of memory from which on a worker is replaced.
    :ivar status_listen: endpoints for health, metrics and the status page, read-only.
    :ivar app_version: the application's, shown in status and health.
    :raises BadSetting: a value cannot be used.
    """

    listen: tuple[str, ...] = field(default=("tcp:8080",), converter=_several, validator=_listen)
    max_connections: int = field(factory=half_of_open_files, validator=_whole(1))
    threads: int = field(default=20, validator=_whole(1))
    queue: int = field(default=1000, validator=_whole(0))
    max_wait: float | None = field(default=None, validator=optional(_seconds(zero=False)))
    deadline: float = field(default=200, validator=_seconds(zero=True))
    download_deadline: float = field(default=3600, validator=_seconds(zero=True))
    lame_duck: float = field(default=0, validator=_seconds(zero=True))
    idle_grace: float = field(default=10, validator=_seconds(zero=True))
    close_spread: float = field(default=5, validator=_seconds(zero=True))
    keep_alive: float = field(default=75, validator=_seconds(zero=False))
    header_timeout: float = field(default=20, validator=_seconds(zero=False))
    send_timeout: float = field(default=60, validator=_seconds(zero=False))
    request_timeout: tuple[Limit, ...] = field(default=(), converter=tuple, validator=_limits)
    max_body: int = field(
        default=1 << 30,
        validator=_whole(1, "number of bytes (on a command line also as 64M or 1G)"),
    )
    websocket_max_message: int = field(
        default=16 << 20,
        validator=_whole(1, "number of bytes (on a command line also as 64K or 16M)"),
    )
    websocket_ping_interval: float = field(default=20, validator=_seconds(zero=True))
    websocket_ping_timeout: float = field(default=20, validator=_seconds(zero=True))
    websocket_compression: str = field(default=OFF, validator=_compression)
    spool: str = field(factory=tempfile.gettempdir, validator=_directory)
    download: tuple[str, ...] = field(default=(), converter=_several, validator=_mappings)
    download_immutable: str = field(default="", validator=_expression)
    internal_download: tuple[str, ...] = field(default=(), converter=_several, validator=_mappings)
    upstream_connect_timeout: float = field(default=5, validator=_seconds(zero=False))
    upstream_timeout: float = field(default=60, validator=_seconds(zero=False))
    trusted_proxy: tuple[str, ...] = field(default=(), converter=_several, validator=_proxies)
    access_log: str | None = field(default=None, validator=_log_file)
    access_log_format: str = field(default=COMBINED, validator=_line_format)
    reports: str | None = field(default=None, validator=_optional_directory)
    report_slower_than: float | None = field(default=None, validator=optional(_seconds(zero=False)))
    report_hide: tuple[str, ...] = field(default=(), converter=_several)
    health_path: str = field(default=HEALTH_PATH, validator=_health_path)
    going_down_status: int = field(default=503, validator=_error_status)
    control: str | None = field(default=None, validator=_control)
    control_mode: int = field(default=0o600, validator=_mode)
    control_group: str | None = field(default=None, validator=_group)
    takeover_timeout: float = field(default=60, validator=_seconds(zero=False))
    max_draining: int = field(default=5, validator=_whole(1))
    workers: int = field(default=1, validator=_whole(1))
    max_requests: tuple[int, int] | None = field(default=None, validator=_requests)
    max_rss: int | None = field(
        default=None, validator=optional(_whole(1 << 20, "number of bytes (on a command line also as 512M or 1G)"))
    )
    status_listen: tuple[str, ...] = field(default=(), converter=_several, validator=_status_listen)
    app_version: str = field(default="", validator=_printable)

    @property
    def logs_queue_times(self) -> bool:
        """Whether the access log shows how long exchanges wait."""
        return self.access_log_format == JSON or "queue_seconds" in self.access_log_format

    @property
    def logs_traces(self) -> bool:
        """Whether the access log shows which traces requests belong to."""
        return self.access_log_format == JSON or "{trace_id}" in self.access_log_format

    @property
    def announced_keep_alive(self) -> int:
        """The seconds that clients are told they may reuse an idle connection (`Keep-Alive: timeout`); 0: not told.

        A client that keeps to it never sends a request on a connection that is just being closed, in a drain neither:
        so a drain has to wait for it, and it is not `keep_alive`, which is long.
        """
        return max(0, int(min(self.keep_alive, self.idle_grace - ON_ITS_WAY)))
