"""Kills of a process that writes a log, at every crash point of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ps.logs import Told, contents, open_log

CHILD = """
import os, sys, threading
from pathlib import Path
from ps.log import Log

told = threading.Condition()
last = 0

def durable(position):
    global last
    os.write(1, b"%d\\n" % position)
    with told:
        last = position
        told.notify_all()

log = Log(Path(sys.argv[1]), after=int(sys.argv[3]), level=sys.argv[2], on_durable=durable, on_stalled=print,
          segment_bytes=2000)
for batch in range(12):
    for _ in range(batch % 3 + 1):
        n = log.position + 1
        log.append([b"%d," % n, b"x" * (37 * n % 900)])
    with told:
        told.wait_for(lambda: last == log.position)
print("done", flush=True)
threading.Event().wait(60)
"""


def record(n: int) -> bytes:
    return b"%d," % n + b"x" * (37 * n % 900)


def killed_at(point: str, directory: Path, level: str, after: int) -> list[int]:
    """The positions that a child told as durable before it was killed there."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(directory), level, str(after)],
        env={**os.environ, "SPARSYNC_CRASH": point},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child
    return [after, *map(int, child.stdout.split())]


POINTS = ["ps.append.before", "ps.append.after", "ps.segment.before", "ps.segment.after"]
SYNC_POINTS = ["ps.fsync.before", "ps.fsync.after"]


@pytest.mark.parametrize(
    ("level", "point"),
    [*(("os", point) for point in POINTS), *(("disk", point) for point in [*POINTS, *SYNC_POINTS])],
)
def test_what_was_told_is_there_after_a_kill(tmp_path: Path, level: str, point: str) -> None:
    """Killed again and again at the same place, each child going on where the log of the last one ends."""
    after = 0
    for count in (1, 4, 2, 3):
        told = killed_at(f"{point}:{count}", tmp_path, level, after)
        found = contents(tmp_path)
        assert found == [record(n) for n in range(1, len(found) + 1)]
        assert told[-1] <= len(found) <= told[-1] + 3, "at most the batch under way beyond what was told"
        after = len(found)
    log = open_log(tmp_path, Told(), after=after, level=level)
    log.append([b"end"])
    log.close()
    assert contents(tmp_path, after) == [b"end"]
