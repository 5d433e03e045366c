"""Which checkpoints stay, and that nothing goes before the newest one is proved good."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coordinator.retention import Retention, surplus
from tests.wire.test_checkpoint import flip_bit, write_checkpoint
from wire.checkpoint import list_checkpoints


def thin_out(directory: Path, written: Path, keep: int) -> list[tuple[str, object]]:
    """What is told while `directory` is thinned out after `written`."""
    told: list[tuple[str, object]] = []

    async def act() -> None:
        retention = Retention(directory, keep=keep, tell=lambda e, f: told.append((e, f.get("step", f))))
        retention.begin(written)
        await retention.settled()

    asyncio.run(act())
    return told


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(
    ("keep", "gone"), [(0, []), (1, [4, 8, 30]), (2, [4, 8]), (3, [4]), (4, []), (9, [])]
)
def test_the_oldest_go_first(tmp_path: Path, keep: int, gone: list[int]) -> None:
    """Step 30 is of an earlier timeline: the run was resumed from step 8."""
    for step, timeline in ((30, 2), (8, 2), (4, 2), (12, 3)):
        newest = write_checkpoint(tmp_path, step, timeline=timeline)
    assert [m.step for m in list_checkpoints(tmp_path)] == [12, 30, 8, 4]
    assert sorted(m.step for m in surplus(list_checkpoints(tmp_path), keep)) == gone
    told = thin_out(tmp_path, newest, keep)
    assert sorted(told) == [("checkpoint_removed", step) for step in gone]
    assert left(tmp_path) == sorted(f"step-{s}" for s in (4, 8, 12, 30) if s not in gone)


def test_nothing_goes_when_the_new_one_does_not_read_back(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        newest = write_checkpoint(tmp_path, step)
    flip_bit(newest / "model.safetensors", 200)
    ((event, fields),) = thin_out(tmp_path, newest, 1)
    assert event == "retention_failed" and "step-3/model.safetensors" in str(fields)
    assert left(tmp_path) == ["step-1", "step-2", "step-3"]


def test_what_is_no_checkpoint_neither_counts_nor_goes(tmp_path: Path) -> None:
    """One without all its files cannot stand in for a good one; who wants to look at it still can."""
    for step in (1, 2, 3, 4):
        newest = write_checkpoint(tmp_path, step)
    (tmp_path / "step-3" / "state.json").unlink()
    (tmp_path / "step-2" / "manifest.json").write_text("{}")
    assert thin_out(tmp_path, newest, 2) == []
    assert thin_out(tmp_path, newest, 1) == [("checkpoint_removed", 1)]
    assert left(tmp_path) == ["step-2", "step-3", "step-4"]
