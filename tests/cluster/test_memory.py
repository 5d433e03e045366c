"""Resident memory of the roles, on the default model."""

from __future__ import annotations

import psutil
import pytest

from tests.cluster.conftest import Starter

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]
MB = 10**6
ADMIT_BYTES = 64 * 2**20
STEPS = 8


def test_the_roles_keep_their_bounds(train: Starter) -> None:
    changes: dict[str, object] = {
        "model.layers": 4,
        "model.width": 256,
        "data.seq_len": 128,
        "data.batch_size": 4,
    }
    changes |= {"run.steps": STEPS, "run.eval_every": 0, "cluster.admit_bytes": ADMIT_BYTES}
    run = train(changes, flags=["--workers", "1"])
    run.wait_for_step(STEPS - 4)
    servers = [peak_rss(pid) for pid in run.pids("ps").values()]
    coordinators = [p for p in run.processes() if "coordinator" in p.cmdline()]
    coordinator = peak_rss(coordinators[0].pid)
    summary = run.finish()
    bound = 450 * MB + 24 * summary["params"] + ADMIT_BYTES
    print(
        f"coordinator {coordinator / MB:.0f} MB, servers {[round(s / MB) for s in servers]} MB of {bound / MB:.0f}"
    )
    assert coordinator <= 120 * MB
    assert len(servers) == 2
    assert max(servers) <= bound


def peak_rss(pid: int) -> int:
    """The most memory that a process has had resident so far, in bytes."""
    with open(f"/proc/{pid}/status") as lines:
        told = dict(line.split(":", 1) for line in lines)
    peak = int(told["VmHWM"].split()[0]) * 1024
    assert peak >= psutil.Process(pid).memory_info().rss // 2
    return peak
