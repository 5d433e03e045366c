"""How far a push of local steps moves x̂, as its worker expects it: what the servers do with it."""

from __future__ import annotations

import pytest

from ps.merge import Merge
from wire.config import complete, load
from worker.route import reach


@pytest.mark.parametrize(("rule", "power"), [("mean", 0.0), ("count", 0.5), ("count", 1.0), ("sum", 0.0)])
def test_a_push_reaches_as_far_as_the_servers_have_it(rule: str, power: float) -> None:
    settings = ["sync.mode=async", "sync.local_steps=4", "sync.units_per_step=4", "optimizer.outer_lr=0.7"]
    counted = [f"optimizer.count_power={power}"] if rule == "count" else []
    config = complete(load(None, [*settings, f"optimizer.aggregate={rule}", *counted], {}).config)
    share = 1.0 if rule == "sum" else Merge(rule, power).gain(4) / 4
    assert reach(config) == pytest.approx(0.7 * share)
    assert reach(config) == pytest.approx({0.0: 0.175, 0.5: 0.35, 1.0: 0.7}[power] if rule != "sum" else 0.7)
