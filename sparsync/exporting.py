"""A checkpoint's model as safetensors for other programs, in the dtypes that the model had, with its buffers.

Nothing is read of a checkpoint before every checksum of it has been checked. One chunk of a parameter is in memory at a
time; a file appears whole, by a rename. In several files it has the index that Hugging Face's loaders read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wire.checkpoint import Manifest, checkpoint_paths, load_manifest, newest
from wire.errors import DamagedFile, NoInput, UsageError
from wire.files import fsync_directory, write_durably
from wire.tensor_file import CHUNK_BYTES, ITEM_BYTES, TensorFileReader, TensorFileWriter

if TYPE_CHECKING:
    import torch

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
SOURCES = {"x": "model.safetensors", "published": "published.safetensors"}
STATES = ("stream-0.extra", "handed.extra")
"""Where the model's buffers are kept: of an exact segment, of an elastic one."""
DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


@dataclass(frozen=True)
class Tensor:
    """One tensor to be written: what it is, and its bytes in chunks."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[bytes]]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Exported:
    """What was written. `files`: name -> sha256."""

    checkpoint: Path
    run: str
    step: int
    model: str
    out: Path
    files: Mapping[str, str]
    tensors: int
    buffers: int
    bytes: int


def find_source(source: Path, *, step: int | None, say: Callable[[str], None]) -> Manifest:
    """The checkpoint that is meant, every checksum of it checked: `source` itself, or the newest good one of a run.

    `say` hears of damaged ones that are passed over.

    Raises: NoInput, DamagedFile (of one that was named).
    """
    if not source.is_dir():
        raise NoInput(
            f"{source}: no such directory; expected a run directory, or a checkpoints/step-N of one"
        )
    paths = checkpoint_paths(source)
    if step is not None:
        named = [path for path in paths if path.name == f"step-{step}"]
        if not named:
            there = ", ".join(path.name.removeprefix("step-") for path in paths) or "none"
            raise NoInput(f"{source} has no checkpoint of step {step}; there are: {there}")
        return load_manifest(named[0])
    if source.name.startswith("step-") and not paths:
        return load_manifest(source)
    found = newest(source, say=say)
    if found is None:
        raise NoInput(
            f"{source} has no good checkpoint; `sparsync verify {source}` tells what is wrong with each"
        )
    return load_manifest(found, verify=False)


def export(
    manifest: Manifest, out: Path, *, model: str, float32: bool = False, most_bytes: int | None = None
) -> Exported:
    """Write the model of a checkpoint into the directory `out`, which is made.

    Args:
        model: `x` or `published`.
        float32: parameters as the servers hold them, whatever dtype the model had.
        most_bytes: of tensors in one file; None: all in one.

    Raises: UsageError where there is a model in `out` already, or it cannot be written; DamagedFile.
    """
    _refuse_occupied(out)
    with TensorFileReader(manifest.path / SOURCES[model]) as reader:
        parameters = _parameters(reader, manifest, float32=float32)
        buffers = _buffers(manifest)
        told = {"format": "pt", "run": manifest.run, "step": str(manifest.step), "model": model}
        files = _write_all(out, _cut([*parameters, *buffers], most_bytes), told)
    size = sum(tensor.bytes for tensor in (*parameters, *buffers))
    return Exported(
        *(manifest.path, manifest.run, manifest.step, model, out, files),
        *(len(parameters), len(buffers), size),
    )


def _refuse_occupied(out: Path) -> None:
    for name in (ONE, INDEX):
        if (out / name).exists():
            raise UsageError(f"{out / name} is there already; remove it, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot create it ({error.strerror}); choose another --out") from None


# ── what is in it ───────────────────────────────────────────────────────────────────────────────


def _parameters(reader: TensorFileReader, manifest: Manifest, *, float32: bool) -> list[Tensor]:
    """The tensors of the servers' file, which are F32, as the model's table of parameters has them."""
    dtypes = {name: DTYPES[dtype] for name, _, dtype, _ in manifest.layout}
    wanted = {entry.name: "F32" if float32 else dtypes.get(entry.name, "F32") for entry in reader.entries}
    return [
        Tensor(e.name, wanted[e.name], e.shape, _chunks_of(reader, e.offset, e.bytes, wanted[e.name]))
        for e in reader.entries
    ]


def _chunks_of(reader: TensorFileReader, offset: int, size: int, dtype: str) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        for at in range(0, size, CHUNK_BYTES):
            data = reader.read(offset + at, min(CHUNK_BYTES, size - at))
            yield data if dtype == "F32" else _rounded(data, dtype)

    return chunks


def _rounded(data: bytes, dtype: str) -> bytes:
    """float32 as bfloat16 or float16, rounded as torch does."""
    import torch

    values = torch.frombuffer(bytearray(data), dtype=torch.float32)
    half = values.to(torch.bfloat16 if dtype == "BF16" else torch.float16)
    return bytes(half.view(torch.uint8).numpy().tobytes())


def _buffers(manifest: Manifest) -> list[Tensor]:
    """The model's persistent buffers, as they were with the first stream or with the worker that evaluates."""
    name = next((n for n in STATES if n in manifest.files and manifest.files[n].bytes), None)
    if name is None:
        return []
    from worker.state import parse

    kept: Mapping[str, torch.Tensor] = parse((manifest.path / name).read_bytes()).get("buffers", {})
    return [_buffer(key, tensor) for key, tensor in kept.items()]


