"""A cluster as `sparsync train` starts it, working on gradients that cost nothing for as long as it is told."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsync.bench.cpu import CpuWatch
from sparsync.bench.load import WARM_UP
from sparsync.cluster import Cluster
from sparsync.control import Control
from sparsync.launch_plan import Launch, create_run
from sparsync.launcher import run_error
from sparsync.live import EventTail, NoDisplay
from sparsync.run_directory import RunDirectory, read_address
from wire.config import Loaded, load
from wire.errors import Interrupted, SparsyncError
from wire.rpc.identity import Security

SCRIPT = Path(__file__).parent / "scripts" / "synthetic.py"
LEAST_STEPS = 4
"""That are measured, however long they take."""
ENDLESS = 1_000_000
DEPOSIT_EVERY = 8
"""Dense streams have next to nothing to deposit; and until they do, servers keep every delta for an heir."""
POLL_S = 0.05
STOP_TIMEOUT_S = 10.0


def configuration(*, size: int, workers: int, servers: int, codec: str, settings: Sequence[str]) -> Loaded:
    """One stream a worker, no deposits of planes, room for a whole step at each server; then the `settings` asked for.

    size: bytes of the model. settings: `section.key=value`.
    Raises: ConfigError.
    """
    ours = {
        "push.codec": codec,
        "pull.codec": codec,
        "cluster.workers": workers,
        "cluster.servers": servers,
        "cluster.admit_bytes": max(256 << 20, (workers + 1) * size),
        "sync.units_per_step": workers,
        "durability.stream_state_every": DEPOSIT_EVERY if codec == "dense" else ENDLESS,
        "run.steps": ENDLESS,
        "telemetry.live": "off",
    }
    return load(None, [*(f"{key}={value}" for key, value in ours.items()), *settings], {})


def run_cluster(
    loaded: Loaded, *, size: int, seconds: float, traced: bool
) -> tuple[list[dict[str, Any]], CpuWatch]:
    """What each worker's script has written, and the CPU of all roles; it works `seconds` after its warm-up.

    Raises: the error that ended the run; Interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="sparsync-bench-") as directory, CpuWatch() as cpu:
        command = [str(SCRIPT), str(size), directory, *(["--trace"] if traced else [])]
        launch = Launch(loaded, RunDirectory(Path(directory, "run")), None, tuple(command))
        create_run(launch)
        cluster, stopped = asyncio.run(_run(launch, seconds))
        if cluster.supervisor.failure is not None:
            raise run_error(launch, cluster)
        if not stopped:
            raise Interrupted("interrupted before the measurement was over")
        told = [json.loads(path.read_text()) for path in sorted(Path(directory).glob("turns-*.json"))]
    return told, cpu


async def _run(launch: Launch, seconds: float) -> tuple[Cluster, bool]:
    """The cluster after its end, and whether that was at our request. Raises: SparsyncError."""
    cluster = Cluster(launch, NoDisplay())
    try:
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_after(launch.run, seconds))
            group.create_task(cluster.run()).add_done_callback(lambda _: stopping.cancel())
    except* SparsyncError as errors:
        raise errors.exceptions[0] from None
    return cluster, not stopping.cancelled()


async def _stop_after(run: RunDirectory, seconds: float) -> None:
    """Asks for the end of the run `seconds` after its warm-up, and not before it has `LEAST_STEPS` to show."""
    tail = EventTail(run.events)
    await _steps(tail, WARM_UP)
    counting = asyncio.create_task(_steps(tail, LEAST_STEPS))
    await asyncio.sleep(seconds)
    await counting
    address = read_address(run)
    assert address is not None
    async with Control(address, Security()) as control:
        await control.stop("it is measured", timeout_s=STOP_TIMEOUT_S)


async def _steps(tail: EventTail, count: int) -> None:
    """Until that many more steps are closed."""
    while count > 0:
        count -= sum(event.get("event") == "step" for event in tail.read())
        await asyncio.sleep(POLL_S)
