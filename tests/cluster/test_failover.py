"""Primaries and standbys die in every order: each unit counts once, no version has two contents (P1, P2, P10)."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.conftest import ByHand, slow
from tests.cluster.roles import COORDINATOR, Cluster
from tests.cluster.running import POLL_S
from tests.cluster.test_modes import AUDIT, LOSSLESS, STREAMS, check_audit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
SHARDS, UNIT_S = 2, 0.1
STEPS = 1024
"""More than any history here takes: each ends its run when it is done."""
FENCED = 83
LONG_S = 60.0


def begin(by_hand: ByHand, changes: Mapping[str, object] | None = None, *, standbys: int = 1) -> Cluster:
    """Two shards, two workers, and standbys in sync for the first of them."""
    settings = {
        **LOSSLESS,
        "sync.mode": "async",
        "sync.units_per_step": STREAMS,
        "run.steps": STEPS,
        "cluster.servers": SHARDS,
        "cluster.workers": 2,
        "cluster.min_workers": 2,
        "durability.replicas": 1,
        **(changes or {}),
    }
    cluster = by_hand(settings, script=[AUDIT, "--pause", str(UNIT_S)])
    cluster.start_servers(SHARDS + standbys)
    for i in range(2):
        cluster.start_worker(f"w-{i}")
    cluster.wait_for_steps(1)
    for shard in range(standbys):
        cluster.wait_for("in_sync", lambda e, shard=shard: e["shard"] == shard)
    return cluster


def who(cluster: Cluster, shard: int, role: str) -> str:
    """Name of the primary or the standby of a shard."""
    found = [s for s in cluster.status()["servers"] if s["shard"] == shard and s["role"] == role]
    return str(found[0]["name"])


def finish(cluster: Cluster) -> dict[str, Any]:
    summary = cluster.halt()
    check_audit(cluster, summary)
    assert not cluster.events("diverged")
    return summary


def test_a_standby_dies_and_then_its_primary(by_hand: ByHand, seed: int) -> None:
    """The run goes on alone, until a new standby is in sync; that one takes over."""
    draw = random.Random(seed)
    cluster = begin(by_hand)
    cluster.wait_for_more_steps(draw.randint(1, 5))
    standby = who(cluster, 0, "standby")
    synced = len(cluster.events("in_sync"))
    cluster.kill_worker(standby)
    cluster.wait_for("parted", lambda e: e["shard"] == 0)
    cluster.wait_for_more_steps(2)
    cluster.start_server(standby)
    cluster.wait_for_another("in_sync", synced, limit_s=LONG_S)
    cluster.kill_worker(who(cluster, 0, "primary"))
    cluster.wait_for("promoted", lambda e: e["name"] == standby)
    finish(cluster)


@pytest.mark.parametrize("halted", [slow(False), True])
def test_a_primary_goes_while_a_checkpoint_is_written(by_hand: ByHand, halted: bool, seed: int) -> None:
    """Killed, or silent with its lines open; the checkpoint is begun again with who takes over, and the run goes on."""
    draw = random.Random(seed)
    cluster = begin(by_hand, {"sync.mode": "sync", "run.checkpoint_every": 1, "run.keep_checkpoints": 2})
    cluster.wait_for_more_steps(draw.randint(1, 3))
    primary = who(cluster, 0, "primary")
    while not list(cluster.out.glob("checkpoints/.step-*.partial")):
        time.sleep(POLL_S)
    if halted:
        cluster.stop(primary)
    else:
        cluster.kill_worker(primary)
    cluster.wait_for("promoted", limit_s=LONG_S)
    cluster.wait_for_more_steps(2, limit_s=LONG_S)
    if halted:
        cluster.cont(primary)
        cluster.wait_code(primary, FENCED, limit_s=LONG_S)
    finish(cluster)


@pytest.mark.slow
def test_kills_in_any_order(by_hand: ByHand, seed: int) -> None:
    """Whoever is killed is started again with what its directory holds, and becomes what it may be."""
    draw = random.Random(seed)
    cluster = begin(by_hand, standbys=2)
    for _ in range(5):
        shard, role = draw.randrange(SHARDS), draw.choice(["primary", "standby"])
        cluster.wait_until("all in sync", in_sync, limit_s=LONG_S)
        name = who(cluster, shard, role)
        time.sleep(draw.uniform(0.0, 0.5))
        cluster.kill_worker(name)
        time.sleep(draw.choice([0.0, 0.0, draw.uniform(0.0, 3.0)]))
        cluster.start_server(name)
    cluster.wait_until("all are back", lambda _: all_joined(cluster), limit_s=LONG_S)
    cluster.wait_until("all in sync", in_sync, limit_s=LONG_S)
    finish(cluster)


def all_joined(cluster: Cluster) -> bool:
    """The newest process of each server, which may have been started before the death of the one before was noticed."""
    told = {event["pid"] for kind in ("joined", "rejoined") for event in cluster.events(kind)}
    return all(cluster.own_pid(f"ps-{number}") in told for number in range(SHARDS + 2))


def in_sync(status: dict[str, Any]) -> bool:
    """Every shard has a standby in sync."""
    found = [s for s in status["servers"] if s["role"] == "standby" and s["in_sync"]]
    return len({s["shard"] for s in found}) == SHARDS


@pytest.mark.slow
@pytest.mark.parametrize("first", ["primary", COORDINATOR])
def test_the_coordinator_dies_while_a_standby_takes_over(by_hand: ByHand, first: str, seed: int) -> None:
    """Or together with the primary: the next coordinator decides, or says again what was decided."""
    draw = random.Random(seed)
    cluster = begin(by_hand)
    cluster.wait_for_more_steps(draw.randint(1, 5))
    primary = who(cluster, 0, "primary")
    if first == COORDINATOR:
        cluster.kill_worker(COORDINATOR)
        cluster.kill_worker(primary)
    else:
        cluster.kill_worker(primary)
        cluster.wait_for("promoted", limit_s=LONG_S)
        cluster.kill_worker(COORDINATOR)
    cluster.start_coordinator_again()
    cluster.wait_until("it serves again", lambda status: status["run"], limit_s=LONG_S)
    cluster.wait_for("promoted", limit_s=LONG_S)
    cluster.wait_for_more_steps(3, limit_s=LONG_S)
    cluster.start_server(primary)
    cluster.wait_for_another("in_sync", 1, limit_s=LONG_S)
    finish(cluster)


@pytest.mark.slow
def test_a_primary_wakes_after_its_time_with_pushes_on_its_lines(by_hand: ByHand, seed: int) -> None:
    """It acknowledges and publishes nothing under its old term, ends, and stands by when it is started again."""
    draw = random.Random(seed)
    cluster = begin(by_hand)
    cluster.wait_for_more_steps(draw.randint(1, 5))
    primary = who(cluster, 0, "primary")
    cluster.stop(primary)
    cluster.wait_for("promoted", limit_s=LONG_S)
    time.sleep(draw.uniform(0.0, 1.0))
    cluster.cont(primary)
    cluster.wait_code(primary, FENCED, limit_s=LONG_S)
    cluster.start_server(primary)
    cluster.wait_for_another("in_sync", 1, limit_s=LONG_S)
    assert who(cluster, 0, "standby") == primary
    finish(cluster)
