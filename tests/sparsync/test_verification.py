"""Damage anywhere in what a run leaves on its disks is named with file and offset; what is whole is good."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coordinator.journal import Journal
from coordinator.records import Lost
from ps.log import Log
from ps.snapshots import Snapshots
from sparsync.cli import run
from sparsync.verification import Damage, verify
from tests.sparsync.checkpoints import write_checkpoint
from wire.errors import NoInput

ROUNDS = 60


def write_log(home: Path, *, records: int = 30) -> Path:
    """A log of several files, as a server that was started three times leaves it."""
    for start in range(0, records, records // 3):
        log = Log(
            home / "log",
            after=start,
            level="os",
            on_durable=lambda position: None,
            on_stalled=lambda why: None,
        )
        for position in range(start, start + records // 3):
            log.append([bytes([position]) * 50])
        log.close()
    return home / "log"


def write_journal(out: Path, *, open_: bool = False) -> Path:
    """A journal; with `open_` as a process leaves it that was killed: its last records are in the write-ahead log."""
    path = out / "journal.sqlite"
    journal = Journal(path)
    for number in range(40):
        journal.append(Lost(number, number / 7))
        journal.commit()
    if open_:
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            shutil.copy(out / name, out / f"kept-{name}")
    journal.close()
    if open_:
        for name in ("journal.sqlite", "journal.sqlite-wal"):
            (out / f"kept-{name}").rename(out / name)
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What a run leaves, without a run."""
    for step in (4, 8):
        write_checkpoint(tmp_path, step)
    write_journal(tmp_path)
    snapshots = Snapshots(tmp_path / "ps-0")
    for position in (0, 12):
        snapshots.save(position, {"x": np.arange(500, dtype=np.float32), "position": position})
    write_log(tmp_path / "ps-0")
    (tmp_path / "worker-0").mkdir()
    return tmp_path


def damage_in(directory: Path) -> list[Damage]:
    return [damage for checked in verify(directory) for damage in checked.damage]


def test_a_whole_run_is_good(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked = list(verify(run_dir))
    assert [(c.kind, c.files) for c in checked] == [
        ("checkpoint", 2),
        ("checkpoint", 2),
        ("journal", 1),
        ("log", 3),
        ("image", 1),
        ("image", 1),
    ]
    assert not any(c.damage for c in checked)
    assert run(["verify", str(run_dir)]) == 0
    out, err = capsys.readouterr()
    assert out.count("good") == 6 and "checkpoints/step-8" in out and "ps-0/log" in out and err == ""
    assert run(["verify", str(run_dir / "ps-0"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["good"] is True
    assert run(["verify", str(run_dir / "checkpoints" / "step-8")]) == 0


def test_every_damage_is_named_at_once(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        run_dir / "checkpoints" / "step-4" / "model.safetensors",
        run_dir / "checkpoints" / "step-8" / "manifest.json",
        sorted((run_dir / "ps-0" / "log").glob("*.log"))[0],
        sorted((run_dir / "ps-0" / "log").glob("*.log"))[1],
        sorted((run_dir / "ps-0" / "snapshots").glob("*.image"))[1],
    ]
    for file in files:
        flip(file, file.stat().st_size // 2)
    assert run(["verify", str(run_dir), "--json"]) == 74
    told = json.loads(capsys.readouterr().out)
    damage = [d for checked in told["checked"] for d in checked["damage"]]
    assert told["good"] is False and [Path(d["file"]) for d in damage] == files
    assert all(isinstance(d["offset"], int) and str(d["offset"]) in d["what"] for d in damage)
    assert run(["verify", str(run_dir)]) == 74
    out, err = capsys.readouterr()
    assert out.count("DAMAGED") == 4 and all(str(file) in err for file in files)


def flip(path: Path, offset: int, mask: int = 4) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= mask
    path.write_bytes(data)


@pytest.mark.parametrize("which", ["checkpoints/step-*/*", "ps-0/log/*.log", "ps-0/snapshots/*.image"])
def test_one_flipped_bit_is_found_wherever_it_is(run_dir: Path, which: str) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    draw = random.Random(seed)
    files = sorted(run_dir.glob(which))
    for _ in range(ROUNDS):
        file = draw.choice(files)
        whole = file.read_bytes()
        used = len(whole.rstrip(b"\0")) if which.endswith(".log") else len(whole)
        offset = draw.randrange(used)
        last_mark = which.endswith(".log") and offset >= used - 40  # says nothing new
        flip(file, offset, 1 << draw.randrange(8))
        found = damage_in(run_dir)
        assert last_mark or [d.path for d in found] == [file], f"bit at {offset} of {file.name}: {found}"
        file.write_bytes(whole)
    assert damage_in(run_dir) == []


def test_what_is_missing_is_damage(run_dir: Path) -> None:
    (run_dir / "checkpoints" / "step-4" / "manifest.json").unlink()
    (run_dir / "checkpoints" / "step-8" / "model.safetensors").unlink()
    log = run_dir / "ps-0" / "log"
    sorted(log.glob("*.log"))[1].unlink()
    step_4, step_8, logged = damage_in(run_dir)
    assert step_4.path.name == "step-4" and "no manifest.json" in step_4.what
    assert step_8.path.name == "model.safetensors" and "is missing" in step_8.what
    assert logged.path == sorted(log.glob("*.log"))[0] and "expected record 11" in logged.what
    sorted(log.glob("*.log"))[0].unlink()
    assert "the log begins with" in damage_in(run_dir / "ps-0")[0].what


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="nothing to verify"):
        list(verify(tmp_path))


# --- the journal -------------------------------------------------------------------------------


def test_the_journal_of_a_process_that_was_killed_is_good(tmp_path: Path) -> None:
    path = write_journal(tmp_path, open_=True)
    assert path.with_name("journal.sqlite-wal").stat().st_size > 0
    (checked,) = verify(tmp_path)
    assert checked.damage == () and checked.files == 2
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT COUNT(*) FROM records").fetchone() == (40,)
    database.close()


def lose_a_record(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM records WHERE seq = 7")
    database.close()


def spoil_a_record(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(
        data.replace(b'{"record": "Lost", "incarnation": 7,', b'{"record": "Lost", "incarnation" 7,,')
    )


def spoil_the_head(path: Path) -> None:
    flip(path, 3)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lose_a_record, "record 7 is missing"),
        (spoil_a_record, r"journal\.sqlite, offset \d+: record 8 is not what was written"),
        (spoil_the_head, "cannot be read as a journal"),
    ],
)
def test_damage_of_the_journal(tmp_path: Path, spoil: Callable[[Path], None], told: str) -> None:
    path = write_journal(tmp_path)
    spoil(path)
    (damage,) = damage_in(tmp_path)
    assert damage.path == path
    assert re.search(told, damage.what)


def test_frames_that_sqlite_would_drop_in_silence_are_damage(tmp_path: Path) -> None:
    path = write_journal(tmp_path, open_=True)
    wal = path.with_name("journal.sqlite-wal")
    whole = wal.read_bytes()
    frame = 24 + 4096
    assert (len(whole) - 32) % frame == 0
    for number in (0, 5, (len(whole) - 32) // frame - 3):
        flip(wal, 32 + number * frame + 100)
        found = [d for d in damage_in(tmp_path) if d.path == wal]
        assert [d.offset for d in found] == [32 + number * frame]
        wal.write_bytes(whole)
    flip(wal, 20)
    assert (wal, 0) in [(d.path, d.offset) for d in damage_in(tmp_path)]
    wal.write_bytes(whole[: -frame // 2])  # the last write was cut short: a torn end
    assert damage_in(tmp_path) == []
