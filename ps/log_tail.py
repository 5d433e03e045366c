"""The end of a shard's log: the file that is appended to, and the spare one that lies ready to follow it.

Room is taken when a file is made (posix_fallocate), so that a full disk shows there and not in the middle of a
record; the spare is a reserve for the time that the disk is full. A file gets its name when its header is in it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ps.log_files import LogFile, path_of
from ps.log_format import FILE_HEADER, HEADER, Kind, build_file_header, build_header
from wire.crash import crash_point
from wire.files import fsync_directory

MOST_BUFFERS = os.sysconf("SC_IOV_MAX")


class SyncFailed(OSError):
    """fsync failed: what was written may be lost though a later fsync succeeds, so nothing may follow."""


@dataclass(frozen=True)
class Disk:
    """What a log asks of its disk; tests put faulty ones in its place."""

    allocate: Callable[[int, int, int], None] = os.posix_fallocate
    write: Callable[[int, Sequence[memoryview], int], int] = os.pwritev
    sync: Callable[[int], None] = os.fdatasync
    sync_directory: Callable[[Path], None] = fsync_directory


class Pending(NamedTuple):
    """A record that waits to be written; its pieces are the caller's memory."""

    position: int
    pieces: Sequence[memoryview]
    length: int  # of the pieces together

    @property
    def bytes(self) -> int:
        """In the file."""
        return HEADER.size + self.length


class Tail:
    """The file that is appended to. Nothing moves on before a write is whole: what failed may be tried again."""

    def __init__(self, file: LogFile, fd: int, disk: Disk, *, capacity: int) -> None:
        self.file = file
        self.end = FILE_HEADER.size
        self._fd = fd
        self._disk = disk
        self._capacity = capacity

    def takes(self, bytes_: int) -> bool:
        """Whether so much more fits, with a mark behind it."""
        return self.end + bytes_ + HEADER.size <= self._capacity

    def write(self, records: Sequence[Pending], *, durable: int) -> None:
        """Write `records` behind each other. durable: the last record that is at the level already."""
        buffers: deque[memoryview] = deque()
        end = self.end
        for record in records:
            header = build_header(Kind.RECORD, record.position, durable, record.pieces, offset=end)
            buffers.append(memoryview(header))
            buffers.extend(record.pieces)
            end += record.bytes
        _write_all(self._disk, self._fd, buffers, self.end)
        self.end = end

    def mark(self, durable: int) -> None:
        """Say behind the last record that it is durable; the next record takes the mark's place."""
        header = build_header(Kind.MARK, durable, durable, (), offset=self.end)
        _write_all(self._disk, self._fd, deque([memoryview(header)]), self.end)

    def sync(self) -> None:
        """Raises: SyncFailed."""
        _sync(lambda: self._disk.sync(self._fd))

    def close(self, *, cut: bool = True) -> None:
        """cut: give the room back that was not needed."""
        if cut:
            os.ftruncate(self._fd, self.end + HEADER.size)
        os.close(self._fd)


class Shelf:
    """Makes the files of the log. durable: fsync each, and its name, before it counts."""

    def __init__(self, directory: Path, file_bytes: int, disk: Disk, *, durable: bool) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._disk = disk
        self._durable = durable
        self._spare: int | None = None
        self._spare_path = directory / "spare"

    def restock(self) -> None:
        """Lay a spare file ready. Raises: OSError when the disk is full."""
        if self._spare is None:
            self._spare = self._allocate(self._spare_path, self._file_bytes)

    def take(self, first: Pending) -> Tail:
        """A new file that begins with that record, and has room for it. Raises: OSError when the disk is full."""
        crash_point("ps.segment.before")
        capacity = FILE_HEADER.size + first.bytes + HEADER.size
        if capacity > self._file_bytes:
            path = self._directory / "spare.large"
            fd = self._allocate(path, capacity)
        else:
            self.restock()
            assert self._spare is not None
            path, fd, self._spare = self._spare_path, self._spare, None
            capacity = self._file_bytes
        file = LogFile(first.position, path_of(self._directory, first.position))
        try:
            self._name(path, fd, file)
        except OSError:
            os.close(fd)
            raise
        crash_point("ps.segment.after")
        return Tail(file, fd, self._disk, capacity=capacity)

    def _name(self, path: Path, fd: int, file: LogFile) -> None:
        """From a spare to a file of the log."""
        _write_all(self._disk, fd, deque([memoryview(build_file_header(file.first))]), 0)
        if self._durable:
            _sync(lambda: self._disk.sync(fd))
        path.rename(file.path)
        if self._durable:
            _sync(lambda: self._disk.sync_directory(self._directory))

    def _allocate(self, path: Path, bytes_: int) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            self._disk.allocate(fd, 0, bytes_)
            if self._durable:
                _sync(lambda: self._disk.sync(fd))
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        return fd

    def close(self) -> None:
        """Take the spare away."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare_path.unlink(missing_ok=True)
            self._spare = None


def _sync(act: Callable[[], None]) -> None:
    try:
        act()
    except OSError as error:
        raise SyncFailed(error.errno, error.strerror) from error


def _write_all(disk: Disk, fd: int, buffers: deque[memoryview], offset: int) -> None:
    """Write `buffers` (which are used up) behind each other at `offset`, without joining them."""
    while buffers:
        batch = [buffers.popleft() for _ in range(min(len(buffers), MOST_BUFFERS))]
        written = disk.write(fd, batch, offset)
        offset += written
        while batch and written >= batch[0].nbytes:
            written -= batch.pop(0).nbytes
        if batch:
            buffers.extendleft(reversed([batch[0][written:], *batch[1:]]))
