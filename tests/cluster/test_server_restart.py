"""A killed server costs seconds, not bits: it comes back from its disk, or its standby takes over (P1, P3, P11).

Every run here ends with the digests of one in which nothing happened.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.conftest import ByHand, Starter
from tests.cluster.roles import Cluster, wait_since
from tests.cluster.running import seconds_until
from tests.cluster.test_digests import equal_runs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]
PACED = Path(__file__).parent / "scripts" / "paced.py"
STEPS, PAUSE_S = 300, 0.1
SETTINGS: dict[str, object] = {"run.steps": STEPS, "cluster.servers": 2, "durability.stream_state_every": 5}
SERVING_S = 5.0
"""P11: a small server that is started again serves within that; the rest is for a busy machine."""
SLACK_S = 40.0
TAKES_OVER_S = 8.0
"""Both from the fault on, on a quiet machine."""
FENCED = 83


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The summary of the run in which one worker did it all, and nothing happened."""
    starter = Starter(tmp_path_factory.mktemp("alone"), {}, environ)
    yield starter(SETTINGS, flags=["--workers", "1"], script=[PACED]).finish()
    starter.end()


def begin(by_hand: ByHand, *, standbys: int = 0, changes: Mapping[str, object] | None = None) -> Cluster:
    """A run on two shards and two workers, which have settled a step; with standbys all are in sync."""
    more = {"cluster.workers": 2, "durability.replicas": int(standbys > 0), **(changes or {})}
    cluster = by_hand({**SETTINGS, **more}, script=[PACED, "--pause", str(PAUSE_S)])
    cluster.start_servers(2 + standbys)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    for shard in range(standbys):
        cluster.wait_for("in_sync", lambda e, shard=shard: e["shard"] == shard)
    return cluster


def end(cluster: Cluster) -> dict[str, Any]:
    """Its summary; from here on nobody takes his time."""
    cluster.hurry()
    return cluster.finish()


def primary_of(cluster: Cluster, shard: int) -> str:
    """Name of the server that serves a shard now."""
    servers = cluster.status()["servers"]
    return str(next(s["name"] for s in servers if s["shard"] == shard and s["role"] == "primary"))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["os", "disk"])
def test_a_killed_server_comes_back(by_hand: ByHand, alone: dict[str, Any], level: str, seed: int) -> None:
    draw = random.Random(seed)
    cluster = begin(by_hand, changes={"durability.ack": level})
    for name in draw.choices(["ps-0", "ps-1"], k=2):
        cluster.wait_for_more_steps(draw.randrange(1, 6))
        time.sleep(draw.uniform(0, PAUSE_S))
        cluster.kill_worker(name)
        closed = len(cluster.events("step"))
        at = datetime.now().astimezone()
        cluster.start_server(name)
        cluster.wait_for_another("step", closed + 2, limit_s=SERVING_S + SLACK_S)
        assert seconds_until(cluster.events("moved")[-1], at) < SERVING_S + SLACK_S
    summary = end(cluster)
    equal_runs(alone, summary)
    assert len(cluster.events("moved")) == 2 and not cluster.events("died")


@pytest.mark.slow
def test_a_standby_takes_over(by_hand: ByHand, alone: dict[str, Any], seed: int) -> None:
    """Twice: the second time from the standby that the killed primary has become."""
    draw = random.Random(seed)
    cluster = begin(by_hand, standbys=2)
    for _ in range(2):
        shard = draw.randrange(2)
        primary = next(
            s["name"] for s in cluster.status()["servers"] if s["shard"] == shard and s["role"] == "primary"
        )
        cluster.wait_for_more_steps(draw.randrange(1, 6))
        promotions, synced = len(cluster.events("promoted")), len(cluster.events("in_sync"))
        at = cluster.kill_worker(primary)
        promoted = cluster.wait_for_another("promoted", promotions, limit_s=TAKES_OVER_S)
        assert promoted["shard"] == shard
        closed = len(cluster.events("step"))
        cluster.wait_for_another("step", closed + 1, limit_s=TAKES_OVER_S)
        assert seconds_until(cluster.events("step")[closed + 1], at) < TAKES_OVER_S + SLACK_S
        cluster.start_server(primary)
        cluster.wait_for_another("in_sync", synced, limit_s=60)
    equal_runs(alone, end(cluster))


@pytest.mark.slow
def test_a_primary_that_was_only_stopped_is_fenced(by_hand: ByHand, alone: dict[str, Any]) -> None:
    """SIGSTOP, failover, SIGCONT: it acknowledges and publishes nothing any more, and its exit code says so."""
    cluster = begin(by_hand, standbys=2)
    primary = primary_of(cluster, 0)
    at = cluster.stop(primary)
    promoted = cluster.wait_for("promoted", limit_s=TAKES_OVER_S)
    closed = len(cluster.events("step"))
    cluster.wait_for_another("step", closed + 5, limit_s=TAKES_OVER_S)
    wait_since(at, TAKES_OVER_S)
    cluster.cont(primary)
    cluster.wait_code(primary, FENCED)
    assert promoted["term"] > 1
    equal_runs(alone, end(cluster))
