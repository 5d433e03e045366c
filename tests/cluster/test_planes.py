"""Where workers keep planes and compress changes no bit: in torch on the device of the model, or in numpy on the host.

On a machine with a GPU these tests run on it, elsewhere on torch's CPU device.
"""

from __future__ import annotations

import random

import pytest

from tests.cluster.conftest import Starter, slow
from tests.cluster.test_digests import Undisturbed, equal_runs
from tests.cluster.test_kill import kill_workers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
ON_DEVICE = {"cluster.planes": "device", "durability.stream_state_every": 3}
WAYS: dict[str, dict[str, object]] = {
    "sync": {},
    "topk": {"push.codec": "topk", "pull.codec": "topk"},
    "clipped": {"push.codec": "topk", "push.feedback": "ef", "push.clip": 1.0},
    "delayed": {"sync.mode": "delayed", "durability.stream_state_every": 3},
    "local": {"sync.mode": "local", "sync.local_steps": 2, "run.steps": 40},
}


@pytest.mark.parametrize("way", ["sync", slow("topk"), slow("clipped"), slow("delayed"), slow("local")])
def test_the_same_run_on_either(train: Starter, undisturbed: Undisturbed, way: str, seed: int) -> None:
    """On the device a worker is killed besides: another one takes over its streams, and replays them there."""
    draw, changes = random.Random(seed), WAYS[way]
    on_host = train({**changes, "cluster.planes": "host"}).finish() if changes else undisturbed("auto")
    run = train({**changes, **ON_DEVICE}, flags=["--servers", "2", "--workers", "2"])
    kill_workers(run, [draw.randrange(4, 12)], draw)
    summary = run.finish()
    equal_runs(on_host, summary)
    logs = [path.read_text() for path in (run.out / "logs").glob("worker-*.log")]
    assert logs and all("compressing there" in log for log in logs)
