"""Real clients of real applications: git, pip and twine, a calendar's, a library's of HTTP, and forms of a browser.

A client of our own knows what it waits for.  These know nothing of the server: each has its own ways with
connections, bodies and `Expect`.  A *turn* is a piece of work as a user does it, and its result is checked; whatever
goes wrong raises.  No client is told to try again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from abc import ABCMeta, abstractmethod
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests
from attrs import define, field

from tests.support.waiting import wait_for

#: Seconds that one program may take, on a machine that does much else.
LONG = 120.0
#: The user of the sites that ask for one.
USER, PASSWORD = "admin", "secret"


@define
class Client(metaclass=ABCMeta):
    """One client.

    :ivar url: of the application, without a slash at its end.
    :ivar site: the directory of the application.
    :ivar path: a directory of its own.
    :ivar name: no other client of this application has it.
    :ivar number: of the turn, from 1.
    """

    url: str
    site: Path
    path: Path
    name: str
    number: int = 0
    session: requests.Session = field(factory=requests.Session)

    def take_turn(self) -> None:
        """Do a piece of work, and check its result."""
        self.number += 1
        self.turn(f"{self.name}{self.number}")

    def prepare(self) -> None:
        """Do what precedes the first turn."""
        self.path.mkdir()

    @abstractmethod
    def turn(self, name: str) -> None:
        """Do a piece of work.

        :param name: for what is made in it.
        :raises Exception: it did not succeed.
        """

    def run(self, *command: str | Path) -> str:
        """Run a program in the client's directory.  Returns what it says.

        :raises AssertionError: it fails.
        """
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "GIT_", "TWINE_"))},
            "HOME": str(self.path),
            "PIP_CONFIG_FILE": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "NO_COLOR": "1",
        }
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=self.path, env=environment, capture_output=True, text=True, timeout=LONG, check=False
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, method: str, path: str, status: int = 200, **more: Any) -> requests.Response:
        """Send a request on the client's connection, and check the status of its answer."""
        answer = self.session.request(method, self.url + path, timeout=LONG, allow_redirects=False, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text[:400]}"
        return answer


class Git(Client):
    """`git push` of more than is sent at once, so that its body is chunked, and `git clone`."""

    def turn(self, name: str) -> None:
        """Push a repository with a file, and clone it."""
        served, mine, cloned = self.site / name, self.path / "mine", self.path / "cloned"
        self.run("git", "init", "--quiet", "--bare", served)
        self.run("git", "init", "--quiet", mine)
        content = os.urandom(2 << 20)
        (mine / "file").write_bytes(content)
        git = ("git", "-C", mine, "-c", "user.name=A", "-c", "user.email=a@example.org")
        self.run(*git, "add", "file")
        self.run(*git, "commit", "--quiet", "--message", name)
        self.run(*git, "push", "--quiet", f"{self.url}/{name}", "HEAD:refs/heads/master")
        self.run("git", "clone", "--quiet", "--branch", "master", f"{self.url}/{name}", cloned)
        assert (cloned / "file").read_bytes() == content
        for directory in (served, mine, cloned):
            shutil.rmtree(directory)


