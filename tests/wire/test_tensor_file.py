"""Tensor files: read and written by the safetensors library too, each byte once, damage told."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from tests.wire.tensors import DATA, ENTRIES, MASK, WEIGHT
from wire.errors import DamagedFile, NoInput
from wire.tensor_file import TensorFileReader, TensorFileWriter


def write_file(path: Path, *, metadata: dict[str, str] | None = None) -> tuple[TensorFileWriter, str]:
    writer = TensorFileWriter(path, ENTRIES, metadata or {})
    writer.write(0, DATA)
    return writer, writer.close()


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    _, digest = write_file(tmp_path / "m.safetensors", metadata={"plane": "x"})
    tensors = load_file(tmp_path / "m.safetensors")
    assert set(tensors) == {"weight", "scalar", "mask", "none"}
    np.testing.assert_array_equal(tensors["weight"], WEIGHT)
    np.testing.assert_array_equal(tensors["mask"], MASK)
    assert tensors["scalar"].shape == () and tensors["scalar"] == 7 and tensors["none"].shape == (0,)
    assert digest == hashlib.sha256(DATA).hexdigest()


def test_the_data_section_begins_at_a_multiple_of_eight(tmp_path: Path) -> None:
    for extra in ("", "a", "ab", "é"):
        path = tmp_path / f"{len(extra)}{extra}"
        write_file(path, metadata={"note": extra})
        with TensorFileReader(path) as reader:
            assert reader.data_start % 8 == 0
            assert reader.metadata == {"note": extra}


def test_reads_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    save_file({"a": WEIGHT, "b": MASK}, tmp_path / "lib.safetensors", metadata={"k": "v"})
    with TensorFileReader(tmp_path / "lib.safetensors") as reader:
        offsets = {e.name: (e.offset, e.bytes, e.dtype, e.shape) for e in reader.entries}
        assert reader.metadata == {"k": "v"}
        assert offsets["a"][2:] == ("F32", (3, 4)) and offsets["b"][2:] == ("U8", (5,))
        assert reader.read(*offsets["a"][:2]) == WEIGHT.tobytes()
        assert reader.read(*offsets["b"][:2]) == MASK.tobytes()


@given(st.lists(st.integers(0, len(DATA)), max_size=6), st.randoms(use_true_random=False))
def test_any_order_of_pieces_gives_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rng: object
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "f"
    edges = [0, *sorted(cuts), len(DATA)]
    pieces = list(itertools.pairwise(edges))
    rng.shuffle(pieces)  # type: ignore[attr-defined]
    writer = TensorFileWriter(path, ENTRIES, {})
    for start, stop in pieces:
        writer.write(start, memoryview(DATA)[start:stop])
    assert writer.close() == hashlib.sha256(DATA).hexdigest()


@given(
    st.lists(
        st.tuples(st.integers(0, len(DATA)), st.integers(0, len(DATA))).map(sorted), min_size=1, max_size=8
    )
)
def test_each_byte_is_written_exactly_once_or_refused(
    tmp_path_factory: pytest.TempPathFactory, spans: list[list[int]]
) -> None:
    writer = TensorFileWriter(tmp_path_factory.mktemp("spans") / "f", ENTRIES, {})
    covered: set[int] = set()
    for start, stop in spans:
        if covered & set(range(start, stop)):
            with pytest.raises(ValueError, match="overlap"):
                writer.write(start, DATA[start:stop])
        else:
            writer.write(start, DATA[start:stop])
            covered |= set(range(start, stop))
    if len(covered) == len(DATA):
        assert writer.close() == hashlib.sha256(DATA).hexdigest()
    else:
        first_missing = min(set(range(len(DATA))) - covered)
        with pytest.raises(ValueError, match=rf"bytes {first_missing} to \d+ were never written"):
            writer.close()


def test_writes_beyond_the_data_section_are_refused(tmp_path: Path) -> None:
    writer = TensorFileWriter(tmp_path / "f", ENTRIES, {})
    for offset, size in ((-1, 1), (len(DATA), 1), (0, len(DATA) + 1)):
        with pytest.raises(ValueError, match="data section"):
            writer.write(offset, bytes(size))
    writer.discard()


@pytest.mark.parametrize(
    "entries",
    [[("a", "F32", (1,)), ("a", "F32", (1,))], [("a", "F24", (1,))], [("__metadata__", "U8", (1,))]],
)
def test_impossible_tables_are_refused(
    tmp_path: Path, entries: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    with pytest.raises(ValueError):
        TensorFileWriter(tmp_path / "f", entries, {})
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_truncated_tensor_file_is_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "f"
    write_file(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DamagedFile, match=str(path)):
        TensorFileReader(path)


@given(st.binary(max_size=200))
def test_garbage_is_never_read_as_a_tensor_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "f"
    path.write_bytes(data)
    with pytest.raises(DamagedFile):
        TensorFileReader(path)


def test_hostile_tables_are_damaged_files(tmp_path: Path) -> None:
    tables: list[object] = [
        [],
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "U8", "shape": ["4"], "data_offsets": [0, 4]}},
    ]
    for table in tables:
        text = json.dumps(table).encode()
        path = tmp_path / "f"
        path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
        with pytest.raises(DamagedFile):
            TensorFileReader(path)


def test_a_missing_tensor_file_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="nowhere"):
        TensorFileReader(tmp_path / "nowhere")


def test_memory_stays_at_a_chunk(tmp_path: Path) -> None:
    """The writer of a 256 MiB file grows by less than 16 MiB."""
    script = f"""
import resource
from pathlib import Path
from wire.tensor_file import TensorFileWriter
chunk = bytes(1 << 20)
writer = TensorFileWriter(Path({str(tmp_path / "big")!r}), [("a", "F32", (64 << 20,))], {{}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i in range(256):
    writer.write(i << 20, chunk)
writer.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=root, check=True, capture_output=True, timeout=60
    )
    os.unlink(tmp_path / "big")
    assert int(out.stdout) < 16 << 10
