"""Each sample counts once an epoch, however workers come and go (P5): 10,007 samples, batches of 64, 3 epochs."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from tests.cluster.conftest import ByHand
from tests.cluster.roles import DRAIN_S, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
COUNTED = Path(__file__).parent / "scripts" / "counted.py"
SAMPLES, BATCH, EPOCHS, STREAMS = 10_007, 64, 3, 4
STEPS = EPOCHS * -(-SAMPLES // (BATCH * STREAMS))
FILLED = EPOCHS * -(-SAMPLES // BATCH)
SETTINGS: dict[str, object] = {
    "push.codec": "dense",
    "pull.codec": "dense",
    "optimizer.aggregate": "sum",
    "run.epochs": EPOCHS,
    "sync.units_per_step": STREAMS,
    "cluster.servers": 2,
    "cluster.workers": 3,
    "durability.stream_state_every": 10,
}


def begin(by_hand: ByHand, mode: str, *, pause_s: float) -> Cluster:
    cluster = by_hand({**SETTINGS, "sync.mode": mode}, script=[COUNTED, "--pause", str(pause_s)])
    cluster.start_servers(2)
    for name in ("w-0", "w-1", "w-2"):
        cluster.start_worker(name)
    cluster.wait_for_steps(1)
    return cluster


def come_and_go(cluster: Cluster, draw: random.Random, *, until_step: int, every_s: float) -> dict[str, int]:
    """Every few seconds one goes, by SIGTERM or `kill -9`, and another comes; how many did what.

    Somebody else is always at work: how many come and go depends on how fast a worker starts here.
    """
    did = {"term": 0, "kill": 0, "start": 0}
    while True:
        status = cluster.wait_until(
            "two are at work", lambda s: s["step"] >= until_step or len(at_work(s)) >= 2
        )
        if status["step"] >= until_step:
            return did
        name, act = draw.choice(at_work(status)), draw.choice(("term", "kill"))
        if act == "term":
            cluster.term(name)
            assert cluster.wait_left(name) <= DRAIN_S
        else:
            at = cluster.kill_worker(name)
            cluster.wait_given_up(name, at)
        cluster.start_worker(f"w-{3 + did['start']}")
        did[act] += 1
        did["start"] += 1
        time.sleep(draw.uniform(0.5, 1.5) * every_s)


def at_work(status: dict[str, Any]) -> list[str]:
    """Names of the workers in the run that have computed something."""
    return sorted(w["name"] for w in status["workers"] if w["gone"] is None and w["units"] > 0)


def check_counts(cluster: Cluster, summary: dict[str, Any]) -> None:
    """Each sample stands `EPOCHS` times in every copy of x and of x̂, and nothing else does."""
    for model in ("model", "published"):
        path = cluster.out / "checkpoints" / f"step-{STEPS}" / f"{model}.safetensors"
        counts = load_file(path)["counts"]
        wrong = (counts[:, :SAMPLES] != EPOCHS).any(axis=0).nonzero()[0]
        told = {int(i): counts[:, i].tolist() for i in wrong[:20]}
        assert not told, f"{model}: {len(wrong)} samples not {EPOCHS} times: {told}\n{cluster.story()}"
        assert not counts[:, SAMPLES:].any()
    assert summary["steps"] == STEPS
    assert summary["samples"] == EPOCHS * SAMPLES
    assert summary["units_settled"] == FILLED
    assert summary["units_empty"] == STEPS * STREAMS - FILLED, (
        "the last units of an epoch have no samples left"
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_each_sample_three_times(mode: str, by_hand: ByHand, seed: int) -> None:
    cluster = begin(by_hand, mode, pause_s=0.04)
    did = come_and_go(cluster, random.Random(seed), until_step=STEPS * 3 // 4, every_s=2.0)
    summary = cluster.finish()
    check_counts(cluster, summary)
    assert did["start"] >= 2, did
    assert len(cluster.events("died")) == did["kill"], "none died but those that were killed"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["sync", "ssp", "async"])
def test_each_sample_three_times_in_a_long_run(mode: str, by_hand: ByHand, seed: int) -> None:
    cluster = begin(by_hand, mode, pause_s=0.5)
    did = come_and_go(cluster, random.Random(seed), until_step=STEPS - 5, every_s=3.0)
    summary = cluster.finish(240)
    check_counts(cluster, summary)
    assert did["term"] >= 2 and did["kill"] >= 2, did
