"""The journal: what it gives back is what was decided."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from coordinator import records as r
from coordinator.journal import Journal
from coordinator.state import State
from tests.coordinator.world import World
from wire.errors import DamagedFile


@pytest.mark.parametrize("seed", [1, 4, 9, 23])
def test_a_run_with_deaths_replayed_is_the_state_that_wrote_it(tmp_path: Path, seed: int) -> None:
    world = World(seed)
    world.run()
    journal = Journal(tmp_path / "journal.sqlite")
    for text in world.journal:
        journal.append(r.from_json(text))
    journal.commit()
    journal.close()
    again = Journal(tmp_path / "journal.sqlite")
    replayed = again.replay(world.rules.units_per_step)
    assert again.seq == len(world.journal)
    for field in dataclasses.fields(State):
        assert getattr(replayed, field.name) == getattr(world.state, field.name), field.name
    again.close()


SAMPLES: list[r.Record] = [
    r.Began("run", 2, 3, "ab", 7, "step-7", True, "{}"),
    r.Reopened(4, "cd"),
    r.Admitted(4, "worker", "w", "", "cpu", 1, "h"),
    r.Readied(4),
    r.Leaving(4),
    r.Departed(4, "silent", True, True, (("units", 12), ("wait_s", 0.5))),
    r.Retired(4),
    r.Modelled(
        (("w", (3, 4), "float32", 0), ("s", (), "bfloat16", -1)),
        "adamw",
        ((("lr", 1e-3),), (("lr", 2e-3),)),
        1,
        ((0, "h:1", 1, ((0, 2),)),),
    ),
    r.Uploading(4),
    r.Returned(1, "h:2", 7, "h"),
    r.Moved(0, "h:2", 1, 2),
    r.Stood(0, 5),
    r.InSynced(0, 5),
    r.Parted(0, 5, "silent"),
    r.Promoted(0, 5, "h:5", 3, "silent"),
    r.Loaded("uploaded by w"),
    r.Dataset(100, "d", 2, 1, True, 5, 10),
    r.Segment(1, 8, "ssp", 3, None, 1.0),
    r.Switching("sync", None, 3, 0.5),
    r.Counted(40, 8, 1, 64, 640, 2.0, ((0, 6), (1, 1)), 0.25),
    r.Bounded(2.5),
    r.Pooled(0, 400, 64),
    r.Leased(3, 4, 0, 400, 64, "why"),
    r.Lowered(3, 64),
    r.Vacated(3, ((64, 400, 64), (0, 64, 64))),
    r.Lost(4, 1.5),
    r.Barred(10),
    r.HandedOver(8),
    r.Barred(None),
    r.Assigned(1, 2, 4, 8, (0, 1), "why"),
    r.Deposited(1, 8),
    r.Closed(8, (0, 1), True, False, 3, 1, 8, 64, None),
    r.Evaluated(8, "x", 2.5),
    r.Checkpointed(8, "p", "a", "b"),
    r.Unwritten(8, "disk full"),
    r.Stopping("asked", "Interrupted"),
    r.Ended("done", ""),
    r.Dismissed(),
]


@pytest.mark.parametrize("record", SAMPLES, ids=lambda record: type(record).__name__)
def test_every_record_survives_json(record: r.Record) -> None:
    assert r.from_json(r.to_json(record)) == record


def test_every_kind_of_record_is_tried() -> None:
    assert {type(record) for record in SAMPLES} == set(r.Record.__args__)


def test_sequence_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert [journal.append(record) for record in SAMPLES[:2]] == [1, 2]
    journal.commit()
    assert journal.append(SAMPLES[2]) == 3
    journal.close()  # before it was committed, and so before anybody heard of it
    journal = Journal(tmp_path / "j")
    assert journal.seq == 2 and journal.append(SAMPLES[2]) == 3
    assert journal.durable == 2, "as long as that is not committed"
    journal.close()


def test_a_record_of_another_build_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(SAMPLES[0])
    journal.commit()
    journal.close()
    text = '{"record": "Unheard"}'
    with sqlite3.connect(tmp_path / "j") as database:
        (before,) = database.execute("SELECT checksum FROM records").fetchone()
        database.execute("INSERT INTO records VALUES (2, ?, ?)", (text, r.checksum_of(before, 2, text)))
    database.close()
    journal = Journal(tmp_path / "j")
    with pytest.raises(DamagedFile, match="record 2 is none that this build knows"):
        journal.replay(1)
    journal.close()


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"no database at all" * 100)
    with pytest.raises(DamagedFile, match="cannot be read as a journal"):
        Journal(tmp_path / "j")


def journal_of(path: Path, records: list[r.Record]) -> Journal:
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.commit()
    return journal


@pytest.mark.parametrize("number", [1, 7, len(SAMPLES)])
def test_a_flipped_bit_in_a_record_is_found_and_named(tmp_path: Path, number: int) -> None:
    """SQLite does not notice: a number becomes another number, and the record is still one."""
    journal_of(tmp_path / "j", [r.Lost(n, 1.5) for n in range(1, len(SAMPLES) + 1)]).close()
    data = bytearray((tmp_path / "j").read_bytes())
    at = data.index(b'{"record": "Lost", "incarnation": %d, "residual_norm": 1.5' % number)
    data[data.index(b"1.5", at)] ^= 1
    (tmp_path / "j").write_bytes(data)
    journal = Journal(tmp_path / "j")
    with pytest.raises(DamagedFile, match=f"j: record {number} is not what was written"):
        list(journal.records())
    journal.close()


def test_a_record_that_is_missing_is_found(tmp_path: Path) -> None:
    journal_of(tmp_path / "j", SAMPLES[:5]).close()
    with sqlite3.connect(tmp_path / "j") as database:
        database.execute("DELETE FROM records WHERE seq = 3")
    database.close()
    journal = Journal(tmp_path / "j")
    with pytest.raises(DamagedFile, match="record 4 where record 3 should be"):
        list(journal.records())
    journal.close()


def test_on_a_full_disk_a_commit_waits_for_space(tmp_path: Path) -> None:
    """All of what it was to make durable is there afterwards, once."""
    journal = journal_of(tmp_path / "j", SAMPLES[:3])
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(200):
        journal.append(r.Evaluated(number, "published" * 10, 1.0))
    waits: list[float] = []

    def make_room(self: object, seconds: float) -> None:
        assert journal._db.execute("SELECT COUNT(*) FROM records").fetchone() == (3,)
        waits.append(seconds)
        if len(waits) == 2:
            journal._db.execute("PRAGMA max_page_count = 100000")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threading.Event.wait", make_room)
        journal.commit()
    assert len(waits) == 2
    assert len(list(journal.records())) == 203
    journal.close()
