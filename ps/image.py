"""The image of a shard's whole state: one self-contained file, the same bytes on disk and on the wire.

    offset  size  field
    0       4     magic "SPIM"
    4       4     version, 1
    8       8     bytes of the text
    16      8     bytes of all blobs
    24      8     XXH3-64 of the text
    32      8     XXH3-64 of bytes 0..31
    40      …     the text, ASCII: three lines of JSON with sorted keys
    …       …     the blobs, one after the other

All numbers are little-endian. The lines of the text are: what is told beside the state (the tree's `identity`); the
table of blobs, [bytes, XXH3-64, dtype, shape] each, without dtype and shape where it is no array; the tree, in which
{"$": n} stands for blob n. JSON's own numbers, and NaN and Infinity as Python writes them. So equal states have equal
second and third lines, and a `digest` of these compares them, blobs included. Each byte is under a checksum, and
nothing is allocated before it is known that the file is as long as it says. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from wire.codec.base import Buffer
from wire.errors import DamagedFile, ProtocolMismatch

Tree = (
    bool
    | int
    | float
    | str
    | bytes
    | memoryview
    | NDArray[Any]
    | Sequence["Tree"]
    | Mapping[str, "Tree"]
    | None
)
"""Explicit values. A key "$" is not free. `decode` gives lists, dictionaries, bytes and arrays of its own."""
ASIDE = "identity"
"""What a tree has under this key, no blobs, is not of the state: `digest` leaves it out."""

MAGIC = b"SPIM"
VERSION = 1
PREFIX = struct.Struct("<4sIQQQQ")
_CHECKED = PREFIX.size - 8
_CHUNK_BYTES = 1 << 22
DTYPES = frozenset({"<f4", "<f8", "<i4", "<i8", "|u1"})


def encode(tree: Tree) -> tuple[bytes, list[Buffer]]:
    """Header and blobs of a tree; the image is all of them, one after the other. Arrays are not copied.

    Raises: TypeError, ValueError for what is no tree.
    """
    aside: Any = None
    if isinstance(tree, Mapping):
        aside = tree.get(ASIDE)
        tree = {name: value for name, value in tree.items() if name != ASIDE}
    table: list[list[Any]] = []
    blobs: list[Buffer] = []

    def take(value: object) -> dict[str, int]:
        data, *shape = _bytes_of(value)
        table.append([len(data), _sum_of(data), *shape])
        blobs.append(data)
        return {"$": len(blobs) - 1}

    state = _json(tree, take)
    if state.count('"$":') != len(blobs):
        raise ValueError('a key "$" in a tree: it stands for blobs')
    text = "\n".join([_json(aside, _no_blob), _json(table, _no_blob), state]).encode("ascii")
    prefix = PREFIX.pack(MAGIC, VERSION, len(text), sum(map(len, blobs)), xxhash.xxh3_64_intdigest(text), 0)
    checksum = xxhash.xxh3_64_intdigest(prefix[:_CHECKED]).to_bytes(8, "little")
    return prefix[:_CHECKED] + checksum + text, blobs


def digest(header: bytes) -> bytes:
    """Of the state behind a header that `encode` made: 32 bytes, equal where the states are."""
    return hashlib.sha256(header[header.index(b"\n", PREFIX.size) :]).digest()


def decode(image: Buffer | Path) -> Tree:
    """The tree of an image in memory or in a file.

    Raises:
        DamagedFile: names file and offset.
        ProtocolMismatch: an image of another version.
        OSError: the file cannot be read.
    """
    if not isinstance(image, Path):
        return _decode(_Memory(image))
    with image.open("rb", buffering=0) as file:
        return _decode(_File(image, file.fileno()))


# ── writing ───────────────────────────────────────────────────────────────────────────────────────


def _json(tree: Tree, default: Any) -> str:
    return json.dumps(tree, default=default, sort_keys=True, separators=(",", ":"))


def _bytes_of(value: object) -> tuple[memoryview] | tuple[memoryview, str, list[int]]:
    """What is written of a leaf that JSON has no word for; of an array with dtype and shape."""
    if isinstance(value, bytes | memoryview):
        view = memoryview(value)
        return (view.cast("B") if view.nbytes else memoryview(b""),)
    if not isinstance(value, np.ndarray) or value.dtype.str not in DTYPES:
        what = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{what} in the tree of an image: expected JSON, bytes or arrays of {sorted(DTYPES)}")
    flat = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return flat.data, value.dtype.str, list(value.shape)


def _no_blob(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} in the identity of an image: expected JSON")


def _sum_of(data: memoryview) -> int:
    """In pieces: others may run between them."""
    checksum = xxhash.xxh3_64()
    for start in range(0, len(data), _CHUNK_BYTES):
        checksum.update(data[start : start + _CHUNK_BYTES])
    return checksum.intdigest()


# ── reading ───────────────────────────────────────────────────────────────────────────────────────


class _Source(Protocol):
    name: str
    size: int

    def read_into(self, offset: int, into: memoryview) -> None: ...


class _Memory:
    def __init__(self, data: Buffer) -> None:
        self.name = "an image"
        self._data = memoryview(data).cast("B") if len(data) else memoryview(b"")
        self.size = len(self._data)

    def read_into(self, offset: int, into: memoryview) -> None:
        into[:] = self._data[offset : offset + len(into)]


class _File:
    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = str(path)
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_into(self, offset: int, into: memoryview) -> None:
        while into:
            got = os.preadv(self._descriptor, [into], offset)
            if not got:
                raise _damaged(self, offset, f"ends here, {len(into)} bytes too early")
            into, offset = into[got:], offset + got


def _decode(source: _Source) -> Tree:
    text_bytes, blob_bytes, checksum = _read_prefix(source)
    text = _read(source, PREFIX.size, text_bytes)
    if xxhash.xxh3_64_intdigest(text) != checksum:
        raise _damaged(source, PREFIX.size, f"the text of {text_bytes} bytes does not match its checksum")
    try:
        aside, table, state = text.split(b"\n")
        blobs = _Blobs(source, PREFIX.size + text_bytes, json.loads(table))
        if blobs.bytes != blob_bytes:
            raise ValueError(f"blobs of {blobs.bytes} bytes where there are {blob_bytes}")
        tree = json.loads(state, object_hook=blobs.resolve)
        blobs.finish()
        if (identity := json.loads(aside)) is not None:
            tree[ASIDE] = identity
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise _damaged(source, PREFIX.size, f"the text is not that of an image ({error})") from error
    return tree  # type: ignore[no-any-return]


def _read_prefix(source: _Source) -> tuple[int, int, int]:
    """(bytes of the text, bytes of the blobs, checksum of the text), which fit the file."""
    if source.size < PREFIX.size:
        raise _damaged(source, source.size, f"ends here; an image begins with {PREFIX.size} bytes")
    prefix = _read(source, 0, PREFIX.size)
    magic, version, text_bytes, blob_bytes, text_sum, prefix_sum = PREFIX.unpack(prefix)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(prefix[:_CHECKED]) != prefix_sum:
        raise _damaged(source, 0, "no image begins like this, or it does not match its checksum")
    if version != VERSION:
        raise ProtocolMismatch(
            f"{source.name} has version {version}, this build reads {VERSION}: use the build of it"
        )
    if PREFIX.size + text_bytes + blob_bytes != source.size:
        whole = PREFIX.size + text_bytes + blob_bytes
        raise _damaged(source, min(whole, source.size), f"has {source.size} bytes, it says {whole}")
    return text_bytes, blob_bytes, text_sum


class _Blobs:
    """The blobs of an image; each is asked for once."""

    def __init__(self, source: _Source, start: int, table: list[list[Any]]) -> None:
        self._source = source
        self._table = table
        self._offsets = [start]
        for size, *_ in table:
            if not isinstance(size, int) or size < 0:
                raise ValueError(f"a blob of {size!r} bytes")
            self._offsets.append(self._offsets[-1] + size)
        self._asked: set[int] = set()
        self.bytes = self._offsets[-1] - start

    def resolve(self, node: dict[str, Any]) -> Any:
        """What stands at a dictionary of the tree."""
        if "$" not in node:
            return node
        number = node["$"]
        if number in self._asked or not 0 <= number < len(self._table):
            raise ValueError(f"blob {number!r} of {len(self._table)} is asked for, or twice")
        self._asked.add(number)
        size, checksum, *shape = self._table[number]
        return self._array(number, size, checksum, *shape) if shape else self._plain(number, size, checksum)

    def finish(self) -> None:
        if len(self._asked) != len(self._table):
            raise ValueError(f"{len(self._table)} blobs, of which the tree has {len(self._asked)}")

    def _plain(self, number: int, size: int, checksum: int) -> bytes:
        data = _read(self._source, self._offsets[number], size)
        self._check(number, memoryview(data), checksum)
        return data

    def _array(self, number: int, size: int, checksum: int, dtype: str, shape: list[int]) -> NDArray[Any]:
        if (
            dtype not in DTYPES
            or min(shape, default=0) < 0
            or math.prod(shape) * np.dtype(dtype).itemsize != size
        ):
            raise ValueError(f"blob {number} of {size} bytes is to be {dtype!r} {shape}")
        values: NDArray[Any] = np.empty(shape, dtype)
        view = values.reshape(-1).view(np.uint8).data
        self._source.read_into(self._offsets[number], view)
        self._check(number, view, checksum)
        return values

    def _check(self, number: int, data: memoryview, checksum: int) -> None:
        if _sum_of(data) != checksum:
            what = f"blob {number} of {len(data)} bytes does not match its checksum"
            raise _damaged(self._source, self._offsets[number], what)


def _read(source: _Source, offset: int, size: int) -> bytes:
    data = bytearray(size)
    source.read_into(offset, memoryview(data))
    return bytes(data)


def _damaged(source: _Source, offset: int, what: str) -> DamagedFile:
    return DamagedFile(
        f"{source.name}, offset {offset}: {what}; use an older image or another copy of the shard"
    )
