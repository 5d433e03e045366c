"""Loss of power at level disk: of what was not fsynced, every sector may have reached the disk or not."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ps.log_tail import Disk
from tests.ps.logs import Told, contents, open_log
from wire.errors import SparsyncError

SECTOR = 512
FILE_BYTES = 4000


@dataclass
class Platter:
    """What of one file is on the disk for sure, and what may be: contents of a sector since the last fsync."""

    safe: bytes = b""
    maybe: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass
class Power:
    """A disk that fails after so many operations; before that it notes what is where."""

    operations: int
    files: dict[int, Platter] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    may_write: threading.Event = field(default_factory=threading.Event)
    writing: threading.Event = field(default_factory=threading.Event)

    def use(self) -> None:
        self.operations -= 1
        if self.operations < 0:
            raise OSError(errno.EIO, "no power")

    def of(self, fd: int) -> Platter:
        return self.files.setdefault(os.fstat(fd).st_ino, Platter())

    def allocate(self, fd: int, offset: int, size: int) -> None:
        self.use()
        os.posix_fallocate(fd, offset, size)
        self.files[os.fstat(fd).st_ino] = Platter(bytes(size))  # a number may be used again

    def write(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset:
            self.writing.set()
            assert self.may_write.wait(20)
        written = os.pwritev(fd, buffers, offset)
        for sector in range(offset // SECTOR, (offset + written - 1) // SECTOR + 1):
            self.of(fd).maybe.setdefault(sector, []).append(os.pread(fd, SECTOR, sector * SECTOR))
        self.use()
        return written

    def sync(self, fd: int) -> None:
        self.use()
        self.files[os.fstat(fd).st_ino] = Platter(os.pread(fd, 1 << 20, 0))

    def sync_directory(self, path: Path) -> None:
        self.use()
        self.names = set(os.listdir(path))

    def disk(self) -> Disk:
        return Disk(self.allocate, self.write, self.sync, self.sync_directory)


def lose_power(directory: Path, power: Power, after: Path, data: st.DataObject) -> None:
    """Put into `after` what the disk may hold now."""
    after.mkdir()
    for path in sorted(directory.glob("*.log")):
        if path.name not in power.names and not data.draw(st.booleans(), label=f"{path.name} has its name"):
            continue
        platter = power.files.get(path.stat().st_ino) or Platter(
            path.read_bytes()
        )  # fsynced when it was opened
        content = bytearray(platter.safe)
        for sector, versions in platter.maybe.items():
            at = sector * SECTOR
            kinds = [bytes(content[at : at + SECTOR]), *versions]
            chosen = data.draw(st.integers(0, len(kinds) - 1), label=f"{path.name} sector {sector}")
            content[at : at + len(kinds[chosen])] = kinds[chosen]
        (after / path.name).write_bytes(content)


batches = st.lists(st.lists(st.integers(0, 1500), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(deadline=None, max_examples=200)
@given(batches=batches, operations=st.integers(0, 30), data=st.data())
def test_what_was_told_survives_a_loss_of_power(
    batches: list[list[int]], operations: int, data: st.DataObject
) -> None:
    """Twice: the log that was recovered is written on, and loses power again."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name) / "0"
        records: list[bytes] = []
        for life in (1, 2):
            power = Power(operations // life)
            if life == 2:
                power.names = set(os.listdir(directory))
            told, appended = run(directory, power, batches, records)
            lose_power(directory, power, Path(name) / str(life), data)
            directory = Path(name) / str(life)
            found = contents(directory)
            assert found == appended[: len(found)]
            assert len(found) >= told
            records = found


def run(
    directory: Path, power: Power, batches: list[list[int]], before: list[bytes]
) -> tuple[int, list[bytes]]:
    """Write until the power goes: the last position that was told, and all that was appended."""
    told = Told()
    log = open_log(
        directory, told, after=len(before), level="disk", segment_bytes=FILE_BYTES, disk=power.disk()
    )
    appended = list(before)
    for batch in batches:
        power.may_write.clear()
        power.writing.clear()
        records = [b"%d:" % n + os.urandom(size) for n, size in enumerate(batch, len(appended))]
        appended += records
        try:
            log.append(records[:1])
            while not (power.writing.wait(0.01) or told.broken):
                pass
            for record in records[1:]:
                log.append([record])
        except SparsyncError:  # broken
            break
        power.may_write.set()
        last = log.position
        told.wait(lambda last=last: bool(told.broken or (told.durable and told.durable[-1] == last)))
        if told.broken:
            break
    log.close()
    return (told.durable or [len(before)])[-1], appended
