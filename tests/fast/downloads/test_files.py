"""Opening what is to be sent: nothing but files, nothing outside, and each descriptor closed once."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from graceful.downloads import files as module
from graceful.downloads.files import OpenFile, fetch, in_memory, look_at, open_file
from graceful.downloads.targets import File, RefusedPath
from tests.fast.doubles import directory_for


class Case(SynchronousTestCase):
    """A directory with a file in it, and one outside."""

    def setUp(self) -> None:
        """Make them."""
        self.outside = directory_for(self).encode()
        self.base = self.outside + b"/base"
        os.makedirs(self.base + b"/sub")
        for name in (b"base/file", b"base/sub/file", b"secret"):
            with open(self.path(name), "wb") as file:
                file.write(name)

    def path(self, name: bytes) -> bytes:
        """Return a path outside the directory."""
        return os.path.join(self.outside, name)

    def open(self, name: bytes) -> OpenFile:
        """Open something below the directory, for this test."""
        file = open_file(File(os.path.join(self.base, name), self.base))
        self.addCleanup(file.close)
        return file

    def read(self, name: bytes) -> bytes:
        """Return the content."""
        return os.pread(self.open(name).fd, 100, 0)

    def refused(self, name: bytes) -> str:
        """Check that it is refused, and that no descriptor is left; why."""
        before = os.listdir("/proc/self/fd")
        why = str(self.assertRaises(RefusedPath, self.open, name))
        self.assertEqual(os.listdir("/proc/self/fd"), before)
        return why


class OpenTests(Case):
    """Which files are opened, and which are refused."""

    def test_opens_regular_file_with_size_and_time(self) -> None:
        """A regular file, with its size and time."""
        os.utime(self.base + b"/file", ns=(5, 1_600_000_000_123_456_789))
        file = self.open(b"file")
        self.assertEqual((file.size, file.modified), (9, 1_600_000_000_123_456_789))
        self.assertEqual(os.pread(file.fd, 100, 0), b"base/file")
        self.assertFalse(os.get_inheritable(file.fd))

    def test_refuses_missing_file(self) -> None:
        """A file that does not exist is refused, for each kind of error."""
        for name in (b"nothing", b"nothing/file", b"file/x", b"x" * 300, b"/".join([b"x" * 200] * 30)):
            self.refused(name)

    def test_a_directory_is_refused(self) -> None:
        """A directory is no file."""
        self.assertEqual(self.refused(b"sub"), "it is no regular file")

    def test_refuses_pipe_without_waiting(self) -> None:
        """A pipe is refused without waiting for its other end."""
        os.mkfifo(self.base + b"/pipe")
        self.assertEqual(self.refused(b"pipe"), "it is no regular file")

    def test_a_socket_is_refused(self) -> None:
        """A socket is refused."""
        with socket.socket(socket.AF_UNIX) as sock:
            before = os.getcwd()
            os.chdir(self.base)
            self.addCleanup(os.chdir, before)
            sock.bind("s")
            self.refused(b"s")

    def test_a_device_is_refused(self) -> None:
        """A device is refused."""
        self.assertRaises(RefusedPath, open_file, File(b"/dev/zero"))

    def test_refuses_unreadable_file(self) -> None:
        """A file without permission is refused; it is no error."""

        def denied(*arguments: Any) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(module.os, "open", denied)
        self.assertEqual(str(self.assertRaises(RefusedPath, self.open, b"file")), "Permission denied")

    def test_raises_errors_that_are_not_the_files(self) -> None:
        """Too many open files, or a broken disk, raise an error instead of a refusal."""
        for trouble in (errno.EMFILE, errno.ENFILE, errno.EIO):

            def fail(*arguments: Any, trouble: int = trouble) -> int:
                raise OSError(trouble, "trouble")

            self.patch(module.os, "open", fail)
            self.assertEqual(self.assertRaises(OSError, self.open, b"file").errno, trouble)

    def test_opens_the_applications_path_anywhere(self) -> None:
        """An application's own path may lead wherever it likes."""
        os.symlink(self.path(b"secret"), self.base + b"/link")
        file = open_file(File(self.base + b"/link"))
        self.addCleanup(file.close)
        self.assertEqual(file.size, 6)


