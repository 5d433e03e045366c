"""A slow link is no lack of progress: whose state is on its way is neither a straggler nor stuck."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparsync.faults.rules import Faults, Rule
from tests.cluster.conftest import ByHand
from tests.cluster.proxy import Front

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
RATE = 1.2e6
"""Bytes a second of each worker, both ways: a stream's moments and residual take 4 s."""
STRAGGLER_S, STUCK_S = 2.5, 3.0
LOCAL: dict[str, object] = {
    "sync.mode": "local",
    "sync.local_steps": 2,
    "sync.units_per_step": 3,
    "run.steps": 12,
    "model.width": 128,
    "cluster.servers": 1,
    "cluster.workers": 2,
    "cluster.straggler_s": STRAGGLER_S,
    "cluster.progress_timeout_s": STUCK_S,
}


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front(faults=Faults(rules=(Rule(rate=RATE, each=True),)))
    yield made
    made.close()


@pytest.mark.slow
def test_who_deposits_over_a_slow_link_is_waited_for(by_hand: ByHand, front: Front) -> None:
    """One of two workers carries two of three streams: the other waits, done, for longer than any unit may take."""
    cluster = by_hand(LOCAL, script=[])
    cluster.start_server("ps-0", "--listen", front.target, "--advertise", front.address)
    for name in ("one", "two"):
        cluster.start_worker(name)
    summary = cluster.finish(120)
    assert summary["steps"] == 12
    assert not cluster.events("straggled") and not cluster.events("died"), cluster.story()
    closed, ended = cluster.events("step")[-1]["s"], cluster.events("ended")[-1]["s"]
    assert ended - closed > 2 * STUCK_S, "the deposits took longer than whoever does nothing is waited for"
