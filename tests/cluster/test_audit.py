"""The audit tensor: every unit of work is applied exactly once on every server, whoever dies meanwhile (P1, P2)."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, Starter
from tests.cluster.test_kill import check_events, kill_workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
AUDIT = ROOT / "examples" / "audit.py"
LOSSLESS = {"push.codec": "dense", "pull.codec": "dense"}


def test_each_unit_counts_once(train: Starter, seed: int) -> None:
    draw, steps = random.Random(seed), 200
    changes = {**LOSSLESS, "optimizer.aggregate": "sum", "run.steps": steps}
    run = train(changes, flags=["--workers", "3", "--servers", "2"], script=[AUDIT])
    kill_workers(run, sorted(draw.sample(range(steps - 5), 3)), draw)
    summary = run.finish()
    check_events(run, summary, kills=3)
    audit = json.loads((run.out / "audit.json").read_text())
    assert audit == {
        "units": 4 * steps,
        "copies": 4,
        "applied_once": 4 * steps,
        "wrong": {},
        "copies_agree": True,
        "elsewhere_zero": True,
    }


@pytest.mark.slow
def test_the_audit_bites(train: Starter, tmp_path: Path) -> None:
    """A script that pushes one unit twofold fails the audit, and the run with it."""
    script = Path(shutil.copy(AUDIT, tmp_path / "audit.py"))
    planted = script.read_text().replace(
        "loss.backward()", "loss.backward(torch.tensor(2.0 if unit == 17 else 1.0))"
    )
    script.write_text(planted)
    changes = {**LOSSLESS, "optimizer.aggregate": "sum", "run.steps": 8}
    run = train(changes, flags=["--workers", "1", "--servers", "1"], script=[script])
    ended = run.wait()
    assert ended.code == 70, run.story()
    assert "1 of 32 units were not applied exactly once" in ended.talk
    audit = json.loads((run.out / "audit.json").read_text())
    assert audit["applied_once"] == 31
    assert audit["wrong"] == {"17": [2.0, 2.0]}
