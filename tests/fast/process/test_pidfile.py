"""The pid file that two instances pass from one to the next."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from graceful.process.pidfile import PidFile, PidFileBusy, PidFileError

SOMEBODY = 4711
ME = str(os.getpid())


class Case(SynchronousTestCase):
    """A directory, in which process 4711 alone is known to live."""

    def setUp(self) -> None:
        """Make it."""
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "app.pid")
        self.living = {SOMEBODY}

    def pid_file(self) -> PidFile:
        """An instance's hold, which ends with the test."""
        made = PidFile(self.path, lambda pid: pid in self.living)
        self.addCleanup(made.remove)
        return made

    def taking_over(self) -> tuple[PidFile, PidFile]:
        """An instance that has the path, and one that is about to have it."""
        old, new = self.pid_file(), self.pid_file()
        old.write()
        new.prepare(os.getpid())
        return old, new

    def put(self, text: str) -> None:
        """Have another process write the file."""
        with open(self.path, "w") as file:
            file.write(text)

    def files(self) -> dict[str, str]:
        """All files and what they say."""
        found = {}
        for name in os.listdir(self.directory):
            with open(os.path.join(self.directory, name)) as file:
                found[name] = file.read().strip()
        return found

    def assert_busy(self, what: Callable[[], None]) -> str:
        """Assert that the path is refused in one line that names it."""
        line = str(self.assertRaises(PidFileBusy, what))
        self.assertNotIn("\n", line)
        self.assertIn(self.path, line)
        self.assertIn("--pidfile", line)
        return line


class StartTests(Case):
    """Taking the path."""

    def test_writes_our_pid(self) -> None:
        """The file holds our pid, and other programs inherit nothing."""
        made = self.pid_file()
        made.check()
        made.write()
        self.assertEqual(self.files(), {"app.pid": ME})
        self.assertFalse(os.get_inheritable(made._fd))
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode) & 0o022, 0)

    def test_a_file_with_a_second_name_is_not_written(self) -> None:
        """In a directory of the service user's it may be a hard link to a file of root's."""
        victim = os.path.join(self.directory, "shadow")
        with open(victim, "w") as file:
            file.write("secret")
        os.link(victim, self.path)
        self.assertIn("remove it", str(self.assertRaises(PidFileError, self.pid_file().write)))
        self.assertEqual(self.files()["shadow"], "secret")

    def test_refuses_the_file_of_a_living_process(self) -> None:
        """A living process's file is refused, before the fork and after, and left as it is."""
        self.put(f"{SOMEBODY}")
        self.assertIn(f"process {SOMEBODY}", self.assert_busy(self.pid_file().check))
        self.assert_busy(self.pid_file().write)
        self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})

    def test_replaces_a_stale_file(self) -> None:
        """What a dead process left is replaced, with a line in the log; so is what is no pid at all."""
        for text in ("4712", "4712\n", "garbage", "0", "-1", "4711x", "9" * 40, "\N{SUPERSCRIPT TWO}"):
            self.put(text)
            made = self.pid_file()
            made.check()
            with capturedLogs() as events:
                made.write()
            self.assertEqual([formatEvent(e) for e in events], [f"the stale pid file {self.path} is taken over"])
            self.assertEqual(self.files(), {"app.pid": ME})
            made.remove()

    def test_takes_an_empty_file_silently(self) -> None:
        """An empty file is free, and nothing to talk about."""
        self.put("")
        made = self.pid_file()
        made.check()
        with capturedLogs() as events:
            made.write()
        self.assertEqual(events, [])
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_takes_a_file_with_our_own_number(self) -> None:
        """Our own number in the file is a dead predecessor's: in a container they are all alike."""
        self.living.add(os.getpid())
        self.put(ME)
        made = self.pid_file()
        made.check()
        made.write()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_leaves_nothing_of_a_longer_text(self) -> None:
        """Nothing of a longer text is left behind ours."""
        self.put("x" * 100)
        self.pid_file().write()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_gives_the_file_to_another_user(self) -> None:
        """The file can be given to the user who will run the server."""
        made = self.pid_file()
        made.write(os.getuid(), os.getgid())
        calls: list[tuple[int, int]] = []
        self.patch(os, "fchown", lambda fd, uid, gid: calls.append((uid, gid)))
        made.remove()
        made.write(33, 34)
        self.assertEqual(calls, [(33, 34)])

    def test_keeps_the_path_when_the_directory_changes(self) -> None:
        """The path is meant from where the operator was."""
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        made = PidFile("app.pid")
        self.addCleanup(made.remove)
        os.chdir("/")
        made.write()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_refuses_a_path_that_cannot_be_written(self) -> None:
        """A directory that is not there, and a link that leads elsewhere, are one line."""
        line = str(self.assertRaises(PidFileError, PidFile("/nonexistent/app.pid").write))
        self.assertIn("/nonexistent/app.pid: No such file or directory", line)
        os.symlink("/nonexistent", self.path)
        self.assertRaises(PidFileError, self.pid_file().write)
        PidFile("/nonexistent/app.pid").check()

    def test_a_file_system_without_locks_is_one_line(self) -> None:
        """As some network file systems have none."""
        self.put("")

        def refuse(fd: int, how: int) -> None:
            if how != fcntl.LOCK_UN:
                raise OSError(errno.ENOLCK, "No locks available")

        self.patch(fcntl, "flock", refuse)
        for take in (PidFile.write, lambda made: made.prepare(SOMEBODY)):
            self.assertIn("No locks available", str(self.assertRaises(PidFileError, take, self.pid_file())))

    def test_refuses_a_path_that_another_instance_is_writing(self) -> None:
        """While another instance is just writing it, the path is refused."""
        self.put("")
        with open(self.path) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            self.assertIn("just starting", self.assert_busy(self.pid_file().write))

    def test_looks_again_if_the_file_was_moved(self) -> None:
        """If the file moves away between open and lock, the path is what counts, not the file."""
        self.put(f"{SOMEBODY}")
        flock = fcntl.flock

        def released(fd: int, how: int) -> None:
            self.patch(fcntl, "flock", flock)
            os.rename(self.path, f"{self.path}.{SOMEBODY}")
            flock(fd, how)

        self.patch(fcntl, "flock", released)
        self.pid_file().write()
        self.assertEqual(self.files(), {"app.pid": ME, f"app.pid.{SOMEBODY}": str(SOMEBODY)})

    def test_gives_the_path_to_one_of_several_instances(self) -> None:
        """Of many instances that start in the same moment, one gets the path: its own pid is in the file."""
        for _ in range(20):
            go, begin = os.pipe()
            stay, end = os.pipe()
            verdicts, verdict = os.pipe()
            children = []
            for _ in range(6):
                pid = os.fork()
                if not pid:
                    os.close(begin)
                    os.close(end)
                    os.read(go, 1)  # until all are there
                    try:
                        PidFile(self.path).write()
                        os.write(verdict, b"%8d" % os.getpid())
                    except PidFileBusy:
                        os.write(verdict, b"%8d" % 0)
                    os.read(stay, 1)  # alive until all have judged
                    os._exit(0)
                children.append(pid)
            os.close(go)
            os.close(stay)
            os.close(begin)
            said = [int(os.read(verdicts, 8)) for _ in children]
            os.close(end)
            for pid in children:
                os.waitpid(pid, 0)
            os.close(verdict)
            os.close(verdicts)
            (winner,) = [pid for pid in said if pid]
            self.assertEqual(self.files(), {"app.pid": str(winner)})


