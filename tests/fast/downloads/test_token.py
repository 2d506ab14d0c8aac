"""The token by which an application hands its answer over, and its body on servers that do not take it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from http.client import IncompleteRead
from typing import Any
from urllib.error import HTTPError
from wsgiref.validate import validator

from graceful.application.current import current
from graceful.downloads import token as module
from graceful.downloads.token import HEADER, Download, HandoverToken, claim
from graceful.web.exchange import Exchange
from tests.fast.downloads.downloading import DownloadCase

Environ = dict[str, Any]


class Case(DownloadCase):
    """Code that runs for an exchange, or outside of one."""

    def made_for(self, exchange: Exchange | None, make: Callable[[], Any] = HandoverToken) -> Any:
        """Return what an application makes in its exchange."""
        before = current.set(exchange)
        try:
            return make()
        finally:
            current.reset(before)

    def id_of(self, token: HandoverToken) -> str:
        """The id that its header has."""
        ((name, value),) = token.headers
        self.assertEqual(name, HEADER)
        return value


class ClaimTests(Case):
    """Which id is good for what."""

    def test_token_is_claimed_once(self) -> None:
        """In its exchange a token can be claimed, once."""
        exchange = self.ask()[1]
        token = self.made_for(exchange)
        id = self.id_of(token)
        self.assertFalse(token.claimed)
        self.assertIs(claim(id, exchange), token)
        self.assertTrue(token.claimed)
        self.assertIsNone(claim(id, exchange))

    def test_other_exchange_cannot_claim(self) -> None:
        """In another exchange it is good for nothing, and still is for its own."""
        exchange, other = self.ask()[1], self.ask()[1]
        token = self.made_for(exchange)
        self.assertIsNone(claim(self.id_of(token), other))
        self.assertFalse(token.claimed)
        self.assertIs(claim(self.id_of(token), exchange), token)

    def test_unknown_ids_claim_nothing(self) -> None:
        """An unknown id claims nothing; ids are random, and no two are the same."""
        exchange = self.ask()[1]
        for id in ("", "0" * 32, "None", "\xe4"):
            self.assertIsNone(claim(id, exchange))
        tokens = [self.made_for(exchange) for _ in range(100)]
        ids = {self.id_of(token) for token in tokens}
        self.assertEqual(len(ids), 100)
        for id in ids:
            self.assertRegex(id, r"\A[0-9a-f]{32}\Z")

    def test_id_ends_with_its_token(self) -> None:
        """An id ends with its token: no reference keeps tokens."""
        exchange = self.ask()[1]
        token = self.made_for(exchange)
        id = self.id_of(token)
        self.assertIn(id, module._tokens)
        del token
        gc.collect()
        self.assertNotIn(id, module._tokens)
        self.assertIsNone(claim(id, exchange))

    def test_has_no_header_without_handover(self) -> None:
        """Outside of an exchange, and on a site without handover, a token has no header."""
        self.assertEqual(self.made_for(None).headers, [])
        exchange = self.ask()[1]
        self.engine.site.hand_over = None
        token = self.made_for(exchange)
        self.assertEqual((token.headers, token.exchange), ([], None))


class FileTests(Case):
    """A download of a file."""

    def test_opens_file_at_once(self) -> None:
        """The file is opened at once, so that the application can still answer that it is missing."""
        path = self.file(b"content")
        download = Download(path)
        self.assertEqual((download.size, download.target, download.remote), (7, path, False))
        self.assertEqual(self.descriptors(), [path])
        download.close()
        self.assertEqual(self.descriptors(), [])

    def test_takes_path_like_objects(self) -> None:
        """Anything that is like a path will do."""

        class Path:
            def __fspath__(path) -> str:
                return self.file(b"content")

        download = Download(Path())  # type: ignore[arg-type]
        self.assertEqual(b"".join(download), b"content")
        download.close()

    def test_missing_file_raises_with_its_name(self) -> None:
        """A target that is missing or no file raises an error that names it."""
        for path in (self.directory, os.path.join(self.directory, "missing"), "/dev/zero", ""):
            self.assertIn(path, str(self.assertRaises(FileNotFoundError, Download, path)))
        self.assertEqual(self.descriptors(), [])

    def test_guesses_content_type_by_name(self) -> None:
        """The type is guessed from the name, else it is application/octet-stream."""
        for name, kind in (("a.pdf", "application/pdf"), ("a", "application/octet-stream"), ("A.TXT", "text/plain")):
            download = Download(self.file(name=name))
            self.assertEqual(download.content_type, kind)
            download.close()
        self.assertEqual(Download("http://h/a.png?x=y.txt").content_type, "image/png")

    def test_closes_file_once(self) -> None:
        """The file is closed once, whether the token is closed, collected, or taken."""
        path = self.file()
        download = Download(path)
        download.close()
        download.close()
        self.assertEqual(self.descriptors(), [])
        download = Download(path)
        del download
        gc.collect()
        self.assertEqual(self.descriptors(), [])
        download = Download(path)
        file = download.take_file()
        assert file is not None
        self.assertIsNone(download.take_file())
        download.close()
        del download
        gc.collect()
        self.assertEqual(self.descriptors(), [path])
        file.close()

    def test_failed_construction_has_nothing_to_close(self) -> None:
        """A token whose constructor has failed has nothing to close."""
        download = Download.__new__(Download)
        download.__del__()


class ElsewhereTests(Case):
    """On another server, the thread does the work."""

    def call(self, download: Download, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
        """Return what any server gets from a token, checked by `wsgiref.validate`."""
        said: list[Any] = []
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "a",
            "SERVER_PORT": "80",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": _Input(),
            "wsgi.errors": _Errors(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            said.extend((status, dict(headers)))
            return lambda data: None

        result: Any = validator(download)(environ, start_response)
        try:
            body = b"".join(result)
        finally:
            result.close()
        return said[0], said[1], body

    def test_thread_sends_file(self) -> None:
        """A file is sent whole, with its length and kind, and closed."""
        status, fields, body = self.call(Download(self.file(b"x" * 100_000), [("X-A", "b")]))
        self.assertEqual((status, body), ("200 OK", b"x" * 100_000))
        self.assertEqual(fields, {"X-A": "b", "Content-Type": "text/plain", "Content-Length": "100000"})
        self.assertEqual(self.descriptors(), [])

    def test_keeps_the_applications_type(self) -> None:
        """The application's content type is not set twice."""
        _, fields, _ = self.call(Download(self.file(), [("content-type", "a/b")]))
        self.assertEqual(fields, {"content-type": "a/b", "Content-Length": "7"})

    def test_head_gets_length_and_closes_file(self) -> None:
        """HEAD gets the length, no body, and the file is closed."""
        status, fields, body = self.call(Download(self.file()), "HEAD")
        self.assertEqual((status, fields["Content-Length"], body), ("200 OK", "7", b""))
        result = Download(self.file())({"REQUEST_METHOD": "HEAD"}, lambda status, headers: None)
        self.assertEqual((result, self.descriptors()), ([], []))
        self.assertEqual(self.descriptors(), [])

    def test_reading_after_close_ends(self) -> None:
        """Reading after the close gives the end, never another file with the descriptor's number."""
        download = Download(self.file(b"x" * 100_000))
        pieces = iter(download)
        next(pieces)
        download.close()
        with open(self.file(b"secret" * 10_000, "other"), "rb"):
            self.assertEqual(list(pieces), [])

    def open_url(self, *pieces: bytes, length: int | None = None, trouble: Exception | None = None) -> list[Any]:
        """Have any URL answer with these pieces; what is asked, and the answers, which can be closed."""
        asked: list[Any] = []

        class Answer:
            closed = False
            rest = list(pieces)

            def __init__(self) -> None:
                self.length = length

            def read(self, size: int) -> bytes:
                piece = self.rest.pop(0) if self.rest else b""
                if self.length is not None:
                    self.length -= len(piece)
                return piece

            def close(self) -> None:
                self.closed = True

        def urlopen(request: Any, timeout: float) -> Answer:
            if trouble is not None:
                raise trouble
            answer = Answer()
            asked.extend((request, timeout, answer))
            return answer

        self.patch(module, "urlopen", urlopen)
        return asked

    def test_thread_reads_url(self) -> None:
        """A URL is read by the thread: not compressed, not for ever, and closed at the end."""
        asked = self.open_url(b"one", b"two", length=6)
        status, fields, body = self.call(Download("http://librarian/x", [("Content-Type", "a/b")]))
        self.assertEqual((status, fields, body), ("200 OK", {"Content-Type": "a/b"}, b"onetwo"))
        request, timeout, answer = asked
        self.assertEqual(
            (request.full_url, request.get_header("Accept-encoding")), ("http://librarian/x", "identity")
        )
        self.assertEqual((timeout, answer.closed), (60, True))

    def test_reads_url_of_unknown_length(self) -> None:
        """The length of a URL's body need not be known."""
        self.open_url(b"one", b"two")
        self.assertEqual(b"".join(Download("https://librarian/x")), b"onetwo")

    def test_broken_body_raises(self) -> None:
        """A body that breaks off is an error, not a short body: `read` does not tell."""
        asked = self.open_url(b"one", length=6)
        pieces = iter(Download("http://librarian/x"))
        self.assertEqual(next(pieces), b"one")
        self.assertRaises(IncompleteRead, next, pieces)
        self.assertTrue(asked[2].closed)

    def test_error_answer_raises(self) -> None:
        """An error status of the upstream raises an error."""
        self.open_url(trouble=HTTPError("http://librarian/x", 404, "Not Found", None, None))  # type: ignore[arg-type]
        self.assertRaises(HTTPError, list, Download("http://librarian/x"))

    def test_head_asks_no_upstream(self) -> None:
        """HEAD asks no upstream."""
        asked = self.open_url(b"one")
        self.call(Download("http://librarian/x", [("Content-Type", "a/b")]), "HEAD")
        self.assertEqual(asked, [])


class _Input:
    """The body of a request: there is none."""

    def read(self, size: int = -1) -> bytes:
        return b""

    readline = read

    def readlines(self, hint: int = -1) -> list[bytes]:
        return []

    def __iter__(self) -> Any:
        return iter(())


class _Errors:
    """Where an application complains."""

    def flush(self) -> None:
        """Nothing is kept."""

    def write(self, text: str) -> None:
        """Do nothing."""

    def writelines(self, lines: Any) -> None:
        """Do nothing."""
