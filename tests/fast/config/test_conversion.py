"""What the files of gunicorn and uWSGI become: a file that `--config` reads, and a comment for the rest."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.config import from_gunicorn, from_uwsgi
from graceful.config.conversion import CannotConvert, endpoint_of
from graceful.config.option_table import PARAMETERS
from graceful.config.settings import Settings
from graceful.config.sources import REPEATED_NAMES, from_file
from tests.fast.doubles import directory_for

GUNICORN = """
import multiprocessing
bind = ["127.0.0.1:8000", "unix:/run/site.sock"]
backlog = 512
workers = multiprocessing.cpu_count() * 0 + 4
worker_class = "gthread"
threads: int = 8
timeout = 60
graceful_timeout = 45
max_requests = 1000
max_requests_jitter = 50
accesslog = "-"
errorlog = "/var/log/site.log"
umask = 0o027
daemon = True
forwarded_allow_ips = "10.0.0.1, 10.0.0.2"
preload_app = True
if workers:
    limit_request_line = 1000
def post_fork(server, worker):
    pass
"""
UWSGI = """
[other]
threads = 99
[uwsgi]
; a comment
base = /srv/site
socket = %(base)/run.sock
chmod-socket = 660
http-socket = :8080
listen = 100
wsgi-file = mysite/wsgi.py
callable = app
master = true
enable_threads = false
workers = 4
static-map = /static=/srv/static
static-map = /media=/srv/media
reload-on-rss = 512
daemonize = /var/log/site.log
cheaper-initial = 2
mule = 1
"""


class ConversionTests(SynchronousTestCase):
    """Files are converted."""

    def setUp(self) -> None:
        """Have a directory."""
        self.directory = directory_for(self)

    def write(self, name: str, text: str) -> str:
        """Write a file.  Returns its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def convert(self, name: str, text: str) -> tuple[dict[str, Any], list[str], str]:
        """Returns the settings that a file becomes, its comments, and how the server is started."""
        convert = from_gunicorn.convert if name.endswith(".py") else from_uwsgi.convert
        made = convert(self.write(name, text)).text()
        given = from_file(self.write("site.toml", made))
        read = {option.name: option.read for option in PARAMETERS}
        settings: dict[str, Any] = {}
        for key, one in given.items():
            parse = read.get(key)
            value = one.texts if key in REPEATED_NAMES else parse(one.texts[0]) if parse else one.texts[0]
            settings[key] = value
        usable = {key.replace("-", "_"): value for key, value in settings.items()}
        for name in ("application", "request_timeout", "chdir", "interface", "download", "preload"):
            usable.pop(name, None)
        Settings(**usable)  # the server takes them
        first, *lines = made.splitlines()
        return settings, [line for line in lines if line.startswith("# ")], first.partition("Start: ")[2]

    def test_gunicorns_file_becomes_options(self) -> None:
        """Each setting of gunicorn's with a counterpart becomes that; computed values are what they are."""
        settings, _, start = self.convert("gunicorn.conf.py", GUNICORN)
        self.assertEqual(
            settings,
            {
                "listen": ("tcp:8000:interface=127.0.0.1:backlog=512", "unix:/run/site.sock:backlog=512"),
                "workers": 4,
                "preload": "true",
                "threads": 8,
                "request-timeout": ("60",),
                "deadline": 45.0,
                "max-requests": (1000, 50),
                "access-log": "-",
                "trusted-proxy": ("10.0.0.1", "10.0.0.2"),
            },
        )
        self.assertEqual(start, "graceful serve --config FILE --logfile /var/log/site.log --umask 027 --daemon")

    def test_every_line_without_a_counterpart_is_a_comment(self) -> None:
        """What has no counterpart is said, line by line, with the reason."""
        _, comments, _ = self.convert("gunicorn.conf.py", GUNICORN)
        self.assertEqual(
            comments,
            [
                "# What has no counterpart:",
                "# def post_fork: there are no hooks of the server: see graceful.on_drain and graceful.on_exit",
                "# limit_request_line = 1000: the head of a request has at most 64 KiB",
            ],
        )

    def test_tls_and_the_proxy_protocol_become_part_of_the_endpoint(self) -> None:
        """Certificates and the PROXY protocol, which gunicorn has beside the addresses, are part of each here."""
        text = "bind = ':8443'\ncertfile = 'a.pem'\nkeyfile = 'a.key'\n"
        text += "proxy_protocol = True\nproxy_allow_ips = '10.0.0.1'\n"
        made = from_gunicorn.convert(self.write("gunicorn.conf.py", text)).text()
        self.assertIn('listen = ["tls:8443:proxy=10.0.0.1:certificate=a.pem:key=a.key"]', made)

    def test_one_process_is_not_forked(self) -> None:
        """gunicorn preloads with one worker, too, which here is no worker of a supervisor."""
        _, comments, _ = self.convert("gunicorn.conf.py", "preload_app = True")
        self.assertIn("# preload_app = True: only workers are forked, and this is one process", comments)

    def test_without_an_address_it_is_gunicorns_default(self) -> None:
        """gunicorn listens at 127.0.0.1:8000 by default, and so does what comes of its file; workers of ASGI, too."""
        settings, _, _ = self.convert("gunicorn.conf.py", "worker_class = 'uvicorn.workers.UvicornWorker'")
        self.assertEqual(settings, {"listen": ("tcp:8000:interface=127.0.0.1",), "interface": "asgi"})

    def test_a_file_that_cannot_be_run_is_read_all_the_same(self) -> None:
        """If the file imports what is not there, plain values count, and the comments name the others."""
        settings, comments, _ = self.convert("g.py", "import not_there\nworkers = 3\nthreads = not_there.number")
        self.assertEqual(settings["workers"], 3)
        self.assertNotIn("threads", settings)
        self.assertIn("# threads = not_there.number: what this is cannot be known here", comments)

    def test_uwsgis_file_becomes_options(self) -> None:
        """Each key of uWSGI's with a counterpart becomes that; keys come again, and stand for each other."""
        settings, comments, start = self.convert("uwsgi.ini", UWSGI)
        self.assertEqual(
            settings,
            {
                "application": "mysite.wsgi:app",
                "listen": ("unix:/srv/site/run.sock:mode=660:backlog=100", "tcp:8080:backlog=100"),
                "workers": 4,
                "max-rss": 512 << 20,
                "download": ("/static=/srv/static", "/media=/srv/media"),
            },
        )
        self.assertEqual(start, "graceful serve --config FILE --daemon --logfile /var/log/site.log")
        self.assertEqual(
            comments,
            [
                "# What has no counterpart:",
                "# base = /srv/site: no counterpart",
                "# socket = %(base)/run.sock: HTTP is spoken there: write proxy_pass for uwsgi_pass in nginx",
                "# master = true: with workers there is always a supervisor",
                "# enable_threads = false: cannot be turned off (always)",
                "# cheaper-initial = 2: the number of workers is fixed; `graceful workers N` changes it",
                "# mule = 1: no counterpart",
                "# wsgi-file = mysite/wsgi.py: is imported by its name, from the directory of --chdir",
            ],
        )

    def test_refuses_what_it_cannot_read(self) -> None:
        """A file that is not there, is no Python, or has no section for uWSGI is refused in one line."""
        for convert, path, why in (
            (from_gunicorn.convert, "/nowhere.py", "/nowhere.py: No such file or directory"),
            (from_gunicorn.convert, self.write("x.py", "def"), "is no Python: invalid syntax"),
            (from_uwsgi.convert, "/nowhere.ini", "/nowhere.ini: No such file or directory"),
            (from_uwsgi.convert, self.write("x.ini", "[other]\na = b"), "has no section [uwsgi]"),
        ):
            self.assertIn(why, str(self.assertRaises(CannotConvert, convert, path)))

    def test_addresses_become_endpoints(self) -> None:
        """Addresses as other servers write them are endpoints here."""
        for address, endpoint in (
            ("127.0.0.1:8000", "tcp:8000:interface=127.0.0.1"),
            (":8000", "tcp:8000"),
            ("*:8000", "tcp:8000"),
            ("0.0.0.0:8000", "tcp:8000"),
            ("[::]:8000", "tcp6:8000"),
            ("[::1]:8000", "tcp6:8000:interface=\\:\\:1"),
            ("unix:/run/a", "unix:/run/a"),
            ("unix:///run/a", "unix:/run/a"),
            ("/run/a", "unix:/run/a"),
            ("fd://3", "fd:3"),
            ("nonsense", None),
        ):
            self.assertEqual(endpoint_of(address), endpoint, address)
