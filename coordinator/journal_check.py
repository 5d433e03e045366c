"""What of a journal is damaged: its write-ahead log, its pages, its records. Nothing is changed.

SQLite takes a frame of its write-ahead log that does not match its checksum for the torn end of the log, and drops it
with all behind it, as it must after a loss of power. Where whole commits follow, it was no torn end: that is damage.
Format of the frames: sqlite.org/fileformat2.html, section 4.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from coordinator.records import FIRST, checksum_of, from_json
from wire.errors import DamagedFile

REMEDY = "restore it from a copy, or resume the newest checkpoint into a new run directory"
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")


class _Frame(NamedTuple):
    offset: int
    of_this_log: bool
    """Its salts are those of the header; others are of a log that was begun anew over this one."""
    valid: bool
    commits: bool


def find_damage(path: Path) -> Iterator[DamagedFile]:
    """Whatever cannot be read of the journal at `path`, or was lost from it."""
    wal = path.with_name(f"{path.name}-wal")
    yield from _damage_of_wal(wal)
    how = (
        "mode=ro" if wal.exists() else "immutable=1"
    )  # else SQLite would make a log, to read that there is none
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
        try:
            yield from _damage_of_database(path, database)
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        yield DamagedFile(
            f"{path}, somewhere from offset 0 on: cannot be read as a journal ({error}); {REMEDY}"
        )


def _damage_of_database(path: Path, database: sqlite3.Connection) -> Iterator[DamagedFile]:
    for (told,) in database.execute("PRAGMA integrity_check"):
        if told != "ok":
            yield DamagedFile(f"{path}: {told}; {REMEDY}")
    expected, before = 1, FIRST
    for seq, text, checksum in database.execute("SELECT seq, record, checksum FROM records ORDER BY seq"):
        if seq != expected:
            yield DamagedFile(f"{path}: record {expected} is missing, the next one is {seq}; {REMEDY}")
        elif checksum != checksum_of(before, seq, text):
            where = _offset_of(path, text)
            yield DamagedFile(f"{path}, offset {where}: record {seq} is not what was written; {REMEDY}")
            text = None
        expected, before = seq + 1, checksum
        if text is None:
            continue
        try:
            from_json(text)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            where = _offset_of(path, text)
            yield DamagedFile(f"{path}, offset {where}: record {seq} is none ({error!r}); {REMEDY}")


def _offset_of(path: Path, text: object) -> int | str:
    """Where a record's text stands in the file, as far as that can be told."""
    wanted = text.encode() if isinstance(text, str) else text
    found = path.read_bytes().find(wanted) if isinstance(wanted, bytes) else -1
    return found if found >= 0 else "unknown"


# ── the write-ahead log ─────────────────────────────────────────────────────────────────────────


def _damage_of_wal(path: Path) -> Iterator[DamagedFile]:
    data = path.read_bytes() if path.exists() else b""
    if len(data) < _HEADER.size:
        return
    if _checksum(data[:24], (0, 0), _order(data)) != _HEADER.unpack_from(data)[6:]:
        yield DamagedFile(f"{path}, offset 0: its header does not match its checksum; {REMEDY}")
        return
    frames = list(_frames(data))
    bad = next((i for i, frame in enumerate(frames) if not frame.valid), len(frames))
    behind = [frame for frame in frames[bad:] if frame.of_this_log]
    commits = [i for i, frame in enumerate(behind) if frame.commits]
    if commits and commits[0] < len(behind) - 1:
        yield DamagedFile(
            f"{path}, offset {frames[bad].offset}: a frame does not match its checksum, and {len(behind)} of the "
            f"same log follow; {REMEDY}"
        )


def _frames(data: bytes) -> Iterator[_Frame]:
    _, _, page_bytes, _, *salts, first, second = _HEADER.unpack_from(data)
    sums, order = (first, second), _order(data)
    size = _FRAME.size + page_bytes
    for offset in range(_HEADER.size, len(data) - size + 1, size):
        _, commits, *own_salts, own_first, own_second = _FRAME.unpack_from(data, offset)
        same = own_salts == salts
        sums = _checksum(data[offset : offset + 8], sums, order)
        sums = _checksum(data[offset + _FRAME.size : offset + size], sums, order)
        yield _Frame(offset, same, same and sums == (own_first, own_second), commits > 0)


def _order(data: bytes) -> str:
    return ">" if _HEADER.unpack_from(data)[0] & 1 else "<"


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's: over pairs of 32-bit words."""
    words: Sequence[int] = struct.unpack(f"{order}{len(data) // 4}I", data)
    first, second = sums
    for i in range(0, len(words), 2):
        first = (first + words[i] + second) & 0xFFFFFFFF
        second = (second + words[i + 1] + first) & 0xFFFFFFFF
    return first, second