def _buffer(name: str, tensor: torch.Tensor) -> Tensor:
    import safetensors.torch
    import torch

    whole = safetensors.torch.save({name: tensor.contiguous()})
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return Tensor(name, header[name]["dtype"], tuple(tensor.shape), lambda: iter([data] if data else []))


# ── the files ───────────────────────────────────────────────────────────────────────────────────


def _cut(tensors: Sequence[Tensor], most_bytes: int | None) -> list[list[Tensor]]:
    """The tensors in their order, so many a file as fit."""
    files: list[list[Tensor]] = [[]]
    room = most_bytes
    for tensor in tensors:
        if room is not None and most_bytes is not None and files[-1] and tensor.bytes > room:
            files.append([])
            room = most_bytes
        files[-1].append(tensor)
        room = room - tensor.bytes if room is not None else None
    return files


def _write_all(out: Path, files: Sequence[Sequence[Tensor]], told: Mapping[str, str]) -> dict[str, str]:
    """name -> sha256 of what was written; the index last, as loaders look for it first."""
    count = len(files)
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)] if count > 1 else [ONE]
    try:
        digests = {
            name: _write(out / name, tensors, told) for name, tensors in zip(names, files, strict=True)
        }
        if count > 1:
            weights = {t.name: name for name, tensors in zip(names, files, strict=True) for t in tensors}
            size = sum(tensor.bytes for tensors in files for tensor in tensors)
            index = {"metadata": {"total_size": size, **told}, "weight_map": weights}
            write_durably(out / INDEX, json.dumps(index, indent=2).encode() + b"\n")
        fsync_directory(out)
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written: {error.strerror or error}; choose another"
        ) from None
    except ValueError as error:
        raise DamagedFile(f"the checkpoint's parts do not fit each other: {error}; use another one") from None
    return digests


def _write(path: Path, tensors: Sequence[Tensor], told: Mapping[str, str]) -> str:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    writer = TensorFileWriter(partial, [(t.name, t.dtype, t.shape) for t in tensors], told)
    try:
        for entry, tensor in zip(writer.entries, tensors, strict=True):
            at = entry.offset
            for chunk in tensor.chunks():
                writer.write(at, chunk)
                at += len(chunk)
        writer.close()
        partial.rename(path)
    except BaseException:
        writer.discard()
        partial.unlink(missing_ok=True)
        raise
    assert writer.result is not None
    return writer.result.sha256
