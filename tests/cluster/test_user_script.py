"""Scripts of a user's own: what they may hold and do, and that it changes no bit who computes it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Starter
from tests.cluster.test_digests import equal_runs
from tests.cluster.test_kill import check_events, kill_workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SCRIPTS = Path(__file__).parent / "scripts"


def test_the_example_trains(train: Starter, text: Path) -> None:
    steps = 6
    script = [ROOT / "examples" / "gpt_sparsync.py", "--steps", "24", "--data", text]
    run = train({"run.epochs": 1}, without=["run.steps"], flags=["--servers", "1"], script=script)
    summary = run.finish()
    losses = [e["loss"] for e in run.events("step")]
    assert (summary["steps"], summary["samples"]) == (steps, 24 * 8)
    assert losses[-1] < losses[0] - 0.5
    printed = run.out.joinpath("logs", "worker-0.log").read_text()
    assert "validation loss" in printed


@pytest.mark.slow
def test_a_model_of_all_sorts(train: Starter, seed: int) -> None:
    """Buffers, dropout; frozen, tied, bfloat16, unused and sparsely updated parameters; whoever computes or dies."""
    script, draw = [SCRIPTS / "all_sorts.py"], random.Random(seed)
    changes = {"run.steps": 16, "durability.stream_state_every": 3}
    alone = train(changes, flags=["--workers", "1"], script=script).finish()
    run = train(changes, flags=["--workers", "2"], script=script)
    kill_workers(run, [draw.randrange(12)], draw)
    together = run.finish()
    equal_runs(alone, together)
    assert together["val_loss"] is not None, "it depends on the buffers, and they are the first stream's"
    check_events(run, together, kills=1)
    buffers = json.loads((run.out / "buffers.json").read_text())
    assert buffers["batches"] == 16, "stream 0 has seen one batch a step, in whosever hands it was"
    assert buffers["frozen_moved"] == 0.0
    assert buffers["tied"]


def test_each_sample_counts_once_an_epoch(train: Starter) -> None:
    """1,003 samples, batches of 8 x 2, a collate function, a loader process; `run.epochs` sets the length."""
    changes = {"run.epochs": 2, "durability.stream_state_every": 1000}
    flags = ["--workers", "2", "--servers", "1"]
    run = train(changes, without=["run.steps"], flags=flags, script=[SCRIPTS / "samples.py"])
    summary = run.finish()
    assert summary["steps"] == 2 * 16
    assert summary["samples"] == 2 * 1003
    assert summary["units_empty"] == 2 * 1, (
        "the last step of an epoch has 43 samples: units of 16, 16, 11 and 0"
    )
    seen = [
        json.loads(line) for path in run.out.glob("seen-*.jsonl") for line in path.read_text().splitlines()
    ]
    for epoch in range(2):
        samples = [i for unit in seen if unit["epoch"] == epoch for i in unit["samples"]]
        assert sorted(samples) == list(range(1003))
    orders = [
        [u["samples"] for u in sorted(seen, key=lambda u: (u["step"], u["stream"])) if u["epoch"] == e]
        for e in (0, 1)
    ]
    assert orders[0] != orders[1]


def test_a_local_unit_without_a_step_is_empty(train: Starter) -> None:
    changes = {"run.steps": 6, "sync.mode": "local", "sync.local_steps": 1}
    summary = train(
        changes, flags=["--workers", "2", "--servers", "1"], script=[SCRIPTS / "scaled.py"]
    ).finish()
    assert (summary["units_settled"], summary["units_empty"]) == (23, 1)


@pytest.mark.slow
def test_scaler_and_state_over_a_resume(train: Starter) -> None:
    """An overflow is an empty unit; the scaler and the objects of `state=` go on where they were."""
    script, flags = [SCRIPTS / "scaled.py"], ["--workers", "2", "--servers", "1"]
    straight = train({"run.steps": 12}, flags=flags, script=script)
    whole = straight.finish()
    assert (whole["units_settled"], whole["units_empty"]) == (47, 1)

    first = train({"run.steps": 6}, flags=flags, script=script)
    assert first.finish()["units_empty"] == 1
    resumed = train({"run.steps": 12}, out=first.out)
    summary = resumed.finish()
    assert summary["params_digest"] == whole["params_digest"]
    assert summary["published_digest"] == whole["published_digest"]
    states = [json.loads((run.out / "state.json").read_text()) for run in (straight, resumed)]
    assert states[0] == states[1]
    assert states[0]["units"] == 12, "stream 0's units, counted by an object of the script's"
    assert states[0]["scale"] == 1024.0 * 2**2, "doubled after each five good units of stream 0"
