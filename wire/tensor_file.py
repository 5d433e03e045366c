"""Tensor files: safetensors written and read by offset, one chunk in memory at a time.

Each byte of the data section is written exactly once, in any order; the header is checked against the file before
anything of it is believed. Imports neither torch nor numpy. Format: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from wire.errors import DamagedFile, NoInput

ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""A checkpoint holds F32 and U8; exported models also hold what else their buffers and parameters are."""
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 100 << 20
"""Limit of the safetensors format itself."""
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"


class TensorSum(NamedTuple):
    """CRC-32 of one tensor's bytes: tells where a damaged file is damaged."""

    name: str
    offset: int  # in the file
    bytes: int
    crc32: int


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint as the manifest knows it."""

    bytes: int
    sha256: str
    tensors: tuple[TensorSum, ...] = ()


class TensorEntry(NamedTuple):
    """One tensor of a file; `offset` counts bytes from the start of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


def lay_out(entries: Sequence[tuple[str, str, tuple[int, ...]]]) -> list[TensorEntry]:
    """Offsets of (name, dtype, shape) one after the other, without gaps.

    Raises:
        ValueError: a name twice or reserved, a dtype that is not in `ITEM_BYTES`, a negative dimension.
    """
    table: list[TensorEntry] = []
    offset = 0
    for name, dtype, shape in entries:
        if name == _METADATA or dtype not in ITEM_BYTES or any(n < 0 for n in shape):
            raise ValueError(
                f"tensor {name!r}: dtype {dtype}, shape {shape}; expected one of {', '.join(ITEM_BYTES)}, sizes ≥ 0"
            )
        size = math.prod(shape) * ITEM_BYTES[dtype]
        table.append(TensorEntry(name, dtype, tuple(shape), offset, size))
        offset += size
    if len({entry.name for entry in table}) < len(table):
        raise ValueError("a tensor name occurs twice in one file")
    return table