class Packages(Client):
    """`twine upload` and `pip download`."""

    def turn(self, name: str) -> None:
        """Upload a wheel, and download it."""
        project = f"project-{name}"
        wheel = self.path / f"project_{name}-1.0-py3-none-any.whl"
        made = f"project_{name}-1.0.dist-info"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{made}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n")
            archive.writestr(
                f"{made}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{made}/RECORD", "")
            archive.writestr("content", os.urandom(1 << 20))
        twine = (sys.executable, "-m", "twine", "upload", "--disable-progress-bar", "--non-interactive")
        self.run(*twine, "--repository-url", f"{self.url}/", "--username", "a", "--password", "a", wheel)
        pip = (sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--no-cache-dir")
        there = self.path / "there"
        self.run(
            *(*pip, "download", "--quiet", "--no-deps", "--retries", "0", "--dest", there),
            *("--index-url", f"{self.url}/simple/", f"{project}==1.0"),
        )
        (downloaded,) = there.iterdir()
        assert _digest(downloaded) == _digest(wheel)
        shutil.rmtree(there)
        wheel.unlink()
        (self.site / "packages" / wheel.name).unlink()


class Calendar(Client):
    """The library caldav: PROPFIND, MKCALENDAR, PUT, REPORT and DELETE."""

    def turn(self, name: str) -> None:
        """Make a calendar with two events, look for them, and delete it."""
        from caldav import DAVClient

        with DAVClient(f"{self.url}/", username=self.name, password="any") as client:
            calendar = client.principal().make_calendar(name=name)
            for day in (1, 2):
                calendar.save_event(
                    dtstart=datetime(2030, 1, day, 8, tzinfo=timezone.utc),
                    dtend=datetime(2030, 1, day, 10, tzinfo=timezone.utc),
                    summary=f"{name} on {day}",
                )
            second, third = (datetime(2030, 1, day, tzinfo=timezone.utc) for day in (2, 3))
            found = calendar.search(start=second, end=third, event=True)
            assert [f"{name} on 2" in event.data for event in found] == [True], found
            assert len(calendar.events()) == 2
            calendar.delete()


class Httpbin(Client):
    """The library requests: bodies of each form in both directions, and answers that take their time."""

    def turn(self, name: str) -> None:
        """Send and receive."""
        body = os.urandom(300_000)
        said = self.ask(
            "POST", "/anything", data=(body[at : at + 50_000] for at in range(0, len(body), 50_000))
        ).json()
        assert said["method"] == "POST"
        assert len(said["data"]) > len(body)
        said = self.ask("PUT", f"/anything/{name}", json={"name": name}).json()
        assert said["json"] == {"name": name}
        self.ask("POST", "/post", files={"file": (name, body)})
        assert self.ask("GET", "/gzip").json()["gzipped"] is True
        assert len(self.ask("GET", "/stream-bytes/100000?chunk_size=5000").content) == 100_000
        assert len(self.ask("GET", "/stream/20").content.splitlines()) == 20
        assert self.ask("GET", "/drip?duration=1&numbytes=10&delay=0").content == b"*" * 10
        assert self.ask("GET", "/range/5000", 206, headers={"Range": "bytes=1000-1999"}).headers["Content-Range"] == (
            "bytes 1000-1999/5000"
        )
        self.ask("GET", "/status/418", 418)
        self.ask("HEAD", "/get")
        self.ask("GET", "/delay/1")


class Admin(Client):
    """Forms of Django's administration, as a browser sends them: a session, a token, redirects."""

    def prepare(self) -> None:
        """Log in."""
        super().prepare()
        self._send("/admin/login/", username=USER, password=PASSWORD, next="/admin/")

    def turn(self, name: str) -> None:
        """Add a group, find it, change it, and delete it."""
        self._send("/admin/auth/group/add/", name=name)
        page = self.ask("GET", f"/admin/auth/group/?q={name}").text
        found = list(set(re.findall(rf"/admin/auth/group/(\d+)/change/[^>]*>{name}<", page)))
        assert len(found) == 1, page
        where = f"/admin/auth/group/{found[0]}"
        self._send(f"{where}/change/", name=f"{name} changed")
        assert f"{name} changed" in self.ask("GET", f"{where}/change/").text
        self._send(f"{where}/delete/", post="yes")
        self.ask("GET", f"{where}/change/", 302)

    def _send(self, path: str, **fields: str) -> None:
        """Fill in the form of a page, and send it."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.ask("GET", path).text)
        assert token is not None
        self.ask("POST", path, 302, data={"csrfmiddlewaretoken": token[1], **fields}, headers={"Referer": self.url})


class Zope(Client):
    """Forms of Zope's management: folders and documents in a database of objects."""

    def prepare(self) -> None:
        """Make a folder of its own."""
        super().prepare()
        self.session.auth = (USER, PASSWORD)
        self.ask("POST", "/manage_addFolder", data={"id": self.name})

    def turn(self, name: str) -> None:
        """Add documents with text and with a file, read them, and delete them."""
        content = os.urandom(500_000)
        mine, text = f"/{self.name}", f"<p>{name}</p>"
        self.ask("POST", f"{mine}/manage_addDTMLMethod", 302, data={"id": f"d{name}", "file": text})
        self.ask("POST", f"{mine}/manage_addFile", 302, data={"id": f"f{name}"}, files={"file": ("file", content)})
        assert name in self.ask("GET", f"{mine}/d{name}").text
        assert self.ask("GET", f"{mine}/f{name}").content == content
        self.ask("POST", f"{mine}/manage_delObjects", data={"ids:list": [f"d{name}", f"f{name}"]})
        # Another process, to which the connection has moved meanwhile, hears from the database a moment later.
        wait_for(lambda: self.session.get(f"{self.url}{mine}/d{name}", timeout=LONG).status_code == 404)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
