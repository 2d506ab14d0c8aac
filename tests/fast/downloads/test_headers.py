"""Which fields the head of a download's answer has: the application's, the file's or the upstream's."""

from __future__ import annotations

from typing import Any

from twisted.web.http_headers import Headers

from graceful.downloads.files import OpenFile
from graceful.downloads.headers import (
    ApplicationHead,
    application_head,
    client_fields,
    file_head,
    request_fields,
    upstream_fields,
)
from graceful.web.exchange import Exchange
from tests.fast.downloads.downloading import DownloadCase

DATE = "Sun, 09 Sep 2001 01:46:40 GMT"
BEFORE = "Sun, 09 Sep 2001 01:46:39 GMT"
TAG = '"de0b6b3a7640000-64"'
OWN = ("ETag", '"own"')

Fields = tuple[tuple[str, str], ...]


class Case(DownloadCase):
    """An exchange, and a file of 100 bytes."""

    def exchange(self, method: str = "GET", **fields: str) -> Exchange:
        """An exchange that is to be answered."""
        return self.ask(self.request("/", method, **fields))[1]

    def file_head(
        self, *own: tuple[str, str], method: str = "GET", status: int = 200, guess: str | None = None, **fields: str
    ) -> tuple[str, dict[str, str], tuple[int, int]]:
        """The status line, the fields by lower-case name, and the part of the file."""
        file = OpenFile(-1, 100, 1_000_000_000 * 10**9 + 999_999_999)
        line, head, selection = file_head(self.exchange(method, **fields), ApplicationHead(status, own), file, guess)
        names = [name.lower() for name, _ in head]
        self.assertEqual(len(set(names) - {"set-cookie"}), len([name for name in names if name != "set-cookie"]))
        return line, {name.lower(): value for name, value in head}, (selection.first, selection.end)