class TensorFileWriter:
    """A safetensors file whose data section is written by offset, in any order, each byte exactly once."""

    def __init__(
        self,
        path: Path,
        entries: Sequence[tuple[str, str, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ) -> None:
        """Reserves the whole file. `entries`: (name, dtype of `ITEM_BYTES`, shape) in data order.

        Raises:
            FileExistsError: there is one already.
            OSError: no space for the whole file.
        """
        self.path = path
        self.entries = lay_out(entries)
        self.data_bytes = sum(entry.bytes for entry in self.entries)
        self._written = _Coverage()
        header = _encode_header(self.entries, metadata)
        self._data_start = len(header)
        self._file = path.open("xb+", buffering=0)
        try:
            os.posix_fallocate(self._file.fileno(), 0, len(header) + self.data_bytes)
            _write_at(self._file.fileno(), 0, header)
        except BaseException:
            self._file.close()
            raise
        self._result: FileEntry | None = None

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Puts `data` at `offset` bytes into the data section.

        Raises:
            ValueError: beyond the data section, or on bytes that are written already.
        """
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.data_bytes:
            raise ValueError(
                f"{self.path.name}: bytes {offset} to {offset + len(view)} of a data section of {self.data_bytes}"
            )
        self._written.add(offset, offset + len(view))
        _write_at(self._file.fileno(), self._data_start + offset, view)

    def close(self) -> str:
        """Makes the file durable; sha256 of the data section, read back from the file.

        Raises:
            ValueError: bytes are missing; the file is left incomplete.
        """
        try:
            missing = self._written.first_gap(self.data_bytes)
            if missing is not None:
                raise ValueError(
                    f"{self.path.name}: bytes {missing.start} to {missing.stop} were never written"
                )
            os.fsync(self._file.fileno())
            self._result, digest = _describe(self.path, self._data_start, self.entries)
        finally:
            self._file.close()
        return digest

    def discard(self) -> None:
        """Closes an unfinished file; whoever owns its directory removes it."""
        self._file.close()

    @property
    def result(self) -> FileEntry | None:
        """What the manifest says about the file; None before `close`."""
        return self._result


class TensorFileReader:
    """The table of a safetensors file, and its data section by offset."""

    def __init__(self, path: Path) -> None:
        """Reads and checks the header.

        Raises:
            NoInput: no such file.
            DamagedFile: the header is none, or does not fit the file.
        """
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise NoInput(f"{path}: no such file; expected a tensor file of a checkpoint") from error
        try:
            self.entries, self.metadata, self.data_start = _decode_header(self._file.fileno(), path)
        except BaseException:
            self._file.close()
            raise
        self.data_bytes = sum(entry.bytes for entry in self.entries)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes of the data section from `offset` on.

        Raises:
            ValueError: beyond the data section.
            DamagedFile: the file ends early.
        """
        if offset < 0 or size < 0 or offset + size > self.data_bytes:
            raise ValueError(
                f"{self.path}: bytes {offset} to {offset + size} of a data section of {self.data_bytes}"
            )
        return _read_at(self._file.fileno(), self.data_start + offset, size, self.path)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ── the header ────────────────────────────────────────────────────────────────────────────────────


def _encode_header(entries: Sequence[TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Length, JSON table, and spaces up to a multiple of 8 bytes."""
    table: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    for entry in entries:
        table[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.offset, entry.offset + entry.bytes],
        }
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _LENGTH.pack(len(text)) + text


def _decode_header(descriptor: int, path: Path) -> tuple[list[TensorEntry], dict[str, str], int]:
    """(entries in data order, metadata, file offset of the data section), all checked against the file's size."""
    size = os.fstat(descriptor).st_size
    (length,) = _LENGTH.unpack(_read_at(descriptor, 0, _LENGTH.size, path))
    start = _LENGTH.size + length
    if length > MAX_HEADER_BYTES or start > size:
        raise DamagedFile(
            f"{path}: a header of {length} bytes at offset 0 in a file of {size}; use another checkpoint"
        )
    try:
        table = json.loads(_read_at(descriptor, _LENGTH.size, length, path))
        metadata = {str(k): str(v) for k, v in table.pop(_METADATA, {}).items()}
        ordered = sorted(table.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        entries = lay_out([(name, t["dtype"], tuple(t["shape"])) for name, t in ordered])
        spans = [tuple(t["data_offsets"]) for _, t in ordered]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(
            f"{path}: the header at offset {_LENGTH.size} is damaged ({error}); use another checkpoint"
        ) from error
    data = sum(entry.bytes for entry in entries)
    if spans != [(e.offset, e.offset + e.bytes) for e in entries] or start + data != size:
        raise DamagedFile(
            f"{path}: its header describes {data} bytes of data without gaps from offset {start} on, "
            f"the file has {size - start}; use another checkpoint"
        )
    return entries, metadata, start


# ── what is written ───────────────────────────────────────────────────────────────────────────────


def _describe(path: Path, data_start: int, entries: Sequence[TensorEntry]) -> tuple[FileEntry, str]:
    """(manifest entry, sha256 of the data section) of a finished file, in one pass over it."""
    whole, data, size = hashlib.sha256(), hashlib.sha256(), data_start
    for chunk in chunks(path, 0, data_start):
        whole.update(chunk)
    sums = []
    for entry in entries:
        crc = 0
        for chunk in chunks(path, data_start + entry.offset, entry.bytes):
            whole.update(chunk)
            data.update(chunk)
            crc = zlib.crc32(chunk, crc)
        sums.append(TensorSum(entry.name, data_start + entry.offset, entry.bytes, crc))
        size += entry.bytes
    return FileEntry(size, whole.hexdigest(), tuple(sums)), data.hexdigest()


class _Coverage:
    """Which bytes are written: sorted, disjoint, non-touching spans."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Marks start ≤ byte < stop. Raises ValueError if one of them is marked already."""
        if start == stop:
            return
        i = bisect.bisect_right(self._starts, start)
        reaches_back = i > 0 and self._stops[i - 1] > start
        reaches_on = i < len(self._starts) and self._starts[i] < stop
        if reaches_back or reaches_on:
            raise ValueError(f"bytes {start} to {stop} overlap with bytes that are written already")
        if i < len(self._starts) and self._starts[i] == stop:
            del self._starts[i]
            stop = self._stops.pop(i)
        if i > 0 and self._stops[i - 1] == start:
            self._stops[i - 1] = stop
        else:
            self._starts.insert(i, start)
            self._stops.insert(i, stop)

    def first_gap(self, size: int) -> range | None:
        """The first bytes below `size` that are not marked, or None."""
        if size == 0 or (self._starts == [0] and self._stops == [size]):
            return None
        if not self._starts or self._starts[0] > 0:
            return range(self._starts[0] if self._starts else size)
        return range(self._stops[0], self._starts[1] if len(self._starts) > 1 else size)


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────


def _write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_at(descriptor: int, offset: int, size: int, path: Path) -> bytes:
    """Exactly `size` bytes. Raises DamagedFile where the file ends before."""
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            raise DamagedFile(
                f"{path} ends at offset {offset}, {size} bytes too early; use another checkpoint"
            )
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def chunks(path: Path, offset: int, size: int) -> Iterator[bytes]:
    """`size` bytes of a file from `offset` on. Raises DamagedFile where it ends before."""
    with path.open("rb", buffering=0) as file:
        for at in range(offset, offset + size, CHUNK_BYTES):
            yield _read_at(file.fileno(), at, min(CHUNK_BYTES, offset + size - at), path)