class StopTests(Case):
    """Giving the path up, and leaving."""

    def test_release_frees_the_path(self) -> None:
        """Once released, the path is free for a successor, and the one that leaves lives on at its own."""
        first = self.pid_file()
        first.write()
        first.release()
        self.assertEqual(self.files(), {f"app.pid.{ME}": ME})
        first.release()
        self.put(f"{SOMEBODY}")
        first.remove()
        self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})

    def test_empties_a_file_that_it_cannot_rename(self) -> None:
        """Where files cannot be renamed or removed any more, an empty one says that the path is free."""
        first, second = self.pid_file(), self.pid_file()
        first.write()
        rename, unlink = os.rename, os.unlink

        def refuse(*paths: str) -> None:
            raise PermissionError

        self.patch(os, "rename", refuse)
        self.patch(os, "unlink", refuse)
        first.release()
        self.assertEqual(self.files(), {"app.pid": ""})
        second.write()
        first.release()
        first.remove()
        self.assertEqual(self.files(), {"app.pid": ME})
        second.remove()
        self.assertEqual(self.files(), {"app.pid": ""})
        self.patch(os, "rename", rename)
        self.patch(os, "unlink", unlink)

    def test_removes_a_path_that_was_not_released(self) -> None:
        """One that ends without having released removes the path."""
        made = self.pid_file()
        made.write()
        fd = made._fd
        made.remove()
        made.remove()
        made.release()
        self.assertEqual(self.files(), {})
        self.assertRaises(OSError, os.fstat, fd)

    def test_touches_nothing_before_it_has_written(self) -> None:
        """One that has not come to write touches nothing."""
        self.put(f"{SOMEBODY}")
        made = self.pid_file()
        made.release()
        made.remove()
        self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})

    def test_leaves_a_replaced_file_alone(self) -> None:
        """A file that another process has put in the place of ours is left alone."""
        for stop in (PidFile.release, PidFile.remove):
            made = self.pid_file()
            made.write()
            os.unlink(self.path)
            self.put(ME)
            stop(made)
            self.assertEqual(self.files(), {"app.pid": ME})
            made.remove()
            self.assertEqual(self.files(), {"app.pid": ME})
            os.unlink(self.path)

    def test_leaves_an_overwritten_file_alone(self) -> None:
        """Our file is left alone if another process has written into it, as stock twistd does."""
        for stop in (PidFile.release, PidFile.remove):
            made = self.pid_file()
            made.write()
            self.put(f"{SOMEBODY}")
            stop(made)
            self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})
            made.remove()
            os.unlink(self.path)

    def test_a_forked_process_leaves_the_file_alone(self) -> None:
        """A process that was forked from the instance does not take the instance's file with it."""
        made = self.pid_file()
        made.write()
        pid = os.fork()
        if not pid:
            made.release()
            made.remove()
            os._exit(0)
        os.waitpid(pid, 0)
        self.assertEqual(self.files(), {"app.pid": ME})


