"""Who stands by and who evaluates is told to the servers over every death; nobody else does either. Over mutual TLS."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.guarded import Guarded, calls
from tests.cluster.roles import COORDINATOR
from wire.rpc.identity import Role
from wire.v1 import shard_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]
SCRIPT = Path(__file__).parent / "scripts" / "paced.py"
SETTINGS = {
    "run.steps": 200,
    "cluster.servers": 2,
    "cluster.min_workers": 2,
    "durability.replicas": 1,
    "push.codec": "dense",
    "pull.codec": "dense",
}
REPLICATE = "/sparsync.v1.Shard/Replicate"
LONG_S = 60.0


def follow(cluster: Guarded, member: Any, name: str, *, shard: int) -> str:
    """How the primary of a shard answers a server of the run that wants to follow it."""
    servers = cluster.status()["servers"]
    (me,) = [s for s in servers if s["name"] == name]
    (primary,) = [s for s in servers if s["shard"] == shard and s["role"] == "primary"]
    hello = shard_pb2.ReplicaHello(timeline=1, term=1, shard=shard, incarnation=me["incarnation"])
    asked = {REPLICATE: [shard_pb2.ReplicaReport(hello=hello)]}
    bearer = member(Role.PS, name)
    return asyncio.run(calls(primary["address"], bearer, Role.PS, asked, run=cluster.run))[REPLICATE]


def test_only_who_was_appointed_follows_and_who_was_asked_evaluates(
    tmp_path: Path, member: Any, environ: dict[str, str]
) -> None:
    cluster = Guarded(tmp_path, SETTINGS, member=member, script=[SCRIPT, "--pause", "0.05"], environ=environ)
    try:
        cluster.start_servers(3)
        for worker in ("node1.gpu0", "node2"):
            cluster.start_worker(worker)
        cluster.wait_for("in_sync")
        (standby,) = [s for s in cluster.status()["servers"] if s["role"] == "standby"]
        for name in (standby["name"], "ps-0"):
            assert (
                follow(cluster, member, name, shard=1 - standby["shard"])
                == "PERMISSION_DENIED PermissionRefused"
            )
        cluster.kill_worker(f"ps-{standby['shard']}")
        cluster.wait_for("promoted", lambda event: event["name"] == standby["name"])
        cluster.start_server(f"ps-{standby['shard']}")
        cluster.wait_for_another("in_sync", 1, limit_s=LONG_S)
        cluster.kill_worker(COORDINATOR)
        cluster.start_coordinator_again()
        cluster.wait_for_more_steps(2)
        cluster.hurry()
        summary = cluster.finish()
        assert summary["val_loss"] and summary["val_loss_server"]
    finally:
        assert not cluster.end()
