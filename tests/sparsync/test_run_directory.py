"""Checkpoints found, older runs protected, errors read from logs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sparsync.run_directory import (
    RunDirectory,
    error_text,
    find_checkpoint,
    last_error,
    new_run_path,
    read_address,
    read_json,
    refuse_occupied,
    write_whole,
)
from tests.sparsync.checkpoints import write_checkpoint
from wire.errors import DamagedFile, NoInput, UsageError


def checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    path = write_checkpoint(run, step)
    if not complete:
        (path / "manifest.json").unlink()
    return path


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 200, complete=False)
    (tmp_path / "checkpoints" / "step-300.partial").mkdir()
    found = find_checkpoint(tmp_path)
    assert (found.step, found.path.name, found.run.path) == (100, "step-100", tmp_path)


def test_a_damaged_checkpoint_is_told_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(tmp_path, 9)
    damaged = checkpoint(tmp_path, 20) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert find_checkpoint(tmp_path).step == 9
    assert str(damaged) in caplog.text and "offset" in caplog.text
    damaged.unlink()
    assert find_checkpoint(tmp_path / "checkpoints" / "step-20").step == 20, (
        "the one that is named is not replaced"
    )


def test_what_was_reached_before_an_earlier_step_was_resumed_is_older(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 100)
    write_checkpoint(tmp_path, 60, timeline=2)
    assert find_checkpoint(tmp_path).step == 60


def test_a_checkpoint_can_be_named_itself(tmp_path: Path) -> None:
    checkpoint(tmp_path, 100)
    assert find_checkpoint(checkpoint(tmp_path, 20)).step == 20


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInput, match="no such directory"):
        find_checkpoint(tmp_path / "none")
    with pytest.raises(NoInput, match="Start anew without --resume"):
        find_checkpoint(tmp_path)
    with pytest.raises(NoInput, match="incomplete"):
        find_checkpoint(checkpoint(tmp_path, 7, complete=False))


def test_a_new_run_does_not_write_over_an_older_one(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    refuse_occupied(run)
    run.path.mkdir()
    refuse_occupied(run)
    run.events.write_text("")
    with pytest.raises(UsageError, match="no checkpoint, so remove it"):
        refuse_occupied(run)
    checkpoint(run.path, 3)
    with pytest.raises(UsageError, match=f"continue it with --resume {re.escape(str(run.path))}"):
        refuse_occupied(run)


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="found a file"):
        refuse_occupied(RunDirectory(tmp_path / "run"))


def test_runs_are_named_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = new_run_path()
    assert path.parent == tmp_path / "runs"
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{4}", path.name)


def test_the_address_is_read_once_it_is_there(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert read_address(run) is None
    run.address.write_text("127.0.0.1:4001\n")
    assert read_address(run) == "127.0.0.1:4001"


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert read_json(path) is None
    write_whole(path, '{"steps": 60}')
    assert read_json(path) == {"steps": 60}
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]
    for text in ("{", "[1]"):
        path.write_text(text)
        with pytest.raises(DamagedFile, match=r"summary\.json"):
            read_json(path)


@pytest.mark.parametrize(
    ("log", "text"),
    [
        ("", "it printed nothing"),
        ("a\nValueError: bad\n\n", "ValueError: bad"),
        ("error: old\nwork\nerror: one\nerror: two\nbye", "one\ntwo\nbye"),
        ("error: old\nwork\nerror: two faults\n  the second\n", "two faults\n  the second"),
    ],
)
def test_what_a_log_says_at_its_end(log: str, text: str) -> None:
    assert error_text(log.splitlines()) == text


def test_only_the_newest_process_of_a_log_is_heard(tmp_path: Path) -> None:
    log = tmp_path / "worker-0.log"
    assert last_error(log, since=0) == "it printed nothing"
    log.write_bytes(b"error: the first\nsecond starts\n")
    assert last_error(log, since=len(b"error: the first\n")) == "second starts"


def test_an_error_is_read_from_a_log_of_objects_too(tmp_path: Path) -> None:
    log = tmp_path / "ps-0.log"
    lines = [
        {"t": "2026-11-22T17:00:00.000Z", "level": "info", "logger": "ps.runtime", "message": "connecting"},
        {"t": "2026-11-22T17:00:01.000Z", "level": "error", "logger": "sparsync", "message": "first fault"},
        {"t": "2026-11-22T17:00:01.000Z", "level": "error", "logger": "sparsync", "message": "second fault"},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert last_error(log, since=0) == "first fault\nsecond fault"
