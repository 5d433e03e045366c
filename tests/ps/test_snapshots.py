"""Images on disk: the newest whole one is found, whatever became of the others and of the process that wrote them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ps.image import decode, digest, encode
from ps.snapshots import CUT_BYTES, SPREAD_S, SPREAD_S_A_GB, Snapshots
from wire.crash import VARIABLE
from wire.errors import DamagedFile, ProtocolMismatch

ROOT = Path(__file__).resolve().parents[2]


def tree(position: int) -> dict[str, Any]:
    return {"identity": {"term": 1}, "position": position, "x": np.full((3, 5), position, np.float32)}


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def file_of(directory: Path, position: int) -> Path:
    return directory / "snapshots" / f"{position:020}.image"


def names(directory: Path) -> list[str]:
    return sorted(path.name.lstrip("0") for path in (directory / "snapshots").iterdir())


def silent(line: str) -> None:
    raise AssertionError(line)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    assert (snapshots.positions(), snapshots.oldest, snapshots.newest_good(silent)) == ([], 0, None)
    for position in (0, 7, 100, 90_000):
        saved = snapshots.save(position, tree(position))
        assert saved == (digest(encode(tree(position))[0]), file_of(tmp_path, position).stat().st_size)
    assert (snapshots.positions(), snapshots.oldest) == ([100, 90_000], 100)
    found = snapshots.newest_good(silent)
    assert found is not None and found[0] == 90_000 and found[1]["position"] == 90_000  # type: ignore[index, call-overload]


def test_an_unhurried_one_is_the_same_file(tmp_path: Path) -> None:
    rests: list[float] = []
    large = {"x": np.arange(CUT_BYTES, dtype=np.float32), "position": 1}
    Snapshots(tmp_path / "a").save(1, large, rest=rests.append)
    Snapshots(tmp_path / "b").save(1, large)
    assert file_of(tmp_path / "a", 1).read_bytes() == file_of(tmp_path / "b", 1).read_bytes()
    assert len(rests) == 5, "one after the header, and one after each quarter of the array"
    assert sum(rests) == pytest.approx(SPREAD_S + SPREAD_S_A_GB * 4 * CUT_BYTES / 1e9, rel=1e-3)
    assert rests[1:] == pytest.approx([rests[1]] * 4) and rests[0] < rests[1] / 100


def test_a_damaged_one_is_told_passed_over_and_counts_no_more(tmp_path: Path) -> None:
    """Else the next snapshot would push out the good one, and the log behind it."""
    snapshots, said = Snapshots(tmp_path), list[str]()
    snapshots.save(1, tree(1))
    snapshots.save(2, tree(2))
    flip(file_of(tmp_path, 2))
    found = snapshots.newest_good(said.append)
    assert found is not None and found[0] == 1
    (line,) = said
    assert (
        line.startswith(f"{file_of(tmp_path, 2)}, offset ")
        and "passed over for the image at position 1" in line
    )
    assert (snapshots.positions(), snapshots.oldest) == ([1], 1)
    snapshots.save(3, tree(3))
    assert names(tmp_path) == ["1.image", "2.damaged", "3.image"]
    snapshots.save(4, tree(4))
    assert names(tmp_path) == ["3.image", "4.image"]


def test_where_none_is_whole_all_are_named_and_stay(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    for position in (1, 2):
        snapshots.save(position, tree(position))
        flip(file_of(tmp_path, position), at=50)
    with pytest.raises(DamagedFile) as refused:
        snapshots.newest_good(silent)
    assert all(str(file_of(tmp_path, position)) in str(refused.value) for position in (1, 2))
    assert snapshots.positions() == [1, 2]


def test_one_of_a_later_build_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.save(1, tree(1))
    with monkeypatch.context() as patch:
        patch.setattr("ps.image.VERSION", 2)
        snapshots.save(2, tree(2))
    with pytest.raises(ProtocolMismatch, match="version 2"):
        snapshots.newest_good(silent)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20])
def test_one_that_comes_in_pieces(piece_bytes: int, tmp_path: Path) -> None:
    header, blobs = encode(tree(9))
    data = b"".join([header, *blobs])
    snapshots = Snapshots(tmp_path)
    receiver = snapshots.receive(9)
    for at in range(0, len(data), piece_bytes):
        receiver.write(data[at : at + piece_bytes])
        assert snapshots.positions() == []
    assert receiver.finish()["position"] == 9  # type: ignore[index, call-overload]
    assert file_of(tmp_path, 9).read_bytes() == data
    assert names(tmp_path) == ["9.image"]


@pytest.mark.parametrize(
    "harm", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:60] + b"#" + d[61:], lambda d: b""]
)
def test_one_that_comes_damaged_leaves_nothing(harm: Callable[[bytes], bytes], tmp_path: Path) -> None:
    header, blobs = encode(tree(9))
    snapshots = Snapshots(tmp_path)
    snapshots.save(3, tree(3))
    receiver = snapshots.receive(9)
    receiver.write(harm(b"".join([header, *blobs])))
    with pytest.raises(DamagedFile):
        receiver.finish()
    receiver.abandon()
    assert names(tmp_path) == ["3.image"]


def test_what_is_half_written_belongs_to_nobody(tmp_path: Path) -> None:
    receiver = Snapshots(tmp_path).receive(4)
    receiver.write(b"SPIM")
    assert names(tmp_path) == ["4.partial"]
    assert Snapshots(tmp_path).positions() == []
    assert names(tmp_path) == []
    receiver.abandon()


def test_clear(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    snapshots.save(1, tree(1))
    snapshots.clear()
    assert names(tmp_path) == [] and snapshots.newest_good(silent) is None


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it: the write stops in the middle all the same."""
    code = """
import resource, signal, sys
from pathlib import Path
from ps.snapshots import Snapshots
from tests.ps.test_snapshots import tree
snapshots = Snapshots(Path(sys.argv[1]))
snapshots.save(1, tree(1))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
try:
    snapshots.save(2, tree(2))
except OSError as error:
    print(error.errno)
"""
    done = child(code, tmp_path)
    assert (done.returncode, done.stdout.split()) == (0, [str(errno.EFBIG)])
    assert names(tmp_path) == ["1.image"]


SAVE = """
import sys
from pathlib import Path
from ps.snapshots import Snapshots
from tests.ps.test_snapshots import tree
snapshots = Snapshots(Path(sys.argv[1]))
for position in (1, 2, 3):
    snapshots.save(position, tree(position))
"""


def child(code: str, directory: Path, crash: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env={**os.environ, "PYTHONPATH": str(ROOT), VARIABLE: crash},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("ps.snapshot.before:3", ["1.image", "2.image"]),
        ("ps.snapshot.written:3", ["1.image", "2.image", "3.partial"]),
        ("ps.snapshot.after:3", ["1.image", "2.image", "3.image"]),
        ("ps.snapshot.written:1", ["1.partial"]),
    ],
)
def test_killed_while_it_saves(point: str, left: list[str], tmp_path: Path) -> None:
    done = child(SAVE, tmp_path, point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert names(tmp_path) == left
    whole = [name for name in left if name.endswith(".image")]
    found = Snapshots(tmp_path).newest_good(silent)
    assert (found is None) == (not whole)
    assert names(tmp_path) == whole
    assert all(decode(path) for path in (tmp_path / "snapshots").iterdir())
    Snapshots(tmp_path).save(4, tree(4))
    assert names(tmp_path) == sorted([*whole, "4.image"])[-2:]
