"""Checkpoints on disk: tensor files and blobs, under a manifest that is written last.

A checkpoint is a directory `step-N` that appears by a rename, complete or not at all:

1. its files are written in `.step-N.partial` beside it, each fsynced when it is closed;
2. `manifest.json` (sizes, sha256, a CRC-32 a tensor, and a digest of itself) comes last, fsynced;
3. the directory is fsynced, renamed, and its parent fsynced.

What cannot be proved whole is never loaded (P13). Imports neither torch nor numpy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wire.crash import crash_point
from wire.errors import DamagedFile, NoInput
from wire.files import fsync_directory, fsync_file, write_durably
from wire.tensor_file import FileEntry, TensorFileWriter, TensorSum, chunks

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LEFTOVERS = (".step-*.partial", ".step-*.replaced", ".step-*.removed")
"""What a process that died in between leaves: the next writer removes it."""
_log = logging.getLogger(__name__)


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


class BlobWriter:
    """A file that is no tensor file, written from its beginning on. Between two pieces it is not open: there may be
    as many as streams.
    """

    def __init__(self, path: Path) -> None:
        """Raises: FileExistsError."""
        self._path = path
        self._bytes = 0
        self._digest = hashlib.sha256()
        self._result: FileEntry | None = None
        path.touch(exist_ok=False)

    def write(self, data: bytes) -> None:
        """Puts `data` behind what is there."""
        with self._path.open("ab") as file:
            file.write(data)
        self._bytes += len(data)
        self._digest.update(data)

    def close(self) -> None:
        """Makes the file durable."""
        fsync_file(self._path)
        self._result = FileEntry(self._bytes, self._digest.hexdigest())

    @property
    def result(self) -> FileEntry | None:
        """What the manifest says about the file; None before `close`."""
        return self._result


class CheckpointWriter:
    """Writes `dir/step-N`, which exists only once `commit` has returned.

    One process writes into `dir`: leftovers of earlier unfinished checkpoints are removed.
    """

    def __init__(self, dir: Path, step: int) -> None:
        self.path = dir / f"step-{step}"
        self._step = step
        self._partial = dir / f".step-{step}.partial"
        self._files: dict[str, TensorFileWriter] = {}
        self._blobs: dict[str, BlobWriter] = {}
        dir.mkdir(parents=True, exist_ok=True)
        for leftover in (found for left in LEFTOVERS for found in dir.glob(left)):
            shutil.rmtree(leftover)
        self._partial.mkdir()

    def file(
        self, name: str, entries: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
    ) -> TensorFileWriter:
        """A tensor file to be filled and closed before `commit`."""
        writer = TensorFileWriter(self._claim(name), entries, metadata)
        self._files[name] = writer
        return writer

    def blob(self, name: str) -> BlobWriter:
        """Any other file, to be filled and closed before `commit`."""
        writer = BlobWriter(self._claim(name))
        self._blobs[name] = writer
        return writer

    def commit(self, manifest_extra: Mapping[str, Any]) -> Path:
        """Makes the checkpoint exist, in place of a damaged or older one of the same step; its path.

        `manifest_extra` has `run`, `timeline`, `config_digest`, `layout` and anything else that is JSON.

        Raises:
            ValueError: a key is missing, or a file is not closed.
            DamagedFile: what was written to replace another one does not read back as it was meant.
        """
        written: dict[str, TensorFileWriter | BlobWriter] = {**self._files, **self._blobs}
        entries: dict[str, FileEntry] = {}
        for name, writer in written.items():
            if writer.result is None:
                raise ValueError(f"{name} of checkpoint {self.path} is not closed")
            entries[name] = writer.result
        crash_point("checkpoint.manifest.before")
        write_durably(self._partial / MANIFEST, _encode_manifest(self._step, entries, manifest_extra))
        fsync_directory(self._partial)
        self._put_in_place()
        crash_point("checkpoint.manifest.after")
        return self.path

    def abort(self) -> None:
        """Removes what was written; harmless after `commit`."""
        for writer in self._files.values():
            writer.discard()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _claim(self, name: str) -> Path:
        plain = Path(name).name == name and not name.startswith(".") and name != ""
        if not plain or name == MANIFEST or name in self._files or name in self._blobs:
            raise ValueError(f"{name!r} is no name for a new file of a checkpoint")
        return self._partial / name

    def _put_in_place(self) -> None:
        replaced = self.path.parent / f".{self.path.name}.replaced"
        if self.path.exists():
            load_manifest(self._partial)  # what it replaces may have been the only good one
            self.path.rename(replaced)
        self._partial.rename(self.path)
        fsync_directory(self.path.parent)
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
    for error in find_damage(manifest, verify=verify):
        raise error
    return manifest


def find_damage(manifest: Manifest, *, verify: bool = True) -> Iterator[DamagedFile]:
    """Every file, and with `verify` every tensor, of a checkpoint that is not what its manifest says."""
    for name, entry in manifest.files.items():
        file = manifest.path / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            found = (
                "is missing" if size is None else f"has {size} bytes, so it is damaged from offset {size} on"
            )
            yield DamagedFile(
                f"{file} {found}; its manifest says {entry.bytes} bytes: use another checkpoint"
            )
        elif verify and not _as_written(file, entry):
            for place in _locate(file, entry):
                yield DamagedFile(f"{file} is not what was written: {place}; use another checkpoint")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint directory `path`; its files are not looked at.

    Raises: NoInput, DamagedFile.
    """
    return _decode_manifest(path)


