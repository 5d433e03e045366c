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