class TakeoverTests(Case):
    """From one instance to the next, while both live."""

    def test_takes_the_file_over_from_a_predecessor(self) -> None:
        """The predecessor's file is opened early, written when it has let go; then it leaves it alone."""
        old = self.pid_file()
        old.write()
        self.living.add(os.getpid())
        new = self.pid_file()
        new.prepare(os.getpid())
        self.assertEqual(self.files(), {"app.pid": ME})
        self.put("4710\n")  # stands for the successor, which is another process
        old.remove()
        self.assertEqual(self.files(), {"app.pid": "4710"})
        self.put(f"{SOMEBODY}\n")
        new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME})
        new.remove()
        self.assertEqual(self.files(), {})

    def test_the_path_is_never_missing(self) -> None:
        """A predecessor that ends before its successor has come to write leaves the file to it."""
        old, new = self.taking_over()
        old.remove()
        self.assertEqual(self.files(), {"app.pid": ME})
        new.take_over()
        new.remove()
        self.assertEqual(self.files(), {})

    def test_a_predecessor_outlives_a_failed_successor(self) -> None:
        """When the successor is gone, what was its predecessor removes its file."""
        old, new = self.taking_over()
        new.remove()
        old.remove()
        self.assertEqual(self.files(), {})

    def test_a_child_of_a_failed_successor_holds_nothing(self) -> None:
        """What the application has forked may live longer than the successor, and has its descriptors."""
        old, new = self.taking_over()
        held = os.dup(new._fd)  # as a child has it
        self.addCleanup(os.close, held)
        new.remove()
        old.remove()
        self.assertEqual(self.files(), {})

    def test_a_successor_never_waits_for_a_lock(self) -> None:
        """Others can hold it, too: every user with the right to read the file."""
        self.put(f"{SOMEBODY}\n")
        with open(self.path) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            new = self.pid_file()
            new.prepare(SOMEBODY)
            new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_a_predecessor_that_was_told_to_stop_leaves_nothing(self) -> None:
        """What it has put aside is nobody else's, though a successor had opened it at the path."""
        old, _ = self.taking_over()
        old.release()
        old.remove()
        self.assertEqual(self.files(), {})

    def test_a_successor_that_hangs_delays_no_other_one(self) -> None:
        """One that was given up while it still holds the file: another one takes it."""
        self.put(f"{SOMEBODY}\n")
        hangs, new = self.pid_file(), self.pid_file()
        hangs.prepare(SOMEBODY)
        new.prepare(SOMEBODY)
        new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_a_failed_successor_leaves_the_file(self) -> None:
        """A successor that fails leaves the file as it is."""
        self.put(f"{SOMEBODY}\n")
        new = self.pid_file()
        new.prepare(SOMEBODY)
        new.remove()
        self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})

    def test_takes_a_free_path_if_the_predecessor_has_no_file(self) -> None:
        """A predecessor without this file leaves the path free."""
        new = self.pid_file()
        new.prepare(SOMEBODY)
        self.assertEqual(self.files(), {"app.pid": ME})
        new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_takes_over_a_stale_file(self) -> None:
        """A dead process's file is taken over as well."""
        self.put("4710\n")
        new = self.pid_file()
        new.prepare(SOMEBODY + 2)
        new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME})

    def test_refuses_the_file_of_another_living_process(self) -> None:
        """A file of another living process is refused, and left alone."""
        self.put(f"{SOMEBODY}\n")
        new = self.pid_file()
        self.assert_busy(lambda: new.prepare(SOMEBODY + 1))
        self.assertEqual(self.files(), {"app.pid": str(SOMEBODY)})

    def test_takes_a_path_that_was_released_meanwhile(self) -> None:
        """A predecessor that was told to stop has moved its file: the path is taken."""
        self.put(f"{SOMEBODY}\n")
        new = self.pid_file()
        new.prepare(SOMEBODY)
        os.rename(self.path, f"{self.path}.{SOMEBODY}")
        new.take_over()
        self.assertEqual(self.files(), {"app.pid": ME, f"app.pid.{SOMEBODY}": str(SOMEBODY)})

    def test_refuses_a_link(self) -> None:
        """A link at the path is none of ours."""
        os.symlink("elsewhere", self.path)
        self.assertIn(self.path, str(self.assertRaises(PidFileError, self.pid_file().prepare, SOMEBODY)))