class FileTests(Case):
    """The answer to a request for a file."""

    def test_whole_file_has_length_type_and_validators(self) -> None:
        """The head has length, type, and the validators that a client needs to resume."""
        expected = {
            "content-type": "text/plain",
            "content-length": "100",
            "etag": TAG.replace("de0b6b3a7640000", f"{10**18 + 999_999_999:x}"),
            "last-modified": DATE,
            "accept-ranges": "bytes",
        }
        for method in ("GET", "HEAD", "POST"):
            self.assertEqual(self.file_head(method=method, guess="text/plain"), ("200 OK", expected, (0, 100)))

    def test_application_fields_win(self) -> None:
        """A field that the application has set is not set twice."""
        own = (("content-type", "a/b"), ("ETAG", '"own"'), ("last-modified", BEFORE), ("X-A", "1"))
        _, head, _ = self.file_head(*own, guess="text/plain")
        self.assertEqual({name: head[name.lower()] for name, _ in own}, dict(own))
        self.assertEqual(set(head), {name.lower() for name, _ in own} | {"content-length", "accept-ranges"})

    def test_keeps_several_cookies(self) -> None:
        """Several cookies stay several."""
        cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]
        exchange = self.exchange()
        _, head, _ = file_head(exchange, ApplicationHead(200, tuple(cookies)), OpenFile(-1, 5, 0), None)
        self.assertEqual([field for field in head if field[0] == "Set-Cookie"], cookies)

    def test_part_has_content_range(self) -> None:
        """A part says which one it is."""
        line, head, part = self.file_head(range="bytes=10-19", guess="text/plain")
        self.assertEqual((line, part), ("206 Partial Content", (10, 20)))
        self.assertEqual((head["content-range"], head["content-length"]), ("bytes 10-19/100", "10"))
        self.assertEqual(head["content-type"], "text/plain")

    def test_416_has_size_and_nothing_about_the_body(self) -> None:
        """A part that is not there: how long the file is, and nothing about a body that is not sent."""
        line, head, part = self.file_head(
            ("Content-Type", "a/b"), ("Content-Disposition", "attachment"), range="bytes=100-"
        )
        self.assertEqual((line, part), ("416 Range Not Satisfiable", (0, 0)))
        self.assertEqual((head["content-range"], head["content-length"]), ("bytes */100", "0"))
        self.assertNotIn("content-type", head)
        self.assertNotIn("content-disposition", head)

    def test_304_has_validators_and_caching(self) -> None:
        """304 has the validators and the application's caching, but no length and no kind."""
        own = (("Cache-Control", "max-age=5"), ("Content-Type", "a/b"), ("Set-Cookie", "a=1"))
        line, head, _ = self.file_head(*own, guess="text/plain", if_modified_since=DATE)
        self.assertEqual(line, "304 Not Modified")
        self.assertEqual(set(head), {"cache-control", "set-cookie", "etag", "last-modified", "accept-ranges"})

    def test_412_is_empty(self) -> None:
        """412 is empty."""
        line, head, _ = self.file_head(("Content-Type", "a/b"), if_match='"x"')
        self.assertEqual(
            (line, head["content-length"], "content-type" in head), ("412 Precondition Failed", "0", False)
        )

    def test_compares_dates_in_whole_seconds(self) -> None:
        """The date that we send is the date that we compare with, however late in its second the file is."""
        self.assertEqual(self.file_head(if_modified_since=DATE)[0], "304 Not Modified")
        self.assertEqual(self.file_head(if_unmodified_since=DATE)[0], "200 OK")
        self.assertEqual(self.file_head(range="bytes=0-9", if_range=DATE)[0], "206 Partial Content")

    def test_compares_the_applications_tag(self) -> None:
        """An application's entity tag is what the client has, so it is what is compared."""
        self.assertEqual(self.file_head(OWN, if_none_match='"own"')[0], "304 Not Modified")
        self.assertEqual(self.file_head(OWN, if_none_match=TAG)[0], "200 OK")
        self.assertEqual(self.file_head(OWN, if_match='"own"')[0], "200 OK")
        self.assertEqual(self.file_head(OWN, range="bytes=0-9", if_range='"own"')[0], "206 Partial Content")
        self.assertEqual(self.file_head(("ETag", 'W/"own"'), range="bytes=0-9", if_range='W/"own"')[0], "200 OK")

    def test_compares_the_applications_date(self) -> None:
        """The application's date is compared; an invalid one matches nothing."""
        own = ("Last-Modified", BEFORE)
        self.assertEqual(self.file_head(own, if_unmodified_since=BEFORE)[0], "200 OK")
        self.assertEqual(self.file_head(own, range="bytes=0-9", if_range=BEFORE)[0], "206 Partial Content")
        self.assertEqual(self.file_head(own, range="bytes=0-9", if_range=DATE)[0], "200 OK")
        self.assertEqual(self.file_head(("Last-Modified", "then"), if_modified_since=DATE)[0], "200 OK")

    def test_head_ignores_range(self) -> None:
        """A range is for GET alone (RFC 9110 §14.2); conditions are for HEAD, too."""
        self.assertEqual(self.file_head(method="HEAD", range="bytes=0-9")[0], "200 OK")
        self.assertEqual(self.file_head(method="HEAD", if_modified_since=DATE)[0], "304 Not Modified")

    def test_post_ignores_conditions(self) -> None:
        """POST has happened already: there is nothing to be conditional about."""
        for fields in ({"range": "bytes=0-9"}, {"if-none-match": "*"}, {"if-match": '"x"'}):
            self.assertEqual(self.file_head(method="POST", **fields)[0], "200 OK")

    def test_other_statuses_send_whole_file(self) -> None:
        """A file that is the body of an error is sent whole, and is not what a client would resume."""
        line, head, part = self.file_head(status=404, range="bytes=0-9", if_none_match="*", guess="text/plain")
        self.assertEqual((line, part, head["content-length"]), ("404 Not Found", (0, 100), "100"))
        self.assertTrue(head.keys().isdisjoint({"etag", "last-modified", "accept-ranges", "content-range"}))

    def test_framing_fields_are_the_servers(self) -> None:
        """Fields that frame the body, or say which part it is, are never the application's."""
        exchange = self.exchange()
        fields = [("Content-Length", "0"), ("Content-Range", "bytes 0-0/1"), ("accept-ranges", "none"), ("X", "y")]
        exchange.start("201 Created", fields)
        self.assertEqual(application_head(exchange), ApplicationHead(201, (("X", "y"),)))


