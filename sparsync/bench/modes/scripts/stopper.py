"""Stops a process and its group after a while, and lets it go on: a machine that freezes and returns.

    python -m sparsync.bench.modes.scripts.stopper PARENT AFTER_S FOR_S

A session of its own, so that it does not stop itself; it ends with `PARENT`, whose group it is that stops.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from sparsync.orphan_guard import end_with_parent


def start(after_s: float, for_s: float) -> subprocess.Popen[bytes]:
    """Have this process's group stopped; to be called from its main thread."""
    command = [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(after_s), str(for_s)]
    return subprocess.Popen(command, start_new_session=True)


def main() -> None:
    parent, after_s, for_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    end_with_parent(parent)
    never = threading.Event()
    never.wait(after_s)
    os.killpg(os.getpgid(parent), signal.SIGSTOP)
    try:
        never.wait(for_s)
    finally:
        os.killpg(os.getpgid(parent), signal.SIGCONT)


if __name__ == "__main__":
    main()
