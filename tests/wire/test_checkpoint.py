"""Checkpoints: complete or absent, damage named."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire.tensors import DATA, ENTRIES, MASK
from wire.checkpoint import CheckpointWriter, load_manifest, newest, remove
from wire.errors import DamagedFile, NoInput

EXTRA = {"run": "r1", "timeline": 2, "config_digest": "abc", "layout": [["weight", [3, 4], "float32", 0]]}


def write_checkpoint(checkpoints: Path, step: int, **extra: object) -> Path:
    writer = CheckpointWriter(checkpoints, step)
    file = writer.file("model.safetensors", ENTRIES, {})
    file.write(0, DATA)
    file.close()
    put(writer, "state.json", b"{}")
    return writer.commit({**EXTRA, **extra})


def put(writer: CheckpointWriter, name: str, *pieces: bytes) -> None:
    blob = writer.blob(name)
    for piece in pieces:
        blob.write(piece)
    blob.close()


def flip_bit(path: Path, offset: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


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


def test_a_blob_is_its_pieces_in_their_order(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 1)
    one, other = writer.blob("one"), writer.blob("other")
    for piece in (b"first ", b"second ", b"third"):
        one.write(piece)
        other.write(piece.upper())
    with pytest.raises(ValueError, match=r"one of checkpoint .* is not closed"):
        writer.commit(EXTRA)
    one.close()
    other.close()
    path = writer.commit(EXTRA)
    assert (path / "one").read_bytes() == b"first second third"
    assert load_manifest(path).files["other"].bytes == len(b"first second third")


@pytest.mark.parametrize("name", ["manifest.json", "../escape", "a/b", "", ".."])
def test_names_stay_inside_the_directory(tmp_path: Path, name: str) -> None:
    writer = CheckpointWriter(tmp_path, 1)
    with pytest.raises(ValueError, match="no name"):
        writer.blob(name)
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


def test_what_replaces_another_one_is_read_back_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not keep what is written to it: the one of before stays."""
    path = write_checkpoint(tmp_path, 5)
    writer = CheckpointWriter(tmp_path, 5)
    put(writer, "state.json", b"{}")
    (tmp_path / ".step-5.partial" / "state.json").write_bytes(b"[]")
    with pytest.raises(DamagedFile, match=r"state\.json is not what was written"):
        writer.commit({**EXTRA, "timeline": 3})
    writer.abort()
    assert load_manifest(path).timeline == 2 and [p.name for p in tmp_path.iterdir()] == ["step-5"]


def test_a_removal_that_was_cut_short_leaves_no_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1).rename(tmp_path / ".step-1.removed")
    assert newest(tmp_path) is None
    remove(write_checkpoint(tmp_path, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_ones_and_nothing_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write_checkpoint(tmp_path, 1)
    writer = CheckpointWriter(tmp_path, 2)
    put(writer, "state.json", b"{}")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        writer.file("model.safetensors", ENTRIES, {})
    writer.abort()
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    load_manifest(older)