class BeneathTests(Case):
    """No link leads out of the directory."""

    def test_follows_links_within_the_directory(self) -> None:
        """A link to something within is followed, also if the directory is itself reached by a link."""
        os.symlink(b"sub/file", self.base + b"/link")
        os.symlink(b"sub", self.base + b"/other")
        self.assertEqual((self.read(b"link"), self.read(b"other/file")), (b"base/sub/file", b"base/sub/file"))
        os.symlink(self.base, self.path(b"alias"))
        self.base = self.path(b"alias")
        self.assertEqual((self.read(b"link"), self.read(b"file")), (b"base/sub/file", b"base/file"))

    def test_refuses_links_out_of_the_directory(self) -> None:
        """A link to something outside is refused: of a file, of a directory, through several, relative or not."""
        for number, (target, rest) in enumerate(
            (
                (self.path(b"secret"), b""),
                (b"../secret", b""),
                (b"..", b"/secret"),
                (self.outside, b"/secret"),
                (b"/", self.path(b"secret")),
                (b"/etc", b"/passwd"),
            )
        ):
            name = b"link%d" % number
            os.symlink(target, os.path.join(self.base, name))
            self.assertEqual(self.refused(name + rest), "a symbolic link leads out of its directory")
            os.symlink(name, self.base + b"/by" + name)
            self.refused(b"by" + name + rest)

    def test_refuses_directory_with_the_same_prefix(self) -> None:
        """A directory whose name begins alike is another one."""
        os.rename(self.base + b"/sub", self.path(b"base2"))
        os.symlink(self.path(b"base2"), self.base + b"/link")
        self.refused(b"link/file")

    def test_refuses_link_to_itself(self) -> None:
        """A link to itself is refused."""
        os.symlink(b"link", self.base + b"/link")
        self.refused(b"link")

    def swapped(self) -> None:
        """Put a link in the place of a directory, in the moment between looking and opening."""
        real = os.open

        def meanwhile(path: Any, *arguments: Any) -> int:
            self.patch(module.os, "open", real)
            os.rename(self.base + b"/sub", self.base + b"/gone")
            os.symlink(self.outside, self.base + b"/sub")
            return real(path, *arguments)

        self.patch(module.os, "open", meanwhile)

    def test_checks_the_open_file_not_its_path(self) -> None:
        """The open file is checked, not the path before it was opened."""
        os.rename(self.base + b"/sub/file", self.base + b"/sub/secret")
        self.swapped()
        self.refused(b"sub/secret")

    def test_deleted_file_is_still_within(self) -> None:
        """A file that is deleted in that moment is still the one that was asked for."""
        real = os.readlink

        def meanwhile(path: Any) -> Any:
            os.unlink(self.base + b"/file")
            return real(path)

        self.patch(module.os, "readlink", meanwhile)
        self.assertEqual(self.read(b"file"), b"base/file")

    def test_resolves_links_without_proc(self) -> None:
        """Where there is no /proc, links are followed by ourselves."""
        real = os.readlink

        def none(path: Any) -> Any:
            if os.fspath(path).startswith(b"/proc"):
                raise FileNotFoundError
            return real(path)

        self.patch(module.os, "readlink", none)
        os.symlink(self.path(b"secret"), self.base + b"/link")
        self.assertEqual(self.read(b"file"), b"base/file")
        self.refused(b"link")


class OpenFileTests(Case):
    """An open file."""

    def test_closes_descriptor_once(self) -> None:
        """A second close does not close what has the same number by then."""
        file = self.open(b"file")
        fd = file.fd
        file.close()
        other = os.open(self.path(b"secret"), os.O_RDONLY)
        self.addCleanup(os.close, other)
        self.assertEqual(other, fd)
        file.close()
        self.assertEqual((os.pread(fd, 100, 0), file.fd), (b"secret", -1))

    def test_tag_is_strong_and_changes_with_the_file(self) -> None:
        """The tag is strong, and changes when the file does."""
        tags = set()
        for size, modified in ((5, 100), (6, 100), (5, 101), (5, 10**9 + 100)):
            tags.add(OpenFile(-1, size, modified).etag)
        self.assertEqual(len(tags), 4)
        for tag in tags:
            self.assertRegex(tag, r'\A"[!#-~]+"\Z')

    def test_refuses_descriptor_of_something_else(self) -> None:
        """A descriptor of something else is refused, and stays its owner's."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        self.addCleanup(os.close, writing)
        self.assertRaises(RefusedPath, look_at, reading)
        self.assertTrue(stat.S_ISFIFO(os.fstat(reading).st_mode))


class MemoryTests(Case):
    """Whether a block is there."""

    def test_written_file_is_in_memory(self) -> None:
        """A file that was just written is in memory; a descriptor that the kernel cannot tell about is not."""
        file = self.open(b"file")
        fetch(file.fd, 0, 9)
        self.assertTrue(in_memory(file.fd, 0, 9))
        for error in (BlockingIOError(), OSError(errno.EOPNOTSUPP, "not here")):

            def fail(*arguments: Any, error: OSError = error) -> int:
                raise error

            self.patch(module.os, "preadv", fail)
            self.assertFalse(in_memory(file.fd, 0, 9))

    def test_block_is_in_memory_by_its_first_and_last_byte(self) -> None:
        """A block is there if its first and its last byte are."""
        asked = []

        def look(fd: int, buffers: Any, place: int, flags: int) -> int:
            asked.append((fd, place, flags))
            return 1

        self.patch(module.os, "preadv", look)
        self.assertTrue(in_memory(7, 1000, 500))
        self.assertEqual(asked, [(7, 1000, os.RWF_NOWAIT), (7, 1499, os.RWF_NOWAIT)])

    def test_fetch_reads_the_block_alone(self) -> None:
        """Fetching reads all of the block and nothing else, and ends where the file does."""
        asked = []

        def read(fd: int, count: int, offset: int) -> bytes:
            asked.append((offset, count))
            return b"x" * min(count, 100_000 - offset)

        self.patch(module.os, "pread", read)
        fetch(7, 10_000, 70_000)
        self.assertEqual(asked, [(10_000, 65536), (75536, 4464)])
        asked.clear()
        fetch(7, 90_000, 1 << 18)
        self.assertEqual([offset for offset, _ in asked], [90_000, 100_000])
