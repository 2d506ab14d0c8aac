"""Measures long answers: one fast download, two thousand slow ones, ten thousand parked requests.

All servers run at the same time.  The server that is measured has the first cpu; its upstream and the clients have
the second.  An nginx is the file store.  The others are nginx as a proxy of the store, nginx as a server of its
files, and gunicorn, whose threads read from the store and write to the client.

    python bench/downloads.py --rounds 5
    python bench/downloads.py --parts slow,parked

Prints tables in Markdown; exits 1 if a server or a client failed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

from interpreter import interpreter
from servers import HERE, PROGRAMS, ServerFailed, free_port

PARTS = ("fast", "slow", "parked")
GIB = 1 << 30
#: Slow clients, the bytes that each reads a second, and for how many seconds.
SLOW = 2000
SLOW_RATE = 65536
SLOW_SECONDS = 20
#: Clients that wait for news.
PARKED = 10_000
#: Threads of each server: few, to show that long answers hold none.
THREADS = 4

NGINX = """
daemon off; pid {home}/{name}.pid; error_log {home}/{name}.err; worker_processes 1;
events {{ worker_connections 8192; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000;
    client_body_temp_path {home}/{name}-1; proxy_temp_path {home}/{name}-2; fastcgi_temp_path {home}/{name}-3;
    uwsgi_temp_path {home}/{name}-4; scgi_temp_path {home}/{name}-5;
    upstream store {{ server 127.0.0.1:{store}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port}; root {home}/files;
        location /up/ {{
            proxy_pass http://store/; proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
}}
"""


class Process:
    """A program on one cpu; a context manager that stops it."""

    def __init__(self, name: str, command: Sequence[str], cpu: int, home: Path, port: int) -> None:
        self.name = name
        self.port = port
        self.output = home / f"{name}.log"
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                ["taskset", "--cpu-list", str(cpu), *command],
                cwd=home,
                env={**os.environ, "PYTHONPATH": str(HERE)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        """Wait for the program's first answer.

        :raises ServerFailed: the program has ended, or does not answer within 30 s.
        """
        deadline = time.monotonic() + 30
        while True:
            try:
                get(self.port, "/small")
                return
            except (OSError, http.client.HTTPException) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerFailed(f"{self.name}: {error}\n{self.output.read_text()[-2000:]}") from error
            time.sleep(0.05)

    def memory(self) -> int:
        """Returns the program's resident memory in bytes, without that of its children."""
        with open(f"/proc/{self.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def get(port: int, path: str) -> bytes:
    """Ask for a small body.  Returns it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


class Client:
    """The process of all clients (bench/readers.py), on the other cpu."""

    def __init__(self, cpu: int, *arguments: object) -> None:
        self._process = subprocess.Popen(
            ["taskset", "--cpu-list", str(cpu), sys.executable, str(HERE / "readers.py"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self) -> dict[str, Any]:
        """Returns the next line that the clients report, decoded from JSON."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ServerFailed(f"the clients ended with exit status {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def go(self) -> None:
        """Let the clients go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.communicate()


def fast(servers: dict[str, tuple[Process, str]], rounds: int, cpu: int) -> str:
    """Have one client read 1 GiB as fast as it can.  Returns a table."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for number in range(rounds):
        for name in random.sample(list(servers), len(servers)):
            server, path = servers[name]
            with Client(cpu, "fast", server.port, path, GIB) as client:
                rates[name].append(GIB / client.said()["seconds"] / 1e6)
            print(f"round {number + 1}  {name:24} {rates[name][-1]:8,.0f} MB/s", file=sys.stderr)
    against = {"URL": "nginx, proxy_pass", "file": "nginx, sendfile"}
    lines = ["| server | MB/s, median [min-max] | × nginx |", "| --- | ---: | ---: |"]
    for name, found in rates.items():
        base = median(rates[against["file" if "file" in name else "URL"]])
        spread = f"{median(found):,.0f} [{min(found):,.0f}-{max(found):,.0f}]"
        lines.append(f"| {name} | {spread} | {median(found) / base:.2f} |")
    return "### One client, 1 GiB\n\n" + "\n".join(lines)


def slow(server: Process, paths: dict[str, str], cpu: int) -> str:
    """Have each of many clients read 64 KiB a second, while another client asks for `/`.  Returns a table."""
    lines = [
        "| downloads | of | slowest, share of its 64 KiB/s | `/` beside, median ms | p99 ms | KiB each |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, path in paths.items():
        get(server.port, path.replace("gib", "small"))
        before = server.memory()
        with Client(cpu, "slow", server.port, path, SLOW, SLOW_RATE, SLOW_SECONDS) as client:
            client.said()  # all are connected and have their first bytes
            time.sleep(SLOW_SECONDS / 2)
            each = (server.memory() - before) / SLOW / 1024
            found = client.said()
        times = sorted(found["beside"])
        p50, p99 = median(times) * 1e3, times[int(len(times) * 0.99)] * 1e3
        share = found["slowest"] / (SLOW_RATE * SLOW_SECONDS)
        lines.append(f"| {name} | {SLOW} | {share:.2f} | {p50:.1f} | {p99:.1f} | {each:.0f} |")
        time.sleep(2)
    return f"### {SLOW} slow downloads, {THREADS} threads\n\n" + "\n".join(lines)


def parked(server: Process, cpu: int) -> str:
    """Have many clients wait for news, which come to all at once.  Returns a table."""
    get(server.port, "/small")
    before = server.memory()
    with Client(cpu, "parked", server.port, "/park", PARKED) as client:
        client.said()
        deadline = time.monotonic() + 60
        while int(get(server.port, "/parked")) < PARKED:
            if time.monotonic() > deadline:
                raise ServerFailed("not all requests are parked")
            time.sleep(0.1)
        each = (server.memory() - before) / PARKED / 1024
        client.go()
        begin = time.monotonic()
        get(server.port, "/broadcast")
        found = client.said()
        seconds = time.monotonic() - begin
    lines = [
        "| parked | KiB each | all answered within |",
        "| ---: | ---: | ---: |",
        f"| {PARKED} | {each:.1f} | {seconds:.1f} s |",
    ]
    if found["answered"] != PARKED:
        raise ServerFailed(f"only {found['answered']} of {PARKED} were answered")
    return f"### {PARKED} parked requests, {THREADS} threads\n\n" + "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    """Start all servers, measure, and print the tables.  Returns the exit status."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2 or shutil.which("nginx") is None:
        raise ServerFailed("two cpus and nginx are needed")
    cpu, other = usable[:2]
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graceful-bench-")))
        home.chmod(0o755)
        (home / "files").mkdir()
        (home / "files" / "small").write_bytes(b"small")
        with (home / "files" / "gib").open("wb") as file:
            block = random.randbytes(1 << 20)
            for _ in range(GIB // len(block)):
                file.write(block)
        store_port = free_port()

        def nginx(name: str, cpu: int, port: int) -> Process:
            path = home / f"{name}.conf"
            path.write_text(NGINX.format(home=home, name=name, port=port, store=store_port))
            return stack.enter_context(Process(name, ["nginx", "-c", str(path)], cpu, home, port))

        store = nginx("store", other, store_port)
        front = nginx("front", cpu, free_port())
        os.environ.update(BENCH_STORE=f"http://127.0.0.1:{store_port}", BENCH_FILES=str(home / "files"))

        def graceful(part: str) -> Process:
            """Start a graceful for one part; each part has its own, since a process gives no memory back."""
            port = free_port()
            options = [
                f"--listen=tcp:{port}:interface=127.0.0.1",
                f"--threads={THREADS}",
                "--max-connections=20000",
                f"--internal-download=/store=http://127.0.0.1:{store_port}",
            ]
            command = [str(PROGRAMS / "twistd"), "-n", "--pidfile=", "graceful-app", *options]
            process = Process(f"ours-{part}", [*command, "longapp:application"], cpu, home, port)
            return stack.enter_context(process)

        ours = {part: graceful(part) for part in options.parts}
        port = free_port()
        arguments = ["--worker-class=gthread", f"--threads={THREADS}", f"--bind=127.0.0.1:{port}"]
        command = [str(PROGRAMS / "gunicorn"), *arguments, "longapp:application"]
        gunicorn = stack.enter_context(Process("gunicorn", command, cpu, home, port))
        for process in (store, front, *ours.values(), gunicorn):
            process.wait_until_ready()
        parts = []
        if "fast" in options.parts:
            parts.append(
                fast(
                    {
                        "nginx, proxy_pass": (front, "/up/gib"),
                        "ours, Download(URL)": (ours["fast"], "/url/gib"),
                        "ours, X-Accel-Redirect to a URL": (ours["fast"], "/accel/store/gib"),
                        "gunicorn, a thread that reads the URL": (gunicorn, "/url/gib"),
                        "nginx, sendfile": (front, "/gib"),
                        "ours, Download(file)": (ours["fast"], "/file/gib"),
                        "ours, wsgi.file_wrapper, a file": (ours["fast"], "/wrapped/gib"),
                        "gunicorn, wsgi.file_wrapper, a file": (gunicorn, "/wrapped/gib"),
                    },
                    options.rounds,
                    other,
                )
            )
        if "slow" in options.parts:
            parts.append(slow(ours["slow"], {"of URLs": "/url/gib", "of files": "/file/gib"}, other))
        if "parked" in options.parts:
            parts.append(parked(ours["parked"], other))
        print(f"CPython {interpreter()}\n")
        print("\n\n".join(parts))
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure long answers.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of the fast downloads")
    parser.add_argument(
        "--parts",
        type=lambda text: text.split(","),
        default=PARTS,
        metavar="A,B",
        help=f"which: {', '.join(PARTS)}",
    )
    return parser.parse_args(arguments)


def _leave(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _leave)
    try:
        sys.exit(run(parse_arguments()))
    except ServerFailed as error:
        sys.exit(f"downloads: {error}")
