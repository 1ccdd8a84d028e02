"""Disks that are full: a small file system of a test's own, and files that may not grow."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools import launch

MEGABYTE = 1 << 20


class Disk:
    """A small file system at `path`, in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Leave no byte free, also of what is freed meanwhile."""
        try:
            with self._ballast.open("ab", buffering=0) as ballast:
                while True:
                    ballast.write(bytes(4096))
        except OSError:
            assert shutil.disk_usage(self.path).free == 0

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path, megabytes: int, instance: launch.Instance) -> Iterator[Disk]:
    """Mount a disk for a server, which owns it; skips the test where that is not permitted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tests", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        launch.step_down(instance.service, path)
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class FileLimit:
    """Files of a server that may not grow beyond `size` bytes: a quota, by the kernel's limit.

    Writes of the server fail, as with a full disk. It needs no rights but the account's.
    """

    def __init__(self, instance: launch.Instance, size: int) -> None:
        self._instance = instance
        self._size = size

    def fill(self) -> None:
        """Let the limit hold."""
        self._limit(str(self._size))

    def free(self) -> None:
        """Let them grow again."""
        self._limit("unlimited")

    def _limit(self, size: str) -> None:
        first, *_ = processes_of(self._instance)
        self._limit_one(first, size)  # who starts the others; what is begun from now on has it
        for pid in processes_of(self._instance):
            self._limit_one(pid, size)

    def _limit_one(self, pid: int, size: str) -> None:
        subprocess.run(
            ["prlimit", "--pid", str(pid), f"--fsize={size}:"],
            check=False,  # it may have ended meanwhile
            capture_output=True,
            **launch.step_down(self._instance.service),
        )


def processes_of(instance: launch.Instance) -> list[int]:
    """The process that was started, and those that it has started."""
    if instance.process is None or instance.process.poll() is not None:
        return []
    pid = instance.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]
