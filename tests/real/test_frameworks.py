"""A Django project and a Flask application, unchanged, through real HTTP."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clients import Answer, Connection, chunked, request
from tests.support.home import Home
from tests.support.server import APPLICATIONS, PROGRAMS, Server

FILE = os.urandom(3_000_000)
LINES = b"".join(b"line %d\n" % number for number in range(1000))


@pytest.fixture(scope="module")
def data(module_home: Home) -> Path:
    """Make a directory for what the sites keep: a database with its tables, and a file."""
    directory = module_home.path / "data"
    directory.mkdir()
    (directory / "file.bin").write_bytes(FILE)
    environment = {
        **os.environ,
        "DJANGO_SITE_DATA": str(directory),
        "DJANGO_SETTINGS_MODULE": "django_site.settings",
    }
    migrate = [str(PROGRAMS / "django-admin"), "migrate", "--pythonpath", str(APPLICATIONS), "--verbosity=0"]
    subprocess.run(migrate, env=environment, check=True)
    return directory


@pytest.fixture(scope="module", params=["django_site.wsgi", "django_site.asgi", "flask_site:app"])
def site(request: pytest.FixtureRequest, module_home: Home, data: Path) -> Iterator[Server]:
    """Each of the sites in turn, on a server of its own."""
    environment = {"DJANGO_SITE_DATA": str(data), "FLASK_SITE_FILE": str(data / "file.bin")}
    options = ("--idle-grace", "0.5", "--spool", str(module_home.spool))
    with Server(module_home, *options, application=request.param, environment=environment) as server:
        yield server


def cookies(answer: Answer) -> dict[str, str]:
    """Return the cookies that an answer sets."""
    pairs = [value.split(";")[0].partition("=") for value in answer.values("Set-Cookie")]
    return {name: value for name, _, value in pairs}


def test_a_session_lasts_over_requests_and_connections(site: Server) -> None:
    """A session lasts over requests and connections."""
    with Connection(site.port) as connection:
        first = connection.get("/visits/")
        session = "; ".join(f"{name}={value}" for name, value in cookies(first).items())
        second = connection.get("/visits/", f"Cookie: {session}")
    assert (first.body, second.body) == (b"visit 1", b"visit 2")
    assert "HttpOnly" in first.values("Set-Cookie")[0]


def multipart(boundary: str) -> bytes:
    """Return an upload form's body."""
    parts = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="note"\r\n\r\nseen\r\n',
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n",
    )
    return "".join(parts).encode() + FILE + f"\r\n--{boundary}--\r\n".encode()


@pytest.mark.parametrize("coding", ["with a length", "chunked"])
def test_an_uploaded_form_arrives_whole(site: Server, coding: str) -> None:
    """An uploaded form with a file of 3 MB arrives, in chunks too, if the framework takes these."""
    if coding == "chunked" and site.command[-1] == "django_site.asgi":
        return  # Django under ASGI takes a form without a length for an empty one, whatever serves it
    expected = f"a.bin {len(FILE)} {hashlib.sha256(FILE).hexdigest()} seen".encode()
    fields = ["Content-Type: multipart/form-data; boundary=limit"]
    with Connection(site.port) as connection:
        token = cookies(connection.get("/upload/")).get("csrftoken")
        if token is not None:
            fields += [f"Cookie: csrftoken={token}", f"X-CSRFToken: {token}"]
        body = multipart("limit")
        if coding == "chunked":
            connection.send(request("/upload/", *fields, "Transfer-Encoding: chunked", method="POST"))
            connection.send(chunked(body[start : start + 50_000] for start in range(0, len(body), 50_000)))
        else:
            connection.send(request("/upload/", *fields, method="POST", body=body))
        assert connection.answer("POST").body == expected
        assert connection.get("/visits/").body == b"visit 1"


def test_a_streamed_answer_arrives_whole(site: Server) -> None:
    """A streamed answer arrives whole, and the connection can be used again."""
    with Connection(site.port) as connection:
        answer = connection.get("/stream/")
        assert (answer.header("Transfer-Encoding"), answer.body) == ("chunked", LINES)
        assert connection.get("/visits/").body == b"visit 1"


def test_a_file_response_arrives_whole_with_its_length(site: Server) -> None:
    """A file that the framework sends through its file response arrives whole, with its length."""
    with Connection(site.port) as connection:
        answer = connection.get("/file/")
        assert (answer.header("Content-Length"), answer.body) == (str(len(FILE)), FILE)
        assert connection.get("/file/", method="HEAD").header("Content-Length") == str(len(FILE))


def test_a_redirect_arrives_unchanged(site: Server) -> None:
    """A redirect reaches the client as the application made it."""
    with Connection(site.port) as connection:
        answer = connection.get("/old/")
        assert (answer.status, answer.header("Location")) == (302, "/visits/")


def test_the_frameworks_own_error_page_comes_through(site: Server) -> None:
    """The framework's own error page comes through."""
    with Connection(site.port) as connection:
        assert connection.get("/nothing-here/").status == 404