def newest(run_dir: Path, *, say: Callable[[str], None] = _log.warning) -> Path | None:
    """The newest whole checkpoint in `run_dir` (or in its directory `checkpoints`), or None.

    Damaged ones are told to `say` by name and passed over.
    """
    for manifest in list_checkpoints(run_dir, say=say):
        try:
            load_manifest(manifest.path)
        except (DamagedFile, NoInput) as error:
            say(_passed_over(manifest.path, error))
        else:
            return manifest.path
    return None


def list_checkpoints(run_dir: Path, *, say: Callable[[str], None] = _log.warning) -> list[Manifest]:
    """The checkpoints in `run_dir` (or in its directory `checkpoints`), the newest first; contents are not checked.

    Newer is what belongs to a later timeline, then a later step: what a run had reached before it was resumed from
    an earlier checkpoint is behind it. Those without a manifest, or with other files than it says, are told to `say`.
    """
    found: list[Manifest] = []
    for path in checkpoint_paths(run_dir):
        try:
            found.append(load_manifest(path, verify=False))
        except (DamagedFile, NoInput) as error:
            say(_passed_over(path, error))
    return sorted(found, key=lambda manifest: (manifest.timeline, manifest.step), reverse=True)


def checkpoint_paths(run_dir: Path) -> list[Path]:
    """Every `step-N` in `run_dir` or in its directory `checkpoints`, by step; whole or not."""
    found = [*run_dir.glob("checkpoints/step-*"), *run_dir.glob("step-*")]
    named = [path for path in found if path.name.removeprefix("step-").isdecimal()]
    return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))


def remove(path: Path) -> None:
    """Removes a checkpoint: it is no checkpoint any more before its first file goes."""
    going = path.with_name(f".{path.name}.removed")
    path.rename(going)
    fsync_directory(path.parent)
    shutil.rmtree(going)


def _passed_over(path: Path, error: Exception) -> str:
    return f"checkpoint {path} is passed over: {error}"


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
    return _write({**as_read_back, "digest": _digest(as_read_back)})


def _write(content: Mapping[str, Any]) -> bytes:
    """A manifest's own bytes: read back and written again they are the same."""
    return json.dumps(content, indent=1).encode()


def _digest(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest without its own digest."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _decode_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    try:
        raw = file.read_bytes()
        content = json.loads(raw)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoInput(f"{path} is no complete checkpoint: there is no {MANIFEST} in it") from error
    except ValueError as error:
        at = getattr(error, "pos", getattr(error, "start", 0))
        raise DamagedFile(f"{file} is not JSON at offset {at} ({error}); use another checkpoint") from error
    same = isinstance(content, dict) and content.get("digest") == _digest(content) and _write(content) == raw
    if not same:
        raise DamagedFile(
            f"{file} does not match its own digest, somewhere at offset 0 to {len(raw)}; use another checkpoint"
        )
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


def _as_written(file: Path, entry: FileEntry) -> bool:
    digest = hashlib.sha256()
    for chunk in chunks(file, 0, entry.bytes):
        digest.update(chunk)
    return digest.hexdigest() == entry.sha256


def _locate(file: Path, entry: FileEntry) -> list[str]:
    """Where the damage is, as closely as the checksums tell."""
    places = []
    for tensor in entry.tensors:
        crc = 0
        for chunk in chunks(file, tensor.offset, tensor.bytes):
            crc = zlib.crc32(chunk, crc)
        if crc != tensor.crc32:
            stop = tensor.offset + tensor.bytes
            places.append(f"tensor {tensor.name!r}, at offset {tensor.offset} to {stop}, is damaged")
    if not places and entry.tensors:
        places.append(f"its header, at offset 0 to {entry.tensors[0].offset}, is damaged")
    return places or [f"its sha256 differs somewhere at offset 0 to {entry.bytes}"]
