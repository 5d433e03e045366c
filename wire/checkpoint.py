"""Checkpoints on disk: safetensors written by offset, under a manifest that is written last.

A checkpoint is a directory `step-N` that appears by a rename, complete or not at all:

1. its files are written in `.step-N.partial` beside it, each fsynced when it is closed;
2. `manifest.json` (sizes, sha256, a CRC-32 a tensor, and a digest of itself) comes last, fsynced;
3. the directory is fsynced, renamed, and its parent fsynced.

What cannot be proved whole is never loaded (P13). Holds one chunk in memory at a time and
imports neither torch nor numpy. Format of the tensor files: huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import logging
import math
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from wire.errors import DamagedFile, NoInput

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ITEM_BYTES = {"F32": 4, "U8": 1}
CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 100 << 20
"""Limit of the safetensors format itself."""
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_log = logging.getLogger(__name__)


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
        ValueError: a name twice or reserved, a dtype other than F32 and U8, a negative dimension.
    """
    table: list[TensorEntry] = []
    offset = 0
    for name, dtype, shape in entries:
        if name == _METADATA or dtype not in ITEM_BYTES or any(n < 0 for n in shape):
            raise ValueError(
                f"tensor {name!r}: dtype {dtype}, shape {shape}; expected F32 or U8 and sizes ≥ 0"
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
        """Reserves the whole file. `entries`: (name, dtype "F32" | "U8", shape) in data order.

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


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is and what it consists of."""

    path: Path
    """The checkpoint's directory."""
    run: str
    timeline: int
    step: int
    config_digest: str
    layout: Any
    """The table of parameters, as the writer gave it."""
    files: Mapping[str, FileEntry]
    extra: Mapping[str, Any]
    """Whatever else the writer put in, as JSON."""


class CheckpointWriter:
    """Writes `dir/step-N`, which exists only once `commit` has returned.

    One process writes into `dir`: leftovers of earlier unfinished checkpoints are removed.
    """

    def __init__(self, dir: Path, step: int) -> None:
        self.path = dir / f"step-{step}"
        self._step = step
        self._partial = dir / f".step-{step}.partial"
        self._files: dict[str, FileEntry] = {}
        self._open: dict[str, TensorFileWriter] = {}
        dir.mkdir(parents=True, exist_ok=True)
        for leftover in [*dir.glob(".step-*.partial"), *dir.glob(".step-*.replaced")]:
            shutil.rmtree(leftover)
        self._partial.mkdir()

    def file(
        self, name: str, entries: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> TensorFileWriter:
        """A tensor file to be filled and closed before `commit`."""
        writer = TensorFileWriter(self._claim(name), entries, metadata)
        self._open[name] = writer
        return writer

    def blob(self, name: str, data: bytes) -> None:
        """A small file, written at once."""
        path = self._claim(name)
        _write_durably(path, data)
        self._files[name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())

    def commit(self, manifest_extra: Mapping[str, Any]) -> Path:
        """Makes the checkpoint exist, in place of a damaged or older one of the same step; its path.

        `manifest_extra` has `run`, `timeline`, `config_digest`, `layout` and anything else that is JSON.

        Raises:
            ValueError: a key is missing, or a file is not closed.
        """
        for name, writer in self._open.items():
            if writer.result is None:
                raise ValueError(f"{name} of checkpoint {self.path} is not closed")
            self._files[name] = writer.result
        _write_durably(self._partial / MANIFEST, _encode_manifest(self._step, self._files, manifest_extra))
        _fsync_directory(self._partial)
        self._put_in_place()
        return self.path

    def abort(self) -> None:
        """Removes what was written; harmless after `commit`."""
        for writer in self._open.values():
            writer.discard()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _claim(self, name: str) -> Path:
        plain = Path(name).name == name and not name.startswith(".") and name != ""
        if not plain or name == MANIFEST or name in self._files or name in self._open:
            raise ValueError(f"{name!r} is no name for a new file of a checkpoint")
        return self._partial / name

    def _put_in_place(self) -> None:
        replaced = self.path.parent / f".{self.path.name}.replaced"
        if self.path.exists():
            self.path.rename(replaced)
        self._partial.rename(self.path)
        _fsync_directory(self.path.parent)
        if replaced.exists():
            shutil.rmtree(replaced)


def load_manifest(path: Path, *, verify: bool = True) -> Manifest:
    """The manifest of the checkpoint directory `path`, its files checked against it.

    Sizes are always checked, contents only with `verify`.

    Raises:
        NoInput: no checkpoint there, or an unfinished one.
        DamagedFile: a file is missing, short, or not what was written; names file and offset.
    """
    manifest = _decode_manifest(path)
    for name, entry in manifest.files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DamagedFile(
                f"{file} {found}; its manifest says {entry.bytes} bytes: use another checkpoint"
            )
        if verify:
            _verify(file, entry)
    return manifest


def newest(run_dir: Path, *, say: Callable[[str], None] = _log.warning) -> Path | None:
    """The newest whole checkpoint in `run_dir` (or in its directory `checkpoints`), or None.

    Damaged ones are told to `say` by name and passed over.
    """
    found = [*run_dir.glob("checkpoints/step-*"), *run_dir.glob("step-*")]
    steps = [(int(path.name.removeprefix("step-")), path) for path in found if path.name[5:].isdecimal()]
    for _, path in sorted(steps, reverse=True):
        try:
            load_manifest(path)
        except (DamagedFile, NoInput) as error:
            say(f"checkpoint {path} is passed over: {error}")
        else:
            return path
    return None


# ── the manifest ────────────────────────────────────────────────────────────────────────────────

_FIELDS = ("run", "timeline", "config_digest", "layout")


def _encode_manifest(step: int, files: Mapping[str, FileEntry], given: Mapping[str, Any]) -> bytes:
    missing = [field for field in _FIELDS if field not in given]
    if missing:
        raise ValueError(f"the manifest lacks {', '.join(missing)}")
    content = {
        "format_version": FORMAT_VERSION,
        "step": step,
        **{field: given[field] for field in _FIELDS},
        "files": {
            name: {"bytes": entry.bytes, "sha256": entry.sha256, "tensors": [list(t) for t in entry.tensors]}
            for name, entry in sorted(files.items())
        },
        "extra": {key: value for key, value in given.items() if key not in _FIELDS},
    }
    as_read_back = json.loads(json.dumps(content))  # integer keys become strings, tuples lists
    return json.dumps({**as_read_back, "digest": _digest(as_read_back)}, indent=1).encode()


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest without its own digest."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _decode_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoInput(f"{path} is no complete checkpoint: there is no {MANIFEST} in it") from error
    except ValueError as error:
        raise DamagedFile(f"{file} is not JSON ({error}); use another checkpoint") from error
    if not isinstance(content, dict) or content.get("digest") != _digest(content):
        raise DamagedFile(f"{file} does not match its own digest; use another checkpoint")
    if content["format_version"] != FORMAT_VERSION:
        raise DamagedFile(
            f"{file} has format version {content['format_version']}, this build reads {FORMAT_VERSION}: "
            "use the version of Sparsync that wrote it"
        )
    files = {
        name: FileEntry(entry["bytes"], entry["sha256"], tuple(TensorSum(*t) for t in entry["tensors"]))
        for name, entry in content["files"].items()
    }
    given = {field: content[field] for field in _FIELDS}
    return Manifest(path=path, step=content["step"], files=files, extra=content["extra"], **given)


def _verify(file: Path, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    for chunk in _chunks(file, 0, entry.bytes):
        digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        raise DamagedFile(f"{file} is not what was written: {_locate(file, entry)}; use another checkpoint")


def _locate(file: Path, entry: FileEntry) -> str:
    """Where the damage is, as closely as the checksums tell."""
    for tensor in entry.tensors:
        crc = 0
        for chunk in _chunks(file, tensor.offset, tensor.bytes):
            crc = zlib.crc32(chunk, crc)
        if crc != tensor.crc32:
            return f"tensor {tensor.name!r}, at offset {tensor.offset} to {tensor.offset + tensor.bytes}, is damaged"
    if entry.tensors:
        return f"its header, at offset 0 to {entry.tensors[0].offset}, is damaged"
    return f"its sha256 differs somewhere at offset 0 to {entry.bytes}"


# ── the tensor files ────────────────────────────────────────────────────────────────────────────


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


def _describe(path: Path, data_start: int, entries: Sequence[TensorEntry]) -> tuple[FileEntry, str]:
    """(manifest entry, sha256 of the data section) of a finished file, in one pass over it."""
    whole, data, size = hashlib.sha256(), hashlib.sha256(), data_start
    for chunk in _chunks(path, 0, data_start):
        whole.update(chunk)
    sums = []
    for entry in entries:
        crc = 0
        for chunk in _chunks(path, data_start + entry.offset, entry.bytes):
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


# ── files ───────────────────────────────────────────────────────────────────────────────────────


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


def _chunks(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        for at in range(offset, offset + size, CHUNK_BYTES):
            yield _read_at(file.fileno(), at, min(CHUNK_BYTES, offset + size - at), path)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
