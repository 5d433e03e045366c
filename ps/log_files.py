"""The files of a shard's log as they are found: read in order, told torn from damaged, made fit to be appended to.

What ends a log is a place where the next record is not. In the last file that is a *torn tail*, a write that was cut
short, unless something valid behind it says that the record had been durable. That, and anything missing before the
last file, is damage: named, never trimmed. A file counts up to where the next one begins; what it holds beyond is a
tail that was given up. Format: ps/log_format.py; the reasons: docs/log.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from ps.log_format import (
    FILE_HEADER,
    HEADER,
    MAGIC,
    Header,
    Kind,
    build_header,
    matches,
    read_header,
    why_no_file_header,
)
from wire.errors import DamagedFile
from wire.files import fsync_directory, fsync_file

log = logging.getLogger(__name__)
CHUNK_BYTES = 1 << 20
REMEDY = (
    "restore the file from a copy, or resume the newest checkpoint into a new run directory (a loss of power does this "
    "to a log kept at durability.ack = os)"
)


class LogFile(NamedTuple):
    """A file of the log, by its name; files follow each other by position."""

    first: int
    path: Path


def path_of(directory: Path, first: int) -> Path:
    """The file that begins with position `first`."""
    return directory / f"{first:020}.log"


def list_files(directory: Path) -> list[LogFile]:
    """The files of the log, oldest first; spares and half-made ones are none."""
    found = [path for path in directory.glob("*.log") if path.stem.isdigit()]
    return sorted(LogFile(int(path.stem), path) for path in found)


class Rest(NamedTuple):
    """What lies behind the end of the records of a file."""

    proof: int | None  # offset of what proves that a record is missing there
    bytes: int  # up to the last one that is not zero; a mark that says nothing new is none


class Reader:
    """Reads one file in order; `offset` and `position` say where it stands. Raises DamagedFile when the disk fails."""

    def __init__(self, file: LogFile) -> None:
        self.path = file.path
        self.position = file.first - 1
        self.offset = 0
        self._file = open(file.path, "rb", buffering=CHUNK_BYTES)  # noqa: SIM115
        self._bytes = os.fstat(self._file.fileno()).st_size
        self.wrong = why_no_file_header(self._read(0, FILE_HEADER.size), file.first)
        if not self.wrong:
            self.offset = FILE_HEADER.size

    def close(self) -> None:
        self._file.close()

    def records(self, upto: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(position, payload) of each valid record from here on, to position `upto` or the first that is not there."""
        while self.offset and self.position != upto:
            payload = self._next()
            if payload is None:
                return
            self.position += 1
            self.offset += HEADER.size + len(payload)
            yield self.position, payload

    def _next(self) -> bytes | None:
        found = self._valid(self.offset)
        if found is None or found[0].kind != Kind.RECORD or found[0].position != self.position + 1:
            return None
        return found[1]

    def _valid(self, offset: int, *, durable: int = 0) -> tuple[Header, bytes] | None:
        """What stands at `offset`, if it is whole and says that as much as `durable` was."""
        data = self._read(offset, HEADER.size)
        header = read_header(data, room=self._bytes - offset - len(data))
        if header is None or header.durable < durable:
            return None
        payload = self._read(offset + HEADER.size, header.length)
        return (header, payload) if matches(data, payload, header, offset=offset) else None

    def _read(self, offset: int, size: int) -> bytes:
        try:
            if offset != self._file.tell():
                self._file.seek(offset)
            return self._file.read(size)
        except OSError as error:
            raise DamagedFile(f"{self.path}: offset {offset} cannot be read ({error}); {REMEDY}") from error

    def rest(self) -> Rest:
        """What lies behind. A proof: it says that the record that is not here was durable."""
        start = self.offset
        marked = self._valid(start)
        if marked is not None and marked[0].kind == Kind.MARK and marked[0].durable <= self.position:
            start += HEADER.size
        dirty = start
        for offset, chunk in self._chunks(start):
            used = len(chunk.rstrip(b"\0"))
            dirty = offset + used if used else dirty
            at = chunk.find(MAGIC)
            while at >= 0:
                if self._valid(offset + at, durable=self.position + 1) is not None:
                    return Rest(offset + at, dirty - start)
                at = chunk.find(MAGIC, at + 1)
        return Rest(None, dirty - start)

    def _chunks(self, start: int) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) up to the end; each chunk also has the first bytes of the next, for what lies across."""
        for offset in range(start, self._bytes, CHUNK_BYTES):
            yield offset, self._read(offset, CHUNK_BYTES + len(MAGIC) - 1)

    def damaged(self, found: str) -> DamagedFile:
        return DamagedFile(
            f"{self.path}: offset {self.offset}: {found}, expected record {self.position + 1}; {REMEDY}"
        )

    def end(self) -> Rest:
        """What lies behind the last record of the last file. Raises: DamagedFile when that is no torn tail."""
        rest = self.rest()
        if self.wrong and rest.bytes > FILE_HEADER.size:
            raise self.damaged(self.wrong)
        if rest.proof is not None:
            raise self.damaged(
                f"no valid record, though what stands at offset {rest.proof} says that it was durable"
            )
        return rest


def read_tail(directory: Path, after: int) -> Iterator[tuple[int, bytes]]:
    """(position, record) of every record behind position `after`, in order; ends at a torn tail.

    Of a log that is being written, only what is durable may be asked for: its end is on the move, and looks damaged.

    Raises:
        DamagedFile: a record or a file is missing or altered before the end.
    """
    files = _reaching(list_files(directory), after)
    for file, follower in zip(files, [*files[1:], None], strict=False):
        with closing(Reader(file)) as reader:
            upto = follower.first - 1 if follower else None
            yield from (record for record in reader.records(upto) if record[0] > after)
            if follower is None:
                reader.end()
            elif reader.position != upto:
                raise reader.damaged(reader.wrong or f"no valid record, but {follower.path.name} follows")


def find_damage(directory: Path, after: int) -> Iterator[DamagedFile]:
    """What `read_tail(directory, after)` would stop at, in each file of the log; nothing is changed.

    A file behind a damaged one is looked at all the same.
    """
    try:
        _reaching(list_files(directory), after)
    except DamagedFile as error:
        yield error
    files = list_files(directory)
    for file, follower in zip(files, [*files[1:], None], strict=False):
        with closing(Reader(file)) as reader:
            upto = follower.first - 1 if follower else None
            try:
                for _ in reader.records(upto):
                    pass
                if follower is None:
                    reader.end()
            except DamagedFile as error:
                yield error
                continue
            if follower is not None and reader.position != upto:
                yield reader.damaged(reader.wrong or f"no valid record, but {follower.path.name} follows")


def _reaching(files: list[LogFile], after: int) -> list[LogFile]:
    """The files that may hold records behind `after`."""
    if files and files[0].first > after + 1:
        raise DamagedFile(
            f"{files[0].path.parent}: the log begins with {files[0].path.name}, expected a file that has record "
            f"{after + 1}; {REMEDY}"
        )
    behind = [file.first > after + 1 for file in files]
    return files[max(sum(not b for b in behind) - 1, 0) :]


def prepare(directory: Path, after: int, *, durable: bool) -> list[LogFile]:
    """Make the log in `directory` end with record `after`, and return its files.

    What was half-made is removed and a torn tail is cut off. A log that ends before `after` (the snapshot outlived it)
    is removed: what follows would leave a hole. durable: fsync what was found, for a kill may have left it in memory.

    Raises:
        DamagedFile: the last file has no torn tail, but damage.
        ValueError: there are records behind `after`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("spare*"):
        path.unlink()
    files = list_files(directory)
    if durable:
        _sync(directory, files)
    position = _cut(files) if files else 0
    if position > after:
        raise ValueError(f"{directory} holds records up to {position}, expected {after}: read them first")
    if position < after:
        if files:
            log.warning("%s: the log ends with record %d, the snapshot is at %d", directory, position, after)
        while files:
            files.pop().path.unlink()
    return files


def _cut(files: list[LogFile]) -> int:
    """Cut the last file to its records and a mark; one without records goes. Returns the last record's position."""
    last = files[-1]
    with closing(Reader(last)) as reader:
        for _ in reader.records():
            pass
        rest = reader.end()
    if rest.bytes:
        log.warning("%s: torn tail cut off at offset %d: %d bytes", last.path, reader.offset, rest.bytes)
    if reader.position < last.first:
        files.pop().path.unlink()
        return last.first - 1
    with open(last.path, "r+b") as file:
        file.seek(reader.offset)
        file.write(build_header(Kind.MARK, reader.position, reader.position, (), offset=reader.offset))
        file.truncate()
    return reader.position


def _sync(directory: Path, files: list[LogFile]) -> None:
    for file in files:
        fsync_file(file.path)
    fsync_directory(directory)
