"""The frontier's bookkeeping: runs are found again, tuned by one seed, and judged over the seeds of both."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.frontier import Store
from benchmarks.frontier_page import page, plot, rows
from benchmarks.points import SMALL, SWEEPS, Point, local


def run(point: Point, loss: float, ratio: float = 1.0) -> dict[str, object]:
    return {"point": json.loads(json.dumps(asdict(point))), "loss": loss, "ratio": ratio}


DDP = Point("ddp", 4e-3)
SPARSE = replace(local(4, 128, 256), lr=2e-3)
RUNS_SMALL = replace(SPARSE, work=SMALL)
RUNS = [
    run(DDP, 2.0),
    run(replace(DDP, seed=1), 4.0),
    run(replace(DDP, lr=8e-3), 2.5),
    run(SPARSE, 2.1, 350.0),
    run(replace(SPARSE, lr=4e-3), 2.2, 340.0),
    run(RUNS_SMALL, 1.0, 340.0),
]


def test_a_point_is_the_same_after_its_way_through_a_file(tmp_path: Path) -> None:
    for sweep in SWEEPS.values():
        for point in sweep():
            assert Point.of(json.loads(json.dumps(asdict(point)))) == point
    store = Store(tmp_path / "runs.jsonl")
    assert not store.measured(SPARSE)
    store.add(SPARSE, {"loss": 1.0})
    assert store.measured(SPARSE) and not store.measured(replace(SPARSE, seed=1))


def test_each_method_at_its_best_rate_over_the_seeds_of_both() -> None:
    baseline, sparse, small = rows(RUNS)
    assert (small.point, small.losses) == (RUNS_SMALL, {0: 1.0})
    assert (baseline.rates, sparse.rates) == ((4e-3, 8e-3), (2e-3, 4e-3))
    assert (baseline.point.lr, baseline.loss) == (4e-3, 3.0)
    assert (sparse.point.lr, sparse.loss, sparse.ratio) == (2e-3, 2.1, 350.0)
    assert sparse.gap(baseline) == pytest.approx(0.05)  # of seed 0 alone


def test_the_page_and_the_plot_show_every_method() -> None:
    found = rows([*RUNS[:-1], run(replace(DDP, optimizer="muon"), 1.6)])
    baselines = [found[0], found[-1]]
    told = page(found, baselines, {"parameters": 1, "data_digest": "d" * 64, "machine": "m"})
    assert "| local, H = 4 | 128 of 4,096, sign1, EF |" in told and "| +5.00% | +31.25% |" in told
    assert "| DDP, Muon |" in told
    assert plot(found, baselines).count("<circle") == 3
