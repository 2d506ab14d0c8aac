"""Converting a `uwsgi.ini`: the section `[uwsgi]`, whose keys may come again."""

from __future__ import annotations

import os
import re
from typing import Final

from graceful.config.conversion import CannotConvert, Conversion

#: The keys whose value is the option's.
_SAME: Final = {
    "processes": "workers",
    "workers": "workers",
    "threads": "threads",
    "harakiri": "request-timeout",
    "worker-reload-mercy": "deadline",
    "limit-post": "max-body",
    "max-requests": "max-requests",
    "chdir": "chdir",
    "static-map": "download",
}
_PROCESS: Final = {"pidfile": "pidfile", "uid": "uid", "gid": "gid", "umask": "umask", "logto": "logfile"}
_SOCKETS: Final = ("socket", "uwsgi-socket", "http", "http-socket", "http11-socket", "https")

#: What is so in any case, and why.
_ALWAYS: Final = {
    "close-on-exec": "always",
    "die-on-term": "always: SIGTERM finishes everything, and the server exits",
    "enable-threads": "always",
    "ignore-sigpipe": "always",
    "ignore-write-errors": "always",
    "lazy-apps": "the default: --preload is what uWSGI does without it",
    "master": "with workers there is always a supervisor",
    "need-app": "always: a start without the application fails",
    "post-buffering": "always: bodies over 64 KiB go to a file in --spool",
    "single-interpreter": "always",
    "thunder-lock": "not needed: workers have a socket each",
    "vacuum": "always",
}
_WHY: Final = {
    "buffer-size": "the head of a request has at most 64 KiB",
    "cheaper": "the number of workers is fixed; `graceful workers N` changes it",
    "disable-logging": "the default: see --access-log",
    "env": "set it in the environment of the process",
    "home": "use the graceful command of that virtual environment",
    "http-timeout": "see --send-timeout",
    "log-format": "see --access-log-format",
    "logger": "see --access-log, and --logfile",
    "mount": "a tree of resources, or one server for each application",
    "plugin": "there are no plugins for Python's sake",
    "plugins": "there are no plugins for Python's sake",
    "pp": "set PYTHONPATH",
    "py-autoreload": "for development: give --reload on the command line",
    "pythonpath": "set PYTHONPATH",
    "req-logger": "see --access-log",
    "stats": "see graceful status, and --status-listen",
    "touch-reload": "send SIGHUP",
    "venv": "use the graceful command of that virtual environment",
    "virtualenv": "use the graceful command of that virtual environment",
}
_FALSE: Final = ("0", "false", "no", "off")


def convert(path: str) -> Conversion:
    """Returns what a file says.

    :raises CannotConvert: it cannot be read, or has no section for uWSGI.
    """
    conversion = Conversion("uWSGI", path)
    values: dict[str, str] = {}  # of what is put together at the end
    for line, key, value in _lines(path):
        _one(conversion, values, line, key, value)
    _put_together(conversion, values)
    return conversion


def _lines(path: str) -> list[tuple[str, str, str]]:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotConvert(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    found: list[tuple[str, str, str]] = []
    variables: dict[str, str] = {}
    ours = inside = False
    for line in map(str.strip, text.splitlines()):
        if not line or line[0] in ";#":
            continue
        if line.startswith("["):
            ours = ours or line == "[uwsgi]"
            inside = line == "[uwsgi]"
            continue
        if not ours or not inside:
            continue
        key, _, value = (part.strip() for part in line.partition("="))
        value = re.sub(r"%\(([^)]+)\)", lambda match: variables.get(match[1], match[0]), value)
        value = re.sub(r"\$\(([^)]+)\)", lambda match: os.environ.get(match[1], match[0]), value)
        value = value.replace("%d", os.path.dirname(os.path.abspath(path)) + "/")
        variables[key] = value
        found.append((line, key.replace("_", "-"), value))
    if not ours:
        raise CannotConvert(f"{path} has no section [uwsgi]")
    return found


def _one(conversion: Conversion, values: dict[str, str], line: str, key: str, value: str) -> None:
    if key in ("set", "set-placeholder", "set-ph", "ini"):
        conversion.note(line, "write out what it stands for")
    elif key in ("module", "wsgi", "callable", "wsgi-file", "file", "chmod-socket", "listen"):
        values[key] = value
    elif key in _SOCKETS:
        _socket(conversion, line, key, value)
    elif key in _SAME:
        conversion.set(_SAME[key], value)
    elif key in ("reload-on-rss", "evil-reload-on-rss"):
        conversion.set("max-rss", f"{value}M")
    elif key in _PROCESS:
        conversion.process(_PROCESS[key], value)
    elif key == "daemonize":
        conversion.process("daemon")
        conversion.process("logfile", value)
    elif key in _ALWAYS:
        if value.lower() in _FALSE:
            conversion.note(line, f"cannot be turned off ({_ALWAYS[key]})")
        else:
            conversion.note(line, _ALWAYS[key])
    else:
        cheaper = key.startswith("cheaper")
        conversion.note(line, _WHY["cheaper"] if cheaper else _WHY.get(key, "no counterpart"))


def _socket(conversion: Conversion, line: str, key: str, value: str) -> None:
    address, *files = value.split(",")
    conversion.listen(line, address)
    if key == "https" and len(files) >= 2 and conversion.listeners:
        kind, _, rest = conversion.listeners[-1].partition(":")
        conversion.listeners[-1] = f"{kind.replace('tcp', 'tls')}:{rest}:certificate={files[0]}:key={files[1]}"
    elif key in ("socket", "uwsgi-socket"):
        conversion.note(line, "HTTP is spoken there: write proxy_pass for uwsgi_pass in nginx")


def _put_together(conversion: Conversion, values: dict[str, str]) -> None:
    module = values.get("module") or values.get("wsgi")
    path = values.get("wsgi-file") or values.get("file")
    if module is None and path is not None:
        module = os.path.splitext(path)[0].strip("./").replace("/", ".")
        conversion.note(f"wsgi-file = {path}", "is imported by its name, from the directory of --chdir")
    if module is not None:
        conversion.set("application", f"{module}:{values['callable']}" if "callable" in values else module)
    fields = [f":backlog={values['listen']}"] if "listen" in values else []
    for number, endpoint in enumerate(conversion.listeners):
        unix = endpoint.startswith("unix:")
        mode = [f":mode={values['chmod-socket']}"] if unix and "chmod-socket" in values else []
        if not endpoint.startswith("fd:"):
            conversion.listeners[number] = endpoint + "".join([*mode, *fields])
