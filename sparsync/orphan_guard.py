"""A role that the launcher started ends with it, even where the launcher is killed with -9 (P19).

The kernel sends SIGKILL when the *thread* that started us ends; the launcher starts everything from its
main thread. A parent that went away before the request was made is found by its process id.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent_pid: int) -> None:
    """Asks the kernel for SIGKILL at the end of `parent_pid`, our parent; exits at once where it is gone already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    if os.getppid() != parent_pid:
        sys.exit(f"the launcher (process {parent_pid}) is gone")
