"""Journals of a run's earlier timelines: kept beside the live one, each named by its own, none in another's place.

What stands in a run directory shows which timelines there have been: a new one is above them all, so that servers and
readers of checkpoints never take one for another.
"""

from __future__ import annotations

import re
from itertools import chain, count
from pathlib import Path

from coordinator.journal import FILE, Journal
from coordinator.journal_check import find_damage
from coordinator.records import Began
from wire.checkpoint import list_checkpoints
from wire.files import fsync_directory

_NAME = re.compile(r"journal-timeline-(\d+).*\.sqlite")


def latest_timeline(out: Path) -> int:
    """The highest of the checkpoints and of the journals that were put aside in `out`; 0 where there is none."""
    kept = (_NAME.fullmatch(path.name) for path in out.glob("journal-timeline-*"))
    checkpoints = list_checkpoints(out, say=lambda _: None)
    return max([0, *(int(name[1]) for name in kept if name), *(m.timeline for m in checkpoints)])


def put_aside(out: Path) -> None:
    """Keep the journal in `out`, if anything is in it, beside the one that is to be begun.

    What SQLite keeps beside it goes first: where the journal itself is gone SQLite deletes that.
    """
    if not (out / FILE).exists() or (timeline := _timeline_of(out / FILE)) is None:
        return
    aside = _unused(out, timeline)
    for suffix in ("-shm", "-wal", ""):
        if (old := out / f"{FILE}{suffix}").exists():
            old.rename(aside.with_name(aside.name + suffix))
    fsync_directory(out)


def _timeline_of(path: Path) -> int | None:
    """Of a journal; None for one that nothing is in. A damaged one, which is left as it is, counts as the latest."""
    if any(True for _ in find_damage(path)):
        return latest_timeline(path.parent) + 1
    journal = Journal(path)
    try:
        began = next(journal.records(), None)
        assert began is None or isinstance(began, Began)
        return None if began is None else began.timeline
    finally:
        journal.close()  # takes its write-ahead log in


def _unused(out: Path, timeline: int) -> Path:
    """More than one is of the same timeline where somebody copied a directory or put a journal back."""
    again = chain([""], (f"-{number}" for number in count(2)))
    paths = (out / f"journal-timeline-{timeline}{suffix}.sqlite" for suffix in again)
    return next(path for path in paths if not path.exists())
