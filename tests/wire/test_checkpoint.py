"""Checkpoints: readable by the safetensors library, complete or absent, damage named."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from wire.checkpoint import CheckpointWriter, TensorFileReader, TensorFileWriter, load_manifest, newest
from wire.errors import DamagedFile, NoInput

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
MASK = np.arange(5, dtype=np.uint8)
ENTRIES = [("weight", "F32", (3, 4)), ("scalar", "F32", ()), ("mask", "U8", (5,)), ("none", "U8", (0,))]
DATA = WEIGHT.tobytes() + np.float32(7).tobytes() + MASK.tobytes()
EXTRA = {"run": "r1", "timeline": 2, "config_digest": "abc", "layout": [["weight", [3, 4], "float32", 0]]}


def write_file(path: Path, *, metadata: dict[str, str] | None = None) -> tuple[TensorFileWriter, str]:
    writer = TensorFileWriter(path, ENTRIES, metadata or {})
    writer.write(0, DATA)
    return writer, writer.close()


def write_checkpoint(checkpoints: Path, step: int, **extra: object) -> Path:
    writer = CheckpointWriter(checkpoints, step)
    file = writer.file("model.safetensors", ENTRIES, {})
    file.write(0, DATA)
    file.close()
    writer.blob("state.json", b"{}")
    return writer.commit({**EXTRA, **extra})


def flip_bit(path: Path, offset: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


# ── tensor files ────────────────────────────────────────────────────────────────────────────────


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
    [[("a", "F32", (1,)), ("a", "F32", (1,))], [("a", "F64", (1,))], [("__metadata__", "U8", (1,))]],
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


# ── checkpoints ─────────────────────────────────────────────────────────────────────────────────


def test_a_committed_checkpoint_loads(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "checkpoints", 40, streams={0: [1, 2]}, floats=[0.1, 1e-300])
    assert path == tmp_path / "checkpoints" / "step-40"
    manifest = load_manifest(path)
    assert (manifest.run, manifest.timeline, manifest.step) == ("r1", 2, 40)
    assert manifest.layout == EXTRA["layout"] and manifest.config_digest == "abc"
    assert manifest.extra == {"streams": {"0": [1, 2]}, "floats": [0.1, 1e-300]}
    assert set(manifest.files) == {"model.safetensors", "state.json"}
    assert [t.name for t in manifest.files["model.safetensors"].tensors] == [e[0] for e in ENTRIES]
    assert sorted(p.name for p in path.parent.iterdir()) == ["step-40"]


def test_an_unfinished_file_prevents_the_commit(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 1)
    writer.file("model.safetensors", ENTRIES, {})
    with pytest.raises(ValueError, match="not closed"):
        writer.commit(EXTRA)
    writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["manifest.json", "../escape", "a/b", "", ".."])
def test_names_stay_inside_the_directory(tmp_path: Path, name: str) -> None:
    writer = CheckpointWriter(tmp_path, 1)
    with pytest.raises(ValueError, match="no name"):
        writer.blob(name, b"x")
    writer.abort()


def test_every_flipped_bit_is_named(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1)
    good = {p.name: p.read_bytes() for p in path.iterdir()}
    for name, content in good.items():
        for offset in range(0, len(content), 3):
            flip_bit(path / name, offset)
            with pytest.raises(DamagedFile, match=name):
                load_manifest(path)
            (path / name).write_bytes(content)
    load_manifest(path)


def test_damage_is_located_to_the_tensor(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1)
    file = path / "model.safetensors"
    flip_bit(file, file.stat().st_size - 1)
    start = file.stat().st_size - MASK.nbytes
    with pytest.raises(DamagedFile, match=rf"tensor 'mask', at offset {start} to {start + 5}"):
        load_manifest(path)
    assert load_manifest(path, verify=False).step == 1  # sizes alone do not show it


@pytest.mark.parametrize("verify", [True, False])
def test_missing_and_short_files_are_named(tmp_path: Path, verify: bool) -> None:
    path = write_checkpoint(tmp_path, 1)
    (path / "state.json").write_bytes(b"{")
    with pytest.raises(DamagedFile, match=r"state\.json has 1 bytes"):
        load_manifest(path, verify=verify)
    (path / "state.json").unlink()
    with pytest.raises(DamagedFile, match=r"state\.json is missing"):
        load_manifest(path, verify=verify)


def test_a_directory_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="no complete checkpoint"):
        load_manifest(tmp_path)


def test_newest_passes_over_damaged_ones_by_name(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in (9, 10, 100):
        write_checkpoint(checkpoints, step)
    flip_bit(checkpoints / "step-100" / "model.safetensors", 200)
    (checkpoints / "step-later").mkdir()
    said: list[str] = []
    assert newest(tmp_path, say=said.append) == checkpoints / "step-10"
    assert len(said) == 1 and "step-100" in said[0] and "model.safetensors" in said[0]
    assert newest(checkpoints, say=said.append) == checkpoints / "step-10"
    assert newest(tmp_path / "elsewhere") is None


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 5)
    flip_bit(path / "state.json", 0)
    write_checkpoint(tmp_path, 5, timeline=3)
    assert load_manifest(path).timeline == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step-5"]


KILLED = """
import os, sys
from pathlib import Path
from wire import checkpoint
moment, directory = sys.argv[1], Path(sys.argv[2])

def die(*args, **kwargs):
    os.kill(os.getpid(), 9)

writer = checkpoint.CheckpointWriter(directory, 2)
file = writer.file("model.safetensors", [("a", "F32", (1000,))], {})
file.write(0, bytes(2000))
if moment == "half a file":
    die()
file.write(2000, bytes(2000))
file.close()
if moment == "before the manifest":
    die()
if moment == "before the rename":
    Path.rename = die
writer.commit({"run": "r", "timeline": 1, "config_digest": "", "layout": []})
"""


@pytest.mark.parametrize("moment", ["half a file", "before the manifest", "before the rename"])
def test_killed_while_writing_leaves_the_older_one(tmp_path: Path, moment: str) -> None:
    older = write_checkpoint(tmp_path / "checkpoints", 1)
    command = [sys.executable, "-c", KILLED, moment, str(tmp_path / "checkpoints")]
    died = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    said: list[str] = []
    assert newest(tmp_path, say=said.append) == older
    assert said == []
    write_checkpoint(tmp_path / "checkpoints", 3)
    assert sorted(p.name for p in older.parent.iterdir()) == ["step-1", "step-3"]


def test_needs_neither_torch_nor_numpy() -> None:
    script = (
        "import sys, wire.checkpoint; print([m for m in ('torch', 'numpy', 'numba') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", script], cwd=root, check=True, capture_output=True, timeout=60
    )
    assert out.stdout.strip() == b"[]"


def test_memory_stays_at_a_chunk(tmp_path: Path) -> None:
    """The writer of a 256 MiB file grows by less than 16 MiB."""
    script = f"""
import resource
from pathlib import Path
from wire.checkpoint import TensorFileWriter
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
