"""Crash points: named places before and after every durable step, at which a test has a process killed.

`SPARSYNC_CRASH=NAME` kills this process with SIGKILL the first time that it comes by that place,
`SPARSYNC_CRASH=NAME:N` the N-th time. Without the variable a crash point costs one dictionary lookup.
"""

from __future__ import annotations

import os
import signal

from wire.config import environment

VARIABLE = "SPARSYNC_CRASH"
_wanted, _, _count = environment().get(VARIABLE, "").partition(":")
_left = int(_count or 1)


def crash_point(name: str) -> None:
    """Die here, if the environment says so. `name`: ROLE.STEP.before or .after, as `ps.append.before`."""
    global _left
    if name != _wanted:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