class AskedTests(Case):
    """The request fields that are passed on to an upstream."""

    def fields(self, *own: tuple[str, str], method: str = "GET", status: int = 200, **fields: str) -> dict[str, str]:
        """Return the fields that the upstream is sent, without those that it always gets."""
        sent = upstream_fields(self.exchange(method, **fields), ApplicationHead(status, own))
        return {name: value for name, value in sent.items() if name not in ("accept-encoding", "x-request-id")}

    def test_passes_few_fields_to_the_upstream(self) -> None:
        """Conditions, range and few others are passed on; no cookies, no passwords."""
        exchange = self.exchange(
            Accept="a/b",
            Cookie="secret",
            Authorization="secret",
            User_Agent="me",
            If_None_Match='"x"',
            Accept_Encoding="gzip",
            X_Forwarded_For="203.0.113.9",
        )
        self.assertEqual(
            upstream_fields(exchange, ApplicationHead()),
            {
                "accept": "a/b",
                "user-agent": "me",
                "if-none-match": '"x"',
                "accept-encoding": "identity",
                "x-request-id": exchange.request_id,
                "x-forwarded-for": "192.0.2.1",
            },
        )

    def test_unix_client_has_no_address(self) -> None:
        """A client on a Unix socket has no address."""
        exchange = self.ask(peer=None)[1]
        self.assertNotIn("x-forwarded-for", upstream_fields(exchange, ApplicationHead()))

    def test_joins_repeated_fields(self) -> None:
        """A field that comes twice is one list."""
        data = self.request(If_None_Match='"a"')[:-2] + b'If-None-Match: "b"\r\n\r\n'
        self.assertEqual(request_fields(self.ask(data)[1], 200), {"if-none-match": '"a", "b"'})

    def test_passes_conditions_for_a_get_with_200(self) -> None:
        """Conditions and range go to the upstream, which evaluates them, if the answer would be 200 to a GET."""
        conditions = {"range": "bytes=0-9", "if-range": '"x"', "if-match": '"x"'}
        self.assertEqual(self.fields(**conditions), {**conditions, "x-forwarded-for": "192.0.2.1"})
        for changes in ({"method": "POST"}, {"status": 404}):
            options: Any = {**changes, **conditions}
            self.assertEqual(self.fields(**options), {"x-forwarded-for": "192.0.2.1"})
        sent = self.fields(method="HEAD", **conditions)
        self.assertEqual(sent, {"if-match": '"x"', "x-forwarded-for": "192.0.2.1"})

    def test_drops_conditions_on_the_applications_tag(self) -> None:
        """The upstream does not know the application's tag, so it gets no condition on it."""
        sent = self.fields(OWN, if_match='"own"', if_none_match='"own"', if_modified_since=DATE)
        self.assertEqual(sent, {"x-forwarded-for": "192.0.2.1"})
        for if_range, range_ in (('"own"', True), ('"x"', False), ('W/"own"', False)):
            sent = self.fields(OWN, range="bytes=0-9", if_range=if_range)
            self.assertEqual(("range" in sent, "if-range" in sent), (range_, False))
        sent = self.fields(OWN, if_range='"x"')
        self.assertNotIn("if-range", sent)

    def test_drops_conditions_on_the_applications_date(self) -> None:
        """The upstream does not know the application's date, so it gets no condition on it."""
        own = ("Last-Modified", DATE)
        for if_range, range_, condition in ((DATE, True, False), (BEFORE, False, False), ('"x"', True, True)):
            sent = self.fields(own, range="bytes=0-9", if_range=if_range, if_modified_since=DATE)
            self.assertEqual(("range" in sent, "if-range" in sent), (range_, condition))
            self.assertNotIn("if-modified-since", sent)
        sent = self.fields(OWN, range="bytes=0-9", if_range=DATE)
        self.assertEqual((sent["range"], sent["if-range"]), ("bytes=0-9", DATE))


