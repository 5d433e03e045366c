"""Servers that die: random histories through a real owner, whose directory is copied at its crash points.

A copy is what a kill -9 would have left at that moment: the log and images on their way to the disk stand still
while it is made. What was applied is noted beside the log, record by record, to feed an undisturbed shard with it.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from ps import archive, log, log_tail, snapshots
from ps.archive import Archive
from ps.holdings import Holdings
from ps.image import digest, encode
from ps.log import Log
from ps.owner import Owner
from ps.records import Record
from ps.shard import Answer
from tests.ps.histories import History
from wire.codec.base import DamagedFrame
from wire.errors import SparsyncError

FILE_BYTES = 1 << 17
"""Of the log, so that there are many."""
MOST = 6
"""Deaths of one life that are looked at, beside that in the end."""


@dataclass(frozen=True)
class Death:
    """A moment at which the process might have died.

    Attributes:
        at: the crash point.
        directory: what was on the disk.
        revealed: the newest record of which anything had been told.
    """

    at: str
    directory: Path
    revealed: int


def copied(home: Path, directory: Path) -> bool:
    """Copy what is in `home`; False where an image that is being saved took or lost its name meanwhile."""
    try:
        shutil.copytree(home, directory, ignore=shutil.ignore_patterns("base", "streams"))
    except shutil.Error as error:
        if any(Path(source).exists() for source, _, _ in error.args[0]):
            raise
        return False
    return True


@dataclass
class Life:
    """One process, from its start to one of its deaths.

    Attributes:
        records: those of the log, the ones of earlier lives included.
        revealed: the newest record of which anything was told.
        begun: it was told that the initial planes are safe.
    """

    home: Path
    records: list[Record]
    random: random.Random
    revealed: int = 0
    begun: bool = False
    deaths: list[Death] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def watched(self, patched: pytest.MonkeyPatch) -> Iterator[None]:
        """Have the disk's threads stop where a copy is made."""
        write_next, save = Log._write_next, Archive._save

        def locked(function: Callable[..., object]) -> Callable[..., object]:
            def run(*arguments: object) -> object:
                with self._lock:
                    return function(*arguments)

            return run

        with patched.context() as here:
            here.setattr(archive, "Log", partial(Log, segment_bytes=FILE_BYTES))
            here.setattr(Log, "_write_next", locked(write_next))
            here.setattr(Archive, "_save", locked(save))
            for module in (log, log_tail, snapshots):
                here.setattr(module, "crash_point", self._crash_point)
            yield

    def _crash_point(self, name: str) -> None:
        rare = name.startswith("ps.append")
        if self.begun and len(self.deaths) < MOST and self.random.random() < (0.04 if rare else 0.3):
            self.die(name)

    def die(self, at: str) -> None:
        """Keep what a process that is killed now leaves behind."""
        with self._lock:
            directory = self.home.with_name(f"{self.home.name}-{len(self.deaths)}")
            self.deaths.append(Death(at, directory, self.revealed))
            while not copied(self.home, directory):
                shutil.rmtree(directory)

    def witness(self, owner: Owner) -> None:
        """Note every record that is logged, in order."""
        apply, append = owner.holdings.apply, owner.archive.append
        newest: list[Record] = []

        def applied(record: Record) -> Answer:
            newest[:] = [record]
            return apply(record)

        def appended(*arguments: object, **more: object) -> int:
            self.records.append(newest[0])
            return append(*arguments, **more)  # type: ignore[arg-type]

        owner.holdings.apply = applied  # type: ignore[method-assign]
        owner.archive.append = appended  # type: ignore[method-assign]

    async def live(self, owner: Owner, history: History, *, records: int) -> None:
        """Put what the history says through the owner, without waiting for what becomes of it."""
        for _ in range(records):
            record = await owner.read(lambda: history.next(owner.shard))
            position = owner.archive.position
            try:
                await owner.begin_apply(record, lambda _: None)
            except (SparsyncError, DamagedFrame):
                continue
            position = owner.archive.position
            owner.watermark.when(position, partial(self._reveal, position))
            if self.random.random() < 0.3:
                await asyncio.sleep(0)
        await owner.reveal(lambda: None)
        self._reveal(owner.watermark.position)

    def _reveal(self, position: int) -> None:
        self.revealed = max(self.revealed, position)


def replayed(history: History, records: list[Record], directory: Path) -> Holdings:
    """A shard that lived through `records` without being disturbed."""
    holdings = history.holdings(directory)
    for record in records:
        holdings.apply(record)
    return holdings


def digest_of(holdings: Holdings) -> bytes:
    """Of all of the state."""
    return digest(encode(holdings.image())[0])
