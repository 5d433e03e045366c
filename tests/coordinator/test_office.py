"""Whoever continues a run has its configuration, but for how the process itself is watched.

Who is told to resume a checkpoint begins once; started again with the same words it continues what it began.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from coordinator import records as r
from coordinator.aside import put_aside
from coordinator.journal import Journal
from coordinator.office import Office, take_office
from wire.checkpoint import CheckpointWriter
from wire.config import Config, load
from wire.errors import ConfigError, DamagedFile, UsageError

CONFIG = load(None, ["run.steps=5"], {}).config
DATASET = r.Dataset(100, "ab", batch_size=2, accumulate=1, evaluates=False, evaluate_every=0, total_steps=5)


def configured(*settings: str) -> Config:
    return load(None, settings, {}).config


def test_a_run_may_be_continued_with_another_log_other_metrics_and_other_certificates(tmp_path: Path) -> None:
    first = take_office(configured("run.steps=5"), tmp_path, None)
    first.journal.close()
    other = configured(
        "run.steps=5",
        "telemetry.log_format=json",
        "telemetry.metrics=127.0.0.1:0",
        "security.insecure=true",
    )
    second = take_office(other, tmp_path, None)
    assert (first.again, second.again) == (False, True)
    assert (second.config.telemetry, second.config.security) == (other.telemetry, other.security)
    second.journal.close()


def test_any_other_key_has_to_be_the_runs(tmp_path: Path) -> None:
    take_office(configured("run.steps=5"), tmp_path, None).journal.close()
    with pytest.raises(ConfigError, match=r"run\.steps = 6 \(the run's: 5\)"):
        take_office(configured("run.steps=6", "telemetry.log_format=json"), tmp_path, None)


# --- with a checkpoint to resume ------------------------------------------------------------------


def checkpoint(run: Path, step: int, *, timeline: int = 1) -> Path:
    writer = CheckpointWriter(run / "checkpoints", step)
    extra = {"streams": CONFIG.sync.units_per_step, "deposits": False, "dataset": {}}
    return writer.commit({"run": "r", "timeline": timeline, "config_digest": "", "layout": [], **extra})


def begin(out: Path, resume: Path | None) -> Office:
    """What a coordinator finds that is started, and is killed when it has begun."""
    out.mkdir(exist_ok=True)
    office = take_office(CONFIG, out, resume)
    office.journal.commit()
    office.journal.close()
    return office


def journal_more(out: Path, *records: r.Record) -> None:
    journal = Journal(out / "journal.sqlite")
    for record in records:
        journal.append(record)
    journal.commit()
    journal.close()


def end(out: Path) -> None:
    """The run in `out` is over, and everybody has been told."""
    journal_more(out, r.Ended("all steps are done", ""), r.Dismissed())


def told(office: Office) -> tuple[bool, int, int]:
    return office.again, office.state.timeline, office.state.term


def asides(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("journal-*"))


@pytest.mark.parametrize("by_run", [True, False])
def test_a_service_that_keeps_its_resume_continues_what_it_began(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, by_run: bool
) -> None:
    caplog.set_level("INFO")
    first, out = tmp_path / "first", tmp_path / "second"
    path = checkpoint(first, 3)
    resume = first if by_run else path
    assert [told(begin(out, resume)) for _ in range(3)] == [(False, 2, 1), (True, 2, 2), (True, 2, 3)]
    assert "is continued" in caplog.text and asides(out) == []


def test_it_is_continued_also_where_newer_checkpoints_are_and_the_first_is_gone(tmp_path: Path) -> None:
    """As in the directory that is resumed itself, whose retention removes it."""
    old = checkpoint(tmp_path, 3)
    begin(tmp_path, tmp_path)
    journal_more(tmp_path, DATASET)
    checkpoint(tmp_path, 4, timeline=2)
    old.rename(tmp_path / "gone")
    assert told(begin(tmp_path, tmp_path)) == (True, 2, 2)


def test_a_run_that_was_begun_otherwise_is_not_given_up_for_a_checkpoint(tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "second"
    path = checkpoint(first, 3)
    begin(out, None)
    with pytest.raises(
        UsageError, match=r"not over.*without a checkpoint; continue it without --resume.*move"
    ):
        begin(out, path)
    assert told(begin(out, None)) == (True, 1, 2)


def test_a_run_that_is_over_is_resumed_from_where_it_came_to(tmp_path: Path) -> None:
    begin(tmp_path, None)
    first = checkpoint(tmp_path, 3)
    end(tmp_path)
    assert told(begin(tmp_path, tmp_path)) == (False, 2, 1)
    end(tmp_path)
    assert told(begin(tmp_path, tmp_path)) == (False, 3, 1), "it has come to nothing"
    path = checkpoint(tmp_path, 5, timeline=3)
    journal_more(tmp_path, r.Checkpointed(5, str(path), "", ""))
    end(tmp_path)
    with pytest.raises(UsageError, match="is over"):
        begin(tmp_path, first)
    assert told(begin(tmp_path, tmp_path)) == (False, 4, 1)
    assert asides(tmp_path) == [f"journal-timeline-{timeline}.sqlite" for timeline in (1, 2, 3)]


def test_no_journal_that_was_put_aside_is_overwritten_and_timelines_only_rise(tmp_path: Path) -> None:
    """Each time from the same checkpoint, as `sparsync train --resume` does it."""
    path = checkpoint(tmp_path, 3)
    begin(tmp_path, None)
    for timeline in (2, 3, 4):
        put_aside(tmp_path)
        assert told(begin(tmp_path, path)) == (False, timeline, 1)
    assert asides(tmp_path) == [f"journal-timeline-{timeline}.sqlite" for timeline in (1, 2, 3)]
    shutil.copy(tmp_path / "journal.sqlite", tmp_path / "journal-timeline-4.sqlite")
    put_aside(tmp_path)
    assert asides(tmp_path)[-2:] == ["journal-timeline-4-2.sqlite", "journal-timeline-4.sqlite"]


def test_a_damaged_journal_is_no_reason_to_begin_anew_and_may_be_put_aside(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 3)
    begin(tmp_path, None)
    journal = tmp_path / "journal.sqlite"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:4096] + bytes(len(whole) - 4096))
    with pytest.raises(DamagedFile):
        begin(tmp_path, path)
    put_aside(tmp_path)
    assert asides(tmp_path) == ["journal-timeline-2.sqlite"], "none that it may have been is taken again"
    assert told(begin(tmp_path, path)) == (False, 3, 1)


def test_a_journal_in_which_nothing_began_counts_for_nothing(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 3)
    Journal(tmp_path / "journal.sqlite").close()
    put_aside(tmp_path)
    assert told(begin(tmp_path, path)) == (False, 2, 1) and asides(tmp_path) == []
