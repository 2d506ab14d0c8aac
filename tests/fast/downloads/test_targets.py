"""Which file or URL a path means, and that no path means anything else."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from graceful.config.values import BadTarget, Mapping, parse_mapping
from graceful.downloads.targets import File, RefusedPath, Url, resolve
from tests.fast.doubles import directory_for

FILES = Mapping("/files", "/srv/files", False)
REMOTE = Mapping("/remote", "http://librarian:58000/base", True)
BOTH = (FILES, REMOTE)

#: What has led out of directories.
LEADING_OUT = (
    "..",
    ".",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "%2e",
    "..;",
    "..;x=y",
    "%2e%2e%3b",
    "a%2fb",
    "a%2Fb",
    "%2f",
    "..%2f..",
    "%2e%2e%2fetc",
    "a\\b",
    "..\\",
    "%5c",
    "..%5c..",
    "a%00",
    "%00",
    "a%0d%0ab",
    "%0a",
    "%1f",
    "%7f",
    "\xe4",
    "\0",
    "\r",
)
#: What only looks like it.
NAMES = (
    ("...", b"..."),
    (".a", b".a"),
    ("..a", b"..a"),
    ("a..", b"a.."),
    ("%252e%252e", b"%2e%2e"),
    ("%252f", b"%2f"),
    ("a%20b", b"a b"),
    ("%C3%A4", b"\xc3\xa4"),
    ("%zz", b"%zz"),
    ("%", b"%"),
    ("a;b=c", b"a;b=c"),
    ("a+b", b"a+b"),
    ("a#b", b"a#b"),
    ("http:", b"http:"),
    ("~x", b"~x"),
)


class MappingTests(SynchronousTestCase):
    """Mappings, as the command line has them."""

    def test_parses_prefix_and_url(self) -> None:
        """A prefix and a URL, each without the slash at its end."""
        for text, expected in (
            ("/files=http://librarian:58000/", Mapping("/files", "http://librarian:58000", True)),
            ("/files/=https://a.example", Mapping("/files", "https://a.example", True)),
            ("/a/b-c/~d=http://h/x/y/", Mapping("/a/b-c/~d", "http://h/x/y", True)),
            ("/a=http://[::1]:80/b", Mapping("/a", "http://[::1]:80/b", True)),
            ("/a=http://h/b=c", Mapping("/a", "http://h/b=c", True)),
        ):
            self.assertEqual(parse_mapping(text), expected)

    def test_parses_prefix_and_directory(self) -> None:
        """A prefix and a directory that exists; it stays the same one when the process goes elsewhere."""
        directory = directory_for(self)
        self.assertEqual(parse_mapping(f"/a={directory}/"), Mapping("/a", directory, False))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(os.path.dirname(directory))
        self.assertEqual(parse_mapping(f"/a={os.path.basename(directory)}"), Mapping("/a", directory, False))

    def test_refuses_bad_mappings(self) -> None:
        """Any other text is refused, and the error says what is expected."""
        for text in (
            "",
            "/a",
            "=",
            "/=http://h/",
            "a=http://h/",
            "/a//b=http://h/",
            "/a b=http://h/",
            "/a%20b=http://h/",
            "/../a=http://h/",
            "/a/.=http://h/",
            "/\xe4=http://h/",
        ):
            self.assertIn("/PREFIX=", str(self.assertRaises(BadTarget, parse_mapping, text)), text)
        for url in (
            "ftp://h/",
            "file:///etc",
            "http://",
            "http:///x",
            "http://h/?q",
            "http://h/#f",
            "http://me@h/",
            "http://me:pw@h/",
            "http://h:0/",
            "http://h:99999/",
            "http://h:x/",
            "http://[::1",
            "http://h/a b",
            "http://h/\n",
            "http://b\xfccher/",
        ):
            self.assertIn("of http or https", str(self.assertRaises(BadTarget, parse_mapping, "/a=" + url)), url)
        for directory in ("", "/nowhere/at/all", "/etc/passwd"):
            self.assertIn("directory", str(self.assertRaises(BadTarget, parse_mapping, "/a=" + directory)), directory)


class ResolveTests(SynchronousTestCase):
    """Which target a path has."""

    def refused(self, path: str) -> str:
        """Check that nothing is sent for a path; why."""
        return str(self.assertRaises(RefusedPath, resolve, BOTH, path))

    def test_resolves_file_below_directory(self) -> None:
        """A file below the directory, which it must really be in; a query is not part of its name."""
        expected = File(b"/srv/files/a/b.txt", b"/srv/files")
        for path in ("/files/a/b.txt", "/files/a/b.txt?x=/../y", "/files/%61/b%2etxt"):
            self.assertEqual(resolve(BOTH, path), expected, path)

    def test_resolves_url_below_base(self) -> None:
        """A URL below the base, with the query."""
        for path, url in (
            ("/remote/a/b.txt", "/a/b.txt"),
            ("/remote", ""),
            ("/remote/", "/"),
            ("/remote/a/", "/a/"),
            ("/remote/a?b=c&d=%20?/", "/a?b=c&d=%20?/"),
            ("/remote?b", "?b"),
            ("/remote/a?", "/a"),
            ("/remote/a?b[]=c|d", "/a?b%5B%5D=c%7Cd"),
            ("/remote/a?b#c", "/a?b%23c"),
            ("/remote/%61%2eb", "/a.b"),
            ("/remote/a%3fb", "/a%3Fb"),
            ("/remote/a#b", "/a%23b"),
            ("/remote/%e4", "/%E4"),
            ("/remote/@:!$&'()*+,;=~", "/@:!$&'()*+,;=~"),
        ):
            self.assertEqual(resolve(BOTH, path), Url("http://librarian:58000/base" + url), path)

    def test_prefix_ends_with_a_segment(self) -> None:
        """A prefix ends with a segment, and is not decoded."""
        for path in (
            "",
            "/",
            "/file",
            "/filesystem/a",
            "/files.txt",
            "/%66iles/a",
            "/FILES/a",
            "x/files/a",
            "?/files/a",
        ):
            self.assertIsNone(resolve(BOTH, path), path)
        self.assertIsNone(resolve((), "/files/a"))

    def test_absolute_url_is_not_mapped(self) -> None:
        """A URL with its host is not mapped."""
        for path in ("http://evil/files/a", "//evil/files/a", "https://librarian:58000/base/x", "file:///files/a"):
            self.assertIsNone(resolve(BOTH, path), path)
        self.refused("/remote//evil/a")

    def test_longest_prefix_wins(self) -> None:
        """Of several prefixes the longest counts, in any order."""
        inner = Mapping("/files/inner", "/srv/inner", False)
        for mappings in ((FILES, inner), (inner, FILES)):
            self.assertEqual(resolve(mappings, "/files/inner/a"), File(b"/srv/inner/a", b"/srv/inner"))
            self.assertEqual(resolve(mappings, "/files/innermost/a"), File(b"/srv/files/innermost/a", b"/srv/files"))

    def test_refuses_ways_out(self) -> None:
        """A segment that could lead out is refused, at any place."""
        for what in LEADING_OUT:
            for place in ("/{}", "/a/{}", "/{}/a", "/a/{}/b", "/{}/"):
                for prefix in ("/files", "/remote"):
                    self.refused(prefix + place.format(what))

    def test_decodes_names_once(self) -> None:
        """A name that only looks dangerous is decoded once, and sent."""
        for quoted, name in NAMES:
            self.assertEqual(resolve(BOTH, "/files/" + quoted), File(b"/srv/files/" + name, b"/srv/files"), quoted)
            url = resolve(BOTH, "/remote/" + quoted)
            assert isinstance(url, Url)
            self.assertEqual(unquote_to_bytes(urlsplit(url.url).path), b"/base/" + name)

    def test_refuses_empty_segments(self) -> None:
        """An empty segment is refused: servers disagree on its meaning."""
        for path in ("//a", "/a//b", "//", "/a//"):
            for prefix in ("/files", "/remote"):
                self.refused(prefix + path)

    def test_a_directory_is_refused(self) -> None:
        """A directory is no file."""
        for path in ("/files", "/files/", "/files/a/", "/files?a"):
            self.assertEqual(self.refused(path), "it is a directory")

    def test_refuses_unquoted_query(self) -> None:
        """A query with characters that are not quoted is refused; for a file it is ignored."""
        for query in ("a b", "a\r\nHost: evil", "\xe4", "\x7f", "a\tb", "\0"):
            self.assertEqual(self.refused("/remote/a?" + query), "its query is not quoted")

    @given(st.lists(st.sampled_from([*LEADING_OUT, *(name for name, _ in NAMES), "a", "/", "?", "//"]), max_size=6))
    def test_random_attacks_never_leave_the_base(self, parts: list[str]) -> None:
        """No path ever leaves the directory, or the base URL."""
        for joint in ("", "/"):
            self.stays_within(joint.join(parts))

    @given(st.text(max_size=30))
    def test_random_text_never_leaves_the_base(self, path: str) -> None:
        """No text ever leads out of the directory, or the base URL."""
        self.stays_within(path)

    def stays_within(self, path: str) -> None:
        """Check that a path is refused, or means something below the base, by everybody's reading."""
        for slash in ("", "/"):
            try:
                file, url = resolve(BOTH, "/files" + slash + path), resolve(BOTH, "/remote" + slash + path)
            except RefusedPath:
                continue
            if file is not None:
                assert isinstance(file, File)
                self.assertTrue(os.path.normpath(file.path).startswith(b"/srv/files/"), file)
                self.assertNotIn(b"\0", file.path)
            if url is not None:
                assert isinstance(url, Url)
                self.assertRegex(url.url, r"\A[!-~]*\Z")
                parts = urlsplit(url.url)
                self.assertEqual((parts.netloc, parts.fragment), ("librarian:58000", ""))
                where = os.path.normpath(unquote_to_bytes(parts.path))
                self.assertTrue(where == b"/base" or where.startswith(b"/base/"), url)
