"""Letting a process hang."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.support.waiting import wait_until

SECONDS = 20.0


def hang(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP a process, and wait until it does nothing any more; SIGCONT lets it go on.

    The signal comes back before the process has stopped, and it may answer once more until then.
    """
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: _hangs(process.pid), SECONDS, "each of its threads has stopped")


def _hangs(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)
