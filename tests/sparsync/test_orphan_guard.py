"""A process that asked to end with its parent does so, however the parent ends (P19). Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

GRANDCHILD = """
import os, sys
from sparsync.orphan_guard import end_with_parent
end_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
sys.stdin.read()  # blocks for ever: the test holds the other end
"""

CHILD = f"""
import os, subprocess, sys
code = {GRANDCHILD!r}
subprocess.Popen([sys.executable, "-c", code, str(os.getpid())], start_new_session=True).wait()
"""


def test_a_role_does_not_outlive_a_launcher_that_is_killed() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=pipe, stdout=pipe) as launcher:
        assert launcher.stdout is not None
        role = int(launcher.stdout.readline())
        os.kill(launcher.pid, signal.SIGKILL)
        # The role alone still holds the pipe: its end is the role's end.
        assert launcher.stdout.read() == b""
        assert role != launcher.pid


def test_a_role_whose_launcher_is_gone_already_does_not_start() -> None:
    not_our_parent = os.getppid()
    done = subprocess.run(
        [sys.executable, "-c", GRANDCHILD, str(not_our_parent)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"the launcher (process {not_our_parent}) is gone\n"
