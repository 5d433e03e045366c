"""A launcher that is killed takes everything along: processes and ports (P19)."""

from __future__ import annotations

import json

import pytest

from tests.cluster.conftest import Starter
from tests.cluster.running import command, is_open

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
GONE_S = 10.0


def test_a_killed_launcher_leaves_nothing(train: Starter, environ: dict[str, str]) -> None:
    run = train({"run.steps": 100_000})
    run.wait_for_step(1)
    status = json.loads(command("status", run.out, "--json", environ=environ).stdout)
    addresses = [run.address, *(server["address"] for server in status["servers"])]
    assert len(addresses) == 3
    assert all(is_open(address) for address in addresses)
    assert len(run.processes()) == 8, "launcher, coordinator, 2 servers, 2 workers and their heartbeats"
    run.kill(run.launcher.pid)
    run.launcher.wait()
    left = run.wait_gone(GONE_S)
    assert not left, [p.cmdline() for p in left]
    assert not any(is_open(address) for address in addresses)
