"""Converting a `gunicorn.conf.py`.

It is a Python program, so it is run, as gunicorn does.  If it cannot be run here (it imports what is not installed),
its plain values are read all the same.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Final

from graceful.config.conversion import CannotConvert, Conversion

#: The settings whose value is the option's.
_SAME: Final = {
    "workers": "workers",
    "threads": "threads",
    "keepalive": "keep-alive",
    "worker_connections": "max-connections",
    "chdir": "chdir",
    "accesslog": "access-log",
    "wsgi_app": "application",
    "worker_tmp_dir": "spool",
}
_TIMES: Final = {"timeout": "request-timeout", "graceful_timeout": "deadline"}
_PROCESS: Final = {"pidfile": "pidfile", "user": "uid", "group": "gid", "umask": "umask", "errorlog": "logfile"}

#: What is put together from several settings, at the end.
_TOGETHER: Final = (
    "backlog",
    "bind",
    "ca_certs",
    "certfile",
    "keyfile",
    "max_requests",
    "max_requests_jitter",
    "preload_app",
    "proxy_allow_ips",
    "proxy_protocol",
)

_WHY: Final = {
    "access_log_format": "see --access-log-format: its templates have other names",
    "capture_output": "what the application prints is in the log if there is one (--logfile)",
    "default_proc_name": "no name of a process is changed",
    "forwarder_headers": "the fields of trusted proxies are fixed",
    "logger_class": "the log is twistd's: --logger",
    "logconfig": "the log is twistd's: --logger",
    "logconfig_dict": "the log is twistd's: --logger",
    "loglevel": "the log has no levels",
    "proc_name": "no name of a process is changed",
    "raw_env": "set it in the environment of the process",
    "reload": "for development: give --reload on the command line",
    "reuse_port": "workers have a socket each, always",
    "secure_scheme_headers": "X-Forwarded-Proto and Forwarded of a --trusted-proxy count",
    "sendfile": "always, for files",
    "statsd_host": "metrics are for Prometheus: --status-listen",
    "pythonpath": "set PYTHONPATH",
}
_LIMITS: Final = ("limit_request_line", "limit_request_fields", "limit_request_field_size")
_PLAIN: Final = ("sync", "gthread", "gevent", "eventlet", "tornado", "asgi")


def convert(path: str) -> Conversion:
    """Returns what a file says.

    :raises CannotConvert: it is no Python.
    """
    try:
        with open(path, encoding="utf-8") as file:
            source = file.read()
        tree = ast.parse(source, path)
    except OSError as error:
        raise CannotConvert(f"{path}: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise CannotConvert(f"{path} is no Python: {error}") from None
    conversion = Conversion("gunicorn", path)
    values = _run(tree, path, conversion)
    lines = _lines(tree)
    for name, line in lines.items():
        if name in values:
            _one(conversion, name, values[name], line)
    _put_together(conversion, values, lines)
    return conversion


def _run(tree: ast.Module, path: str, conversion: Conversion) -> dict[str, Any]:
    values: dict[str, Any] = {"__file__": path, "__name__": "gunicorn_conf"}
    try:
        exec(compile(tree, path, "exec"), values)
    except (Exception, SystemExit) as error:
        conversion.note(
            f"{type(error).__name__}", f"the file cannot be run here ({error}): its plain values were read"
        )
        for node in tree.body:
            for name in _names(node):
                try:
                    values.setdefault(name, ast.literal_eval(getattr(node, "value", None) or ast.Constant(None)))
                except ValueError:
                    conversion.note(ast.unparse(node), "what this is cannot be known here")
    return values


def _names(node: ast.stmt) -> list[str]:
    targets = (
        node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _lines(tree: ast.Module) -> dict[str, str]:
    """Returns the line of each name that is set at the top of the file, or in an `if` or a `with` there."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node in tree.body:
                found[node.name] = f"def {node.name}"
        elif isinstance(node, ast.stmt):
            found.update(dict.fromkeys(_names(node), ast.unparse(node)))
    return found


def _one(conversion: Conversion, name: str, value: Any, line: str) -> None:
    if value is None or name in _TOGETHER:
        return
    if callable(value):
        conversion.note(line, "there are no hooks of the server: see graceful.on_drain and graceful.on_exit")
    elif name in _SAME:
        conversion.set(_SAME[name], value)
    elif name in _TIMES:
        if value:
            conversion.set(_TIMES[name], value)
        else:
            conversion.note(line, "no limit" if name == "timeout" else "everything would be cut at once")
    elif name == "errorlog" and value == "-":
        pass  # the default
    elif name in _PROCESS:
        conversion.process(_PROCESS[name], f"{value:03o}" if name == "umask" and isinstance(value, int) else value)
    elif name == "daemon":
        if value:
            conversion.process("daemon")
    elif name == "forwarded_allow_ips":
        networks = [one.strip() for one in str(value).split(",") if one.strip()]
        conversion.set("trusted-proxy", *(network for one in networks for network in _networks(one)))
    elif name == "worker_class":
        _worker_class(conversion, str(value), line)
    elif name in _LIMITS:
        conversion.note(line, "the head of a request has at most 64 KiB")
    else:
        conversion.note(line, _WHY.get(name, "no counterpart"))


def _networks(text: str) -> tuple[str, ...]:
    return ("0.0.0.0/0", "::/0", "unix") if text == "*" else (text,)


def _worker_class(conversion: Conversion, value: str, line: str) -> None:
    if "uvicorn" in value or value == "asgi":
        conversion.set("interface", "asgi")
    elif value in ("gevent", "eventlet", "tornado"):
        conversion.note(line, "requests run in --threads: have as many as there were greenlets that worked at a time")
    elif value not in _PLAIN:
        conversion.note(line, "requests run in --threads, or in a loop if the application is ASGI")


def _put_together(conversion: Conversion, values: dict[str, Any], lines: dict[str, str]) -> None:
    def said(name: str) -> Any:
        return values.get(name) if name in lines else None

    requests, jitter = said("max_requests"), said("max_requests_jitter")
    if requests:
        conversion.set("max-requests", f"{requests}±{jitter}" if jitter else requests)
    if said("preload_app"):
        if (said("workers") or 1) > 1:
            conversion.set("preload", "true")
        else:
            conversion.note(lines["preload_app"], "only workers are forked, and this is one process")
    bind = said("bind")
    for address in [bind] if isinstance(bind, str) else bind or ["127.0.0.1:8000"]:
        conversion.listen(lines.get("bind", "bind"), str(address))
    add = _adding(said)
    conversion.listeners[:] = map(add, conversion.listeners)


def _adding(said: Callable[[str], Any]) -> Callable[[str], str]:
    """Returns a function that adds to an endpoint what other settings say of it."""
    fields = []
    if said("backlog"):
        fields.append(f"backlog={said('backlog')}")
    if said("proxy_protocol"):
        allowed = [one.strip() for one in str(said("proxy_allow_ips") or "127.0.0.1").split(",")]
        fields += [f"proxy={network}".replace("::", "\\:\\:") for one in allowed for network in _networks(one)]
    tls = [f"{name}={said(key)}" for name, key in _TLS if said(key)] if said("certfile") else []

    def add(endpoint: str) -> str:
        kind, _, rest = endpoint.partition(":")
        if kind == "fd":
            return endpoint
        secure = {"tcp": "tls", "tcp6": "tls6"}.get(kind, kind) if tls else kind
        return ":".join([secure, rest, *fields, *(tls if secure != kind else [])])

    return add


_TLS: Final = (("certificate", "certfile"), ("key", "keyfile"), ("client-ca", "ca_certs"))
