"""Pushes that are clipped: nothing of them is lost, no bit depends on who computes, and one wild unit moves little."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cluster.conftest import Starter, slow
from tests.cluster.scripts.wild import WILD, mass_of, scale
from tests.cluster.test_digests import DIGESTS, equal_runs
from tests.cluster.test_kill import check_events, kill_workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SCRIPT = Path(__file__).parent / "scripts" / "wild.py"
STREAMS, STEPS, CLIP = 4, 40, 2.0
EXACT, ROUNDED = 1e-6, 1e-5
"""Of the whole, relative; at one element float32 adds up the rounding errors of some hundred steps, all alike."""
DENSE = {"push.codec": "dense"}
TOPK = {"push.codec": "topk", "push.feedback": "ef", "push.density": 0.25}
# With fewer units in some steps than in others the mean of each would weigh them differently.
MODES: dict[str, dict[str, object]] = {
    "sync": {"sync.mode": "sync"},
    "quorum": {"sync.mode": "sync", "sync.quorum": STREAMS},
    "ssp": {"sync.mode": "ssp"},
    "async": {"sync.mode": "async"},
}


@pytest.mark.parametrize(
    ("mode", "codec"),
    [
        ("sync", DENSE),
        *(
            slow("sync", TOPK),
            slow("quorum", TOPK),
            slow("ssp", DENSE),
            slow("async", TOPK),
        ),
    ],
)
def test_what_was_produced_is_applied_or_held(train: Starter, mode: str, codec: dict[str, object]) -> None:
    changes = {
        **MODES[mode],
        **codec,
        "run.steps": STEPS,
        "pull.codec": "dense",
        "push.clip": CLIP,
        "durability.stream_state_every": 7,
    }
    workers = "1" if mode == "sync" else "2"
    script = [SCRIPT, "--pause", "0" if mode == "sync" else "0.03"]
    run = train(changes, flags=["--workers", workers], script=script)
    summary = run.finish()
    assert summary["units_settled"] == STREAMS * STEPS and summary["mass_returned"] > 1

    unit = mass_of().numpy().astype(np.float64)
    produced = unit * sum(scale(*divmod(number, STREAMS)) for number in range(STREAMS * STEPS))
    x = load_file(run.out / "checkpoints" / f"step-{STEPS}" / "model.safetensors")["mass"]
    applied = -float(STREAMS) * x.astype(np.float64)
    held = sum(np.load(path).astype(np.float64).reshape(unit.shape) for path in run.out.glob("held-*.npy"))
    missing = produced - applied - held
    print(
        f"missing {abs(missing.sum()) / produced.sum():.2g}, {abs(missing / produced).max():.2g} at one element"
    )
    print(
        f"returned {summary['mass_returned']:.3f} units, held {held.sum() / unit.sum():.3f} of {2 * WILD:g}"
    )
    assert abs(missing.sum()) <= EXACT * produced.sum()
    assert abs(missing).max() <= ROUNDED * produced.max()
    if (mode, codec) == ("sync", DENSE):
        moved = [e["moved"] for e in run.events("scalars")]
        assert len(moved) == STEPS - 1
        usual = float(np.linalg.norm(unit))
        assert moved[:12] == pytest.approx([usual] * 12, rel=1e-4)
        most = (2 + 2 * CLIP) / STREAMS * usual
        assert max(moved) <= most * 1.001, "two wild units of four: the bound, and a hundred times it without"


@pytest.mark.slow
@pytest.mark.parametrize("feedback", ["ef21", "ef"])
def test_who_computes_or_dies_changes_no_bit(train: Starter, feedback: str, seed: int) -> None:
    """A bound below the median: half of all units come back in part, for heirs that replay as for those who live."""
    changes: dict[str, Any] = {
        "push.clip": 0.9,
        "push.feedback": feedback,
        "durability.stream_state_every": 3,
    }
    alone = train(changes, flags=["--servers", "1", "--workers", "1"]).finish()
    assert alone["mass_returned"] > 1 and alone["pure"]
    draw = random.Random(seed)
    run = train(changes, flags=["--workers", "3", "--servers", "2"])
    kill_workers(run, sorted(draw.sample(range(10, 18), 2)), draw)
    summary = run.finish()
    equal_runs(alone, summary)
    assert summary["mass_returned"] == alone["mass_returned"]
    check_events(run, summary, kills=2)


@pytest.mark.slow
def test_two_halves_make_the_run(train: Starter) -> None:
    """The norms that the bound is made from are in the checkpoint."""
    changes: dict[str, Any] = {"push.clip": 0.9, "run.steps": 24}
    whole = train(changes, flags=["--servers", "1", "--workers", "1"]).finish()
    first = train({**changes, "run.steps": 12}, flags=["--workers", "2"])
    first.finish()
    second = train({"run.steps": 24}, out=first.out, flags=["--servers", "3", "--workers", "2"]).finish()
    for key in DIGESTS:
        assert second[key] == whole[key], key
