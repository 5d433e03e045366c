"""Bases and deposits on a shard's disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ps.store import Store
from wire.errors import NoInput


def test_bases_are_kept_from_the_newest_one_that_reaches(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (0, 9, 10, 20):
        store.save_base(step, 3 * step, b"%d" % step)
    store.trim_bases(15)
    assert store.load_base(10) == store.load_base(19) == (10, 30, b"10")
    assert store.load_base(20) == store.load_base(99) == (20, 60, b"20")
    with pytest.raises(NoInput, match=r"below step 9; retained: \[10, 20\]"):
        store.load_base(9)
    store.trim_bases(20)
    with pytest.raises(NoInput):
        store.load_base(10)


def test_half_deposits_do_not_push_out_the_one_that_counts(tmp_path: Path) -> None:
    """Two holders in turn die while they deposit: what the coordinator recorded last is still here."""
    store = Store(tmp_path)
    for step in (5, 10, 15):
        store.save_deposit(1, step, {"residual": b"r%d" % step})
        store.trim_deposits(5)
    assert store.deposit(1, 5)["residual"].read_bytes() == b"r5"
    store.trim_deposits(15)
    with pytest.raises(NoInput, match="no deposit of stream 1 at step 10"):
        store.deposit(1, 10)
    assert set(store.deposit(1, 15)) == {"residual"}


def test_what_is_trimmed_stays_on_the_disk_until_its_owner_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step in (1, 2):
        store.save_base(step, step, b"base")
        store.save_deposit(0, step, {"residual": b"r"})
    store.trim_bases(2)
    store.trim_deposits(2)
    base, deposit = tmp_path / "base" / "1-1", tmp_path / "streams" / "0" / "1"
    assert store.discarded == [base, deposit]
    assert base.exists() and deposit.exists()
    store.save_deposit(0, 1, {"residual": b"again"})
    store.unlink(store.take_discarded())
    assert not base.exists() and store.discarded == []
    assert store.deposit(0, 1)["residual"].read_bytes() == b"again"


def test_an_image_shows_what_is_kept_whatever_becomes_of_the_files(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "1"), Store(tmp_path / "2")
    store.save_base(3, 4, b"base")
    store.save_deposit(1, 3, {"residual": b"r", "extra": b""})
    tree = store.image()
    store.save_deposit(1, 3, {"residual": b"s"})
    store.trim_bases(9)
    store.save_base(9, 9, b"later")
    store.trim_bases(9)
    store.unlink(store.take_discarded())
    other.restore(tree)
    assert other.load_base(3) == (3, 4, b"base")
    planes = {name: path.read_bytes() for name, path in other.deposit(1, 3).items()}
    assert planes == {"residual": b"r", "extra": b""}


def test_a_repeated_deposit_replaces_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_deposit(0, 3, {"residual": b"a", "extra": b""})
    store.save_deposit(0, 3, {"residual": b"b"})
    assert {name: path.read_bytes() for name, path in store.deposit(0, 3).items()} == {"residual": b"b"}


def test_what_is_half_written_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "streams" / "0" / "4.partial").mkdir(parents=True)
    (tmp_path / "base" / "4-4.partial").write_bytes(b"")
    store.trim_deposits(9)
    store.trim_bases(9)
    with pytest.raises(NoInput, match=r"retained: \[\]"):
        store.load_base(4)
    with pytest.raises(NoInput):
        store.deposit(0, 4)


def test_a_new_process_starts_empty(tmp_path: Path) -> None:
    Store(tmp_path).save_base(0, 0, b"old")
    with pytest.raises(NoInput):
        Store(tmp_path).load_base(0)
