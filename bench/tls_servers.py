"""The servers that are compared by TLS, each with the same certificate and on its own: no proxy decrypts for them.

A certificate with an elliptic curve, as most sites have one now.  Servers for ASGI get the same application in that
form.  nginx has no application; it shows what a handshake costs a server that does nothing else.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from servers import COMPILED, KINDS, THREADS, Kind, program

NGINX = """
daemon off;
worker_processes 1;
pid {logs}/nginx.pid;
error_log {logs}/nginx.log crit;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {logs};
    proxy_temp_path {logs};
    fastcgi_temp_path {logs};
    uwsgi_temp_path {logs};
    scgi_temp_path {logs};
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {logs}/site.pem;
        ssl_certificate_key {logs}/site.key;
        default_type text/plain;
        location / {{ return 200 "Hello, World!"; }}
    }}
}}
"""


def make_certificate(logs: Path) -> None:
    """Make `site.pem` and `site.key` in a directory."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(logs / "site.key")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *key, *names, "-days", "2", "-out", str(logs / "site.pem")]
    subprocess.run(command, check=True, capture_output=True)


def _pair(logs: Path, certificate: str, key: str) -> list[str]:
    return [f"--{certificate}={logs / 'site.pem'}", f"--{key}={logs / 'site.key'}"]


def _stock(port: int, logs: Path) -> list[str]:
    listen = f"ssl:{port}:interface=127.0.0.1:certKey={logs / 'site.pem'}:privateKey={logs / 'site.key'}"
    return [program("twistd"), "-n", "--pidfile=", "web", f"--listen={listen}", "--wsgi=app.application"]


def _gunicorn(port: int, logs: Path) -> list[str]:
    threads = ["--worker-class=gthread", "--workers=1", f"--threads={THREADS}"]
    pair = _pair(logs, "certfile", "keyfile")
    return [program("gunicorn"), *threads, *pair, f"--bind=127.0.0.1:{port}", "app:application"]


def _granian(port: int, logs: Path) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", "--http=1", *_pair(logs, "ssl-certificate", "ssl-keyfile")]
    threads = ["--workers=1", f"--blocking-threads={THREADS}"]
    return [program("granian"), "--interface=wsgi", *listen, *threads, "app:application"]


def _uvicorn(port: int, logs: Path) -> list[str]:
    listen = ["--host=127.0.0.1", f"--port={port}", *_pair(logs, "ssl-certfile", "ssl-keyfile")]
    return [program("uvicorn"), *listen, "--no-access-log", "--log-level=error", "app:asgi"]


def _hypercorn(port: int, logs: Path) -> list[str]:
    return [program("hypercorn"), f"--bind=127.0.0.1:{port}", *_pair(logs, "certfile", "keyfile"), "app:asgi"]


def _nginx(port: int, logs: Path) -> list[str]:
    configuration = logs / "nginx.conf"
    configuration.write_text(NGINX.format(port=port, logs=logs))
    return ["nginx", "-c", str(configuration), "-p", str(logs)]


def _ours(port: int, logs: Path, twistd: str | None = None) -> list[str]:
    listen = f"tls:{port}:interface=127.0.0.1:certificate={logs / 'site.pem'}:key={logs / 'site.key'}"
    log = ["--access-log", str(logs / f"access-{port}.log")]
    arguments = ["--listen", listen, "--threads", str(THREADS), *log, "app:application"]
    return [twistd or program("twistd"), "-n", "--pidfile=", "graceful-app", *arguments]


TLS_KINDS = {
    kind.name: kind
    for kind in (
        Kind("stock-tls", "twisted", _stock, tls=True),
        Kind("gunicorn-tls", "gunicorn", _gunicorn, tls=True),
        Kind("uvicorn-tls", "uvicorn", _uvicorn, tls=True),
        Kind("hypercorn-tls", "hypercorn", _hypercorn, tls=True),
        Kind("granian-tls", "granian", _granian, tls=True),
        Kind("nginx-tls", "", _nginx, {"big": "has no application", "sleep": "has no application"}, tls=True),
        Kind("ours-tls", "graceful-app", _ours, tls=True),
        *(
            [Kind("ours-compiled-tls", "graceful-app", partial(_ours, twistd=str(COMPILED / "twistd")), tls=True)]
            if COMPILED.exists()
            else []
        ),
    )
}

ALL_KINDS = {**KINDS, **TLS_KINDS}
