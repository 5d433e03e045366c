"""What `sparsync train` says before and after, and what it leaves in the run directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsync.launch_plan import Launch, create_run, plan_launch
from sparsync.launcher import closing_lines, complete_summary, opening_lines, write_plot


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.chdir(tmp_path)
    planned = plan_launch(None, ("run.steps=60",), out=tmp_path / "run", resume=None, command=())
    create_run(planned)
    return planned


def checkpoint(launch: Launch, step: int) -> None:
    path = launch.run.path / "checkpoints" / f"step-{step}"
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")


def test_the_start_tells_where_things_are_and_what_is_no_default(launch: Launch) -> None:
    lines = opening_lines(launch)
    assert "directory  run" in lines and "logs       run/logs" in lines
    assert "config     run.steps = 60  (-s run.steps=60)" in lines
    assert "roles      1 coordinator, 2 servers, 2 workers" in lines


def test_a_run_without_a_summary_has_none(launch: Launch) -> None:
    assert complete_summary(launch.run, restarts=0) is None


def test_the_summary_gets_what_only_the_launcher_knows(launch: Launch) -> None:
    launch.run.summary.write_text('{"steps": 60}')
    summary = complete_summary(launch.run, restarts=2)
    assert summary == {"steps": 60, "restarts": 2, "out": str(launch.run.path)}
    assert json.loads(launch.run.summary.read_text()) == summary


def test_the_plot_is_drawn_from_the_events(launch: Launch) -> None:
    events = [{"event": "step", "step": i, "loss": 5.0 - i / 20, "s": i} for i in range(60)]
    launch.run.events.write_text("\n".join([*map(json.dumps, events), '{"event": "st']))
    write_plot(launch.run)
    assert launch.run.plot.read_text().count("<polyline") == 2


def test_a_good_end_shows_the_sample_the_plot_and_what_comes_next(launch: Launch) -> None:
    launch.run.sample.write_text("def main():\n    pass\n")
    launch.run.plot.write_text("<svg/>")
    text = "\n".join(closing_lines(launch, {"steps": 60}, interrupted=False))
    for part in (
        "| def main():",
        "plot      run/loss.svg",
        "sparsync train --resume run -s run.steps=120",
        "sparsync coordinator --config run/config.toml",
        "sparsync ps --coordinator host-a:7700",
        "sparsync worker --coordinator host-a:7700",
    ):
        assert part in text


def test_an_interrupted_run_says_how_to_resume(launch: Launch) -> None:
    assert (
        closing_lines(launch, None, interrupted=True)[-1]
        == "interrupted; there is no checkpoint to resume from"
    )
    checkpoint(launch, 17)
    text = "\n".join(closing_lines(launch, {"steps": 17}, interrupted=True))
    assert text.endswith("interrupted after step 17; resume with:\n  sparsync train --resume run")
