"""Crash points: named places before and after every durable step, at which a test has a process killed.

`SPARSYNC_CRASH=NAME` kills this process with SIGKILL the first time that it comes by that place,
`SPARSYNC_CRASH=NAME:N` the N-th time. Without the variable a crash point costs two dictionary lookups.
`POINTS` is the one table of them; `sparsync chaos --list-crash-points` prints it.
"""

from __future__ import annotations

import os
import signal
from difflib import get_close_matches

from wire.config import environment
from wire.errors import ConfigError

VARIABLE = "SPARSYNC_CRASH"
POINTS = {
    "ps.append.before": "a batch of records has been applied, none of its bytes is in the log",
    "ps.append.after": "the batch is in the log as far as the operating system knows; nothing was told of it",
    "ps.fsync.before": "level disk: the batch is written, not yet forced to the disk",
    "ps.fsync.after": "level disk: the batch is on the disk; nothing was told of it",
    "ps.segment.before": "the log's segment is full, the next one does not exist yet",
    "ps.segment.after": "the next segment is there, empty; the directory knows it",
    "ps.snapshot.before": "a snapshot is about to be written from its copy of the shard",
    "ps.snapshot.written": "the image is whole on the disk under its passing name",
    "ps.snapshot.after": "the image has its name; older images and segments are still there",
    "ps.term.before": "a new term was told, and is not on the disk yet",
    "ps.term.after": "the new term is on the disk, and was not obeyed yet",
    "coordinator.journal.before": "decisions are made, and not journaled",
    "coordinator.journal.after": "decisions are journaled, and nobody was told",
    "coordinator.dismissed.after": "the journal says that nobody comes back to the run; this process has not ended",
    "checkpoint.manifest.before": "every tensor of a checkpoint is written, its manifest is not there",
    "checkpoint.manifest.after": "the manifest has its name: the checkpoint counts",
    "worker.commit.before": "all chunks of a push are sent to a shard, the commit is not",
    "worker.commit.after": "the commit is sent to a shard, its answer is not here",
    "worker.acknowledged.after": "a shard has acknowledged its part of a unit; the worker has not taken note",
    "worker.deposit.before": "a stream's state is about to be deposited",
    "worker.deposit.after": "every shard holds the deposit; the worker has not taken note",
    "worker.apply.before": "a version is whole, and not in the worker's model yet",
    "worker.apply.after": "the version is in the worker's model",
}
"""Name (ROLE.STEP.before, or .after, or what else there is in between) -> what is so at that place."""


def chosen(value: str) -> tuple[str, int]:
    """(name, how many times it has to be passed) that a value of the variable asks for. Raises ConfigError."""
    name, _, count = value.partition(":")
    if name and name not in POINTS:
        near = get_close_matches(name, POINTS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see sparsync chaos --list-crash-points"
        raise ConfigError(f"{VARIABLE}={value}: there is no crash point {name}; {hint}")
    if count and not (count.isdecimal() and int(count) > 0):
        raise ConfigError(
            f"{VARIABLE}={value}: expected NAME or NAME:N with N of at least 1, found N = {count}"
        )
    return name, int(count or 1)


_wanted, _left = chosen(environment().get(VARIABLE, ""))


def crash_point(name: str) -> None:
    """Die here, if the environment says so. `name`: one of `POINTS`."""
    global _left
    assert name in POINTS, f"{name} is not in wire.crash.POINTS; add it there, with what is so at that place"
    if name != _wanted:
        return
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
