"""Whether a container ends with this process."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from graceful.process.container import ends_with_this_process


def why(pid: int, parent: int, process_1: str) -> str | None:
    """Returns why the container would end with a process."""
    return ends_with_this_process(lambda: pid, lambda: parent, lambda: process_1)


class ContainerTests(SynchronousTestCase):
    """By its number, its parent's, and the name of process 1."""

    def test_a_container_ends_with_process_1(self) -> None:
        """Process 1 cannot be replaced."""
        self.assertEqual(why(1, 0, "twistd"), "the container would end with process 1, which this is")

    def test_a_container_ends_with_the_only_program_of_a_small_init(self) -> None:
        """The init of `docker run --init`, and others like it, ends with the program that it has started."""
        for name in ("tini", "tini-static", "docker-init", "dumb-init", "catatonit", "podman-init"):
            said = f"the container would end with this process, which {name} has started"
            self.assertEqual(why(7, 1, name), said)

    def test_nothing_ends_with_a_process_of_a_supervisor(self) -> None:
        """systemd goes on, and so does a small init that has started the parent of this process."""
        for parent, name in ((1, "systemd"), (1, "s6-svscan"), (1, ""), (7, "tini")):
            self.assertIsNone(why(8, parent, name), name)

    def test_this_process_is_looked_at(self) -> None:
        """The tests run in a process that is not the only one of a container."""
        self.assertIsNone(ends_with_this_process())