class PassedOnTests(Case):
    """The fields of an upstream's answer that reach the client."""

    def client_fields(self, *own: tuple[str, str], code: int = 200, **fields: str) -> list[tuple[str, str]]:
        """The fields of the answer."""
        headers = Headers()
        for name, value in fields.items():
            headers.addRawHeader(name.replace("_", "-").encode(), value.encode("latin-1"))
        return client_fields(code, headers, ApplicationHead(200, own))

    def test_passes_upstream_fields(self) -> None:
        """Validators, kind and ranges are passed on as they are."""
        fields = {"ETag": '"x"', "Last-Modified": DATE, "Content-Type": "a/b\xe4", "Accept-Ranges": "bytes"}
        got = self.client_fields(**{name.replace("-", "_"): value for name, value in fields.items()})
        self.assertEqual({name.lower(): value for name, value in got}, {n.lower(): v for n, v in fields.items()})

    def test_drops_hop_by_hop_fields(self) -> None:
        """Hop-by-hop fields, and those that this server sets itself, are not passed on."""
        got = self.client_fields(
            Connection="x",
            Keep_Alive="x",
            Proxy_Authenticate="x",
            Proxy_Connection="x",
            TE="x",
            Trailer="x",
            Transfer_Encoding="x",
            Upgrade="x",
            Content_Length="5",
            Date="x",
            Server="x",
            X_Accel_Redirect="/internal/x",
            X_Graceful_Handover="x",
        )
        self.assertEqual(got, [])

    def test_application_fields_win(self) -> None:
        """A field that the application has set replaces the upstream's."""
        got = self.client_fields(("content-type", "own/own"), ("X-A", "1"), Content_Type="a/b", X_B="2")
        self.assertEqual(got, [("content-type", "own/own"), ("X-A", "1"), ("X-B", "2")])

    def test_passes_repeated_fields(self) -> None:
        """Repeated fields are all passed on, unless the application has set its own."""
        headers = Headers({b"Set-Cookie": [b"a", b"b"]})
        self.assertEqual(client_fields(200, headers, ApplicationHead()), [("Set-Cookie", "a"), ("Set-Cookie", "b")])
        own = (("set-cookie", "c"), ("set-cookie", "d"))
        self.assertEqual(client_fields(200, headers, ApplicationHead(200, own)), list(own))

    def test_drops_fields_about_the_file_for_upstream_errors(self) -> None:
        """The application's fields about the file are dropped for an upstream's error; its cookies are kept."""
        own = (
            ("Content-Type", "image/png"),
            ("Content-Disposition", "attachment"),
            ("Cache-Control", "max-age=99"),
            ("Expires", DATE),
            OWN,
            ("Last-Modified", DATE),
            ("Set-Cookie", "a=1"),
        )
        for code in (404, 412, 416, 500, 302):
            got = self.client_fields(*own, code=code, Content_Type="text/html")
            self.assertEqual(got, [("Set-Cookie", "a=1"), ("Content-Type", "text/html")])
        for code in (200, 206, 304):
            self.assertEqual(self.client_fields(*own, code=code, Content_Type="text/html"), list(own))

    def test_application_status_replaces_only_200(self) -> None:
        """The upstream's status, unless that is 200 and the application has another one."""
        for own, theirs, line in (
            (200, 200, "200 OK"),
            (200, 206, "206 Partial Content"),
            (200, 404, "404 Not Found"),
            (404, 200, "404 Not Found"),
            (404, 503, "503 Service Unavailable"),
            (201, 200, "201 Created"),
        ):
            self.assertEqual(ApplicationHead(own).status_line(theirs), line)
