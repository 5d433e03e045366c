"""A disk that a test holds back or fills, under the log of a server."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from functools import partial

import pytest

from ps import archive
from ps.log import Log
from ps.log_tail import Disk

LIMIT_S = 20.0


class HeldDisk:
    """Under every log that is opened from now on: what is written waits while it is held, and fails when it is full."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self._goes = threading.Event()
        self._goes.set()
        self.full = self.fails = False
        patched.setattr(archive, "Log", partial(Log, disk=Disk(write=self._write)))

    def hold(self) -> None:
        self._goes.clear()

    def let_go(self) -> None:
        self._goes.set()

    def _write(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset:  # behind the header of the file
            assert self._goes.wait(LIMIT_S), "held for too long"
        if self.full or self.fails:
            why = errno.ENOSPC if self.full else errno.EIO
            raise OSError(why, os.strerror(why))
        return os.pwritev(fd, buffers, offset)
