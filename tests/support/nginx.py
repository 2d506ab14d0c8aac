"""A real nginx as the file store: the *librarian* behind the server, which has the files and is restarted at will.

It has one process, so that what is killed by its pid is all of it, and every connection of it breaks in that moment.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import wait_for

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    log_format asked '$request_method $request_uri $status $bytes_sent "$http_range" "$http_if_range"';
    access_log {directory}/access.log asked;
    client_body_temp_path {directory}/temporary;
    proxy_temp_path {directory}/temporary;
    fastcgi_temp_path {directory}/temporary;
    uwsgi_temp_path {directory}/temporary;
    scgi_temp_path {directory}/temporary;
    default_type application/x-from-nginx;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        root {files};
        location /no-ranges/ {{ alias {files}/; max_ranges 0; }}
        location /no-validator/ {{ alias {files}/; etag off; }}
    }}
}}
"""


class Nginx:
    """An nginx process that serves a directory.

    :param directory: for its configuration and logs.
    :param files: what it serves.
    :ivar port: where it listens, on 127.0.0.1; the same after a restart.
    :ivar url: of its root, without a slash at the end.
    """

    def __init__(self, directory: Path, files: Path) -> None:
        assert shutil.which("nginx"), "nginx is not installed"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / "access.log"
        self._configuration = directory / "nginx.conf"
        self._configuration.write_text(CONFIGURATION.format(directory=directory, files=files, port=self.port))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it accepts."""
        assert self._process is None
        command = ["nginx", "-e", "stderr", "-c", str(self._configuration)]
        process = self._process = subprocess.Popen(command)

        def listens() -> bool:
            assert process.poll() is None, f"nginx has ended with {process.returncode}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(listens)

    def kill(self) -> None:
        """End it at once, in the middle of whatever it sends."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def asked(self) -> list[str]:
        """What it has been asked for and has answered, a line for each: method, target, status, bytes, ranges."""
        return self._log.read_text().splitlines()
