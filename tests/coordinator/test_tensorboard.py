"""What Board writes is what TensorBoard reads; and it costs the coordinator neither torch nor much memory."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from coordinator.tensorboard import FLUSH_EVERY_S, Board, _hidden
from wire.clock import utc_timestamp

ROOT = Path(__file__).resolve().parents[2]
MEASURE = """
import sys
import coordinator.runtime, coordinator.service
from pathlib import Path
from coordinator.tensorboard import Board

board = Board(Path(sys.argv[1]))
for step in range(2000):
    board.write(step, {f"value/{i}": float(step) for i in range(8)}, now_s=float(step))
board.close()
(rss_kb,) = [int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line]
others = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(rss_kb, *sorted(others))
"""


def records(path: Path) -> Iterator[bytes]:
    """The payloads of a TFRecord file: length (8 B), its checksum (4 B), payload, its checksum (4 B)."""
    rest = path.read_bytes()
    while rest:
        (length,) = struct.unpack("<Q", rest[:8])
        yield rest[12 : 12 + length]
        rest = rest[16 + length :]


def events(directory: Path) -> list[Any]:
    """Every event in the directory but the first of each file, which tells the format."""
    with _hidden("torch"):
        from tensorboardX.proto.event_pb2 import Event
    found = []
    for path in sorted(directory.iterdir()):
        first, *others = (Event.FromString(record) for record in records(path))
        assert first.file_version == "brain.Event:2"
        found += others
    return found


def scalars(directory: Path) -> dict[tuple[int, str], float]:
    return {(e.step, v.tag): v.simple_value for e in events(directory) for v in e.summary.value}


def test_values_are_read_back(tmp_path: Path) -> None:
    board = Board(tmp_path / "run" / "tensorboard")
    board.write(0, {"train/loss": 2.5, "workers": 2}, now_s=100.0)
    board.write(1, {"train/loss": math.nan, "mine/huge": 1e300}, now_s=101.5)
    board.write(2, {}, now_s=102.0)
    board.close()
    read = scalars(tmp_path / "run" / "tensorboard")
    assert math.isnan(read.pop((1, "train/loss")))
    assert read == {(0, "train/loss"): 2.5, (0, "workers"): 2.0, (1, "mine/huge"): math.inf}


def test_the_monotonic_clock_is_told_as_wall_time(tmp_path: Path) -> None:
    before_s = datetime.fromisoformat(utc_timestamp()).timestamp()
    board = Board(tmp_path)
    board.write(0, {"a": 1.0}, now_s=5000.0)
    board.write(1, {"a": 2.0}, now_s=5003.25)
    board.close()
    first, second = events(tmp_path)
    assert 0 <= first.wall_time - before_s < 60
    assert second.wall_time - first.wall_time == pytest.approx(3.25, abs=1e-3)


def test_a_reader_sees_what_is_older_than_the_flush_interval(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.write(0, {"a": 1.0}, now_s=0.0)
    board.write(1, {"a": 2.0}, now_s=FLUSH_EVERY_S)
    assert [e.step for e in events(tmp_path)] == [0, 1]
    board.close()


def test_a_closed_board_takes_nothing_more(tmp_path: Path) -> None:
    board = Board(tmp_path)
    board.write(0, {"a": 1.0}, now_s=1.0)
    board.close()
    board.close()
    board.write(1, {"a": 9.0}, now_s=2.0)
    assert scalars(tmp_path) == {(0, "a"): 1.0}


def test_a_full_disk_costs_the_board_alone(tmp_path: Path) -> None:
    code = (
        "import resource, sys, logging\n"
        "from pathlib import Path\n"
        "from coordinator.tensorboard import Board\n"
        "logging.basicConfig(format='%(message)s')\n"
        "board = Board(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "for step in range(5000): board.write(step, {'a': 1.0}, now_s=float(step))\n"
        "board.close()\n"
        "print('went on')\n"
    )
    done = _python(code, str(tmp_path))
    assert done.stdout == "went on\n"
    assert done.stderr.count("no more scalars for TensorBoard") == 1
    assert "Traceback" not in done.stderr


def test_the_coordinator_stays_small_and_without_torch(tmp_path: Path) -> None:
    rss_kb, *modules = _python(MEASURE, str(tmp_path)).stdout.split()
    assert not {"torch", "numba", "torchgen", "tensorboard", "matplotlib", "PIL"} & set(modules)
    assert "tensorboardX" in modules
    assert int(rss_kb) < 100_000


def test_torch_is_there_again_afterwards(tmp_path: Path) -> None:
    import torch

    Board(tmp_path).close()
    assert sys.modules["torch"] is torch


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
