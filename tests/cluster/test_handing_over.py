"""Buffers and the user's objects outlive an elastic segment: in its checkpoints, and where an exact one follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.running import command
from wire.checkpoint import load_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]
SCRIPT = Path(__file__).parent / "scripts" / "keeps.py"
STEPS, STREAMS = 6, 4


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


CHANGES = [("async", "sync"), slow("async", "async"), slow("ssp", "ssp"), slow("sync", "async")]


@pytest.mark.parametrize(("mode", "then"), CHANGES)
def test_a_resume_goes_on_with_what_was_kept(
    tmp_path: Path, settings: dict[str, object], environ: dict[str, str], mode: str, then: str
) -> None:
    """One worker, so that what it counted is known: every unit once."""
    begun, resumed = tmp_path / "begun", tmp_path / "resumed"
    flags = ["--servers", "2", "--workers", "1"]
    first = Starter(tmp_path, settings, {**environ, "KEPT": str(begun)})
    run = first({"run.steps": STEPS, "sync.mode": mode}, flags=flags, script=[SCRIPT])
    run.finish()
    first.end()
    assert len(lines(begun)) == STEPS * STREAMS
    elastic = mode != "sync"
    assert ("handed.extra" in load_manifest(run.out / f"checkpoints/step-{STEPS}").files) is elastic

    second = Starter(tmp_path, settings, {**environ, "KEPT": str(resumed)})
    again = second({"run.steps": STEPS + 2, "sync.mode": then}, out=run.out, script=[SCRIPT])
    again.finish()
    second.end()
    told = lines(resumed)
    assert len(told) == 2 * STREAMS
    counted = STEPS * STREAMS if elastic else STEPS  # exact: by the first stream
    if then == "sync":
        assert [line["seen"] for line in told] == [counted] * STREAMS + [counted + 1] * STREAMS
        assert [line["units"] for line in told if line["stream"] == 0] == [counted, counted + 1]
    else:
        assert [line["seen"] for line in told] == list(range(counted, counted + 2 * STREAMS))
        assert [line["units"] for line in told] == [line["seen"] for line in told]


def test_an_exact_segment_follows_on_what_was_kept(
    tmp_path: Path, settings: dict[str, object], environ: dict[str, str]
) -> None:
    """All streams begin with what the worker had that evaluates, whoever carries them."""
    kept = tmp_path / "kept"
    starter = Starter(tmp_path, settings, {**environ, "KEPT": str(kept)})
    flags = ["--servers", "1", "--workers", "2"]
    run = starter({"run.steps": 4000, "sync.mode": "async"}, flags=flags, script=[SCRIPT])
    run.wait_for_step(2)
    assert command("set", run.out, "sync.mode=sync", environ=environ).returncode == 0
    at = int(run.wait_for("segment")["step"])
    run.wait_for_step(at + 2)
    assert command("stop", run.out, environ=environ).returncode == 0
    run.wait(30)
    starter.end()
    assert run.events("handed_over")[0]["step"] == at
    first = [line["seen"] for line in lines(kept) if line["step"] == at]
    assert len(first) == STREAMS and len(set(first)) == 1, first
    elastic = [line for line in lines(kept) if line["step"] < at]
    assert 0 < first[0] < len(elastic), "one worker's, and no sum of both"
