"""The built-in demo application."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from twisted.trial.unittest import SynchronousTestCase

from graceful.demo import Demo, application


class Answer:
    """An answer of the demo, taken through `wsgiref.validate`.

    :ivar log: the sleeps and the pieces of the body in the order in which they happened.
    """

    def __init__(self, path: str, query: str = "", method: str = "GET", **more: Any) -> None:
        self.log: list[float | bytes] = []
        environ: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, **more}
        environ["REQUEST_METHOD"] = method
        setup_testing_defaults(environ)
        body: Iterable[bytes] = validator(Demo(self.log.append, pid=lambda: 4711))(environ, self.start)
        try:
            for piece in body:
                self.log.append(piece)
        finally:
            body.close()  # type: ignore[attr-defined]
        self.body = b"".join(piece for piece in self.log if isinstance(piece, bytes)).decode()
        self.slept = [seconds for seconds in self.log if not isinstance(seconds, bytes)]

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: object = None) -> Any:
        """Take status and headers, as `start_response`."""
        self.status = status
        self.headers = dict(headers)


class PageTests(SynchronousTestCase):
    """The page says what to do."""

    def test_says_what_to_type(self) -> None:
        """The page says what to type, with the real pid, and links to the long requests."""
        answer = Answer("/")
        self.assertEqual(answer.status, "200 OK")
        self.assertIn("now run:", answer.body)
        self.assertIn("kill -TERM 4711", answer.body)
        for target in ("/fast", "/slow?seconds=20", "/stream?seconds=30"):
            self.assertIn(f'<a href="{target}">', answer.body)

    def test_answers_an_empty_path(self) -> None:
        """An application mounted somewhere gets an empty path for its page (PEP 3333)."""
        self.assertEqual(Answer("", SCRIPT_NAME="/demo").status, "200 OK")

    def test_loads_nothing_from_elsewhere(self) -> None:
        """The policy allows the page's own style sheet, by its hash, and nothing else; the page needs no more."""
        answer = Answer("/")
        policy = answer.headers["Content-Security-Policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertIsNone(re.search(r"<script|<link|<img|\bstyle=|\bon\w+=|@import|url\(", answer.body))

    def test_policy_has_the_hash_of_the_style(self) -> None:
        """The hash in the policy is that of the style sheet in the page."""
        answer = Answer("/")
        (style,) = re.findall(r"<style>(.*?)</style>", answer.body, re.S)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        self.assertIn(f"style-src 'sha256-{digest}'", answer.headers["Content-Security-Policy"])

    def test_command_names_the_host_of_the_browser(self) -> None:
        """The command to copy names the host that the browser used, if that is one."""
        self.assertIn("curl -N 'http://demo.example:81/stream", Answer("/", HTTP_HOST="demo.example:81").body)
        answer = Answer("/", HTTP_HOST="x'; rm -rf <b>")
        self.assertNotIn("rm -rf", answer.body)
        self.assertIn("curl -N 'http://localhost:8080/stream", answer.body)


class RequestTests(SynchronousTestCase):
    """The requests to watch."""

    def test_fast_does_not_sleep(self) -> None:
        """The fast request tells the process and does not sleep."""
        answer = Answer("/fast")
        self.assertEqual((answer.status, answer.slept), ("200 OK", []))
        self.assertIn("4711", answer.body)

    def test_slow_sleeps_before_it_answers(self) -> None:
        """The slow request sleeps first, then answers as a whole."""
        answer = Answer("/slow", "seconds=20")
        self.assertEqual(answer.status, "200 OK")
        self.assertEqual(answer.log, [20.0, answer.body.encode()])
        self.assertEqual(answer.body, "20 seconds later: still served by process 4711.\n")

    def test_stream_sends_a_line_each_second(self) -> None:
        """The stream sends a line at once, one each second with the pid, and says which is the last."""
        answer = Answer("/stream", "seconds=2.5")
        self.assertEqual(answer.slept, [1.0, 1.0, 0.5])
        self.assertEqual([type(item) for item in answer.log], [bytes, float, bytes, float, bytes, float, bytes])
        *lines, last = answer.body.splitlines()
        self.assertTrue(all("process 4711" in line for line in lines))
        self.assertIn("last line", last)
        self.assertNotIn("Content-Length", answer.headers)

    def test_browsers_do_not_hold_the_stream_back(self) -> None:
        """Browsers are told not to guess the stream's type, which would hold back its first lines."""
        self.assertEqual(Answer("/stream", "seconds=1").headers["X-Content-Type-Options"], "nosniff")

    def test_by_default_the_slow_request_takes_20_s_and_the_stream_30_s(self) -> None:
        """Without a time the slow request takes 20 seconds, the stream 30."""
        self.assertEqual(Answer("/slow").slept, [20.0])
        self.assertEqual(Answer("/stream").slept, [1.0] * 30)

    def test_times_are_clamped(self) -> None:
        """A request holds a thread for at most 300 seconds, and for at least none."""
        for query, seconds in {"301": 300.0, "999999999": 300.0, "300": 300.0, "-5": 0.0, "0": 0.0}.items():
            self.assertEqual(Answer("/slow", f"seconds={query}").slept, [seconds], query)
        self.assertEqual(len(Answer("/stream", "seconds=301").slept), 300)

    def test_bad_times_are_answered_with_400(self) -> None:
        """A value that is no time is answered with 400, without a sleep."""
        many = "&".join("a=1" for _ in range(50))
        for query in (
            "seconds=",
            "seconds=x",
            "seconds=nan",
            "seconds=inf",
            "seconds=1e9",
            "seconds=1&seconds=2",
            many,
        ):
            for path in ("/slow", "/stream"):
                answer = Answer(path, query)
                self.assertEqual((answer.status, answer.slept), ("400 Bad Request", []), query)

    def test_every_answer_but_the_stream_has_a_length(self) -> None:
        """Every answer but the stream announces its length."""
        for path, query in (("/", ""), ("/fast", ""), ("/slow", "seconds=1"), ("/slow", "seconds=x"), ("/none", "")):
            answer = Answer(path, query)
            self.assertEqual(int(answer.headers["Content-Length"]), len(answer.body.encode()), path)


class MethodTests(SynchronousTestCase):
    """Other methods and paths."""

    def test_head_has_the_headers_of_get(self) -> None:
        """HEAD gets the headers of GET, no body, and does not wait."""
        for path in ("/", "/fast", "/slow", "/stream", "/none"):
            head, get = Answer(path, method="HEAD"), Answer(path)
            self.assertEqual((head.status, head.headers), (get.status, get.headers))
            self.assertEqual((head.body, head.slept), ("", []))

    def test_other_paths_are_not_found(self) -> None:
        """Any other path is answered with 404."""
        for path in ("/favicon.ico", "/slow/", "//"):
            self.assertEqual(Answer(path).status, "404 Not Found", path)

    def test_other_methods_are_not_allowed(self) -> None:
        """Any other method is answered with 405, which says what is allowed (RFC 9110 section 15.5.6)."""
        answer = Answer("/", method="POST", CONTENT_LENGTH="0")
        self.assertEqual((answer.status, answer.headers["Allow"]), ("405 Method Not Allowed", "GET, HEAD"))

    def test_the_served_application_is_a_demo(self) -> None:
        """What the server imports is a demo that really sleeps."""
        self.assertIsInstance(application, Demo)
