"""`sparsync bench wire`: how near the whole data path comes to bare streams between as many processes.

A run is a whole cluster as `sparsync train` starts it, with a script whose gradients cost nothing
(`scripts/synthetic.py`): each step every worker pushes N MB of gradient and pulls N MB of model, the servers run SGD.
Between two runs the same bytes go over bare streams (`raw`); shares are ratios of a run and the bare streams before
it. Rates count the float32 model, one way; CPU seconds are those of all roles, a GB of model moved in either direction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsync.bench import expected, phases, raw
from sparsync.bench.about import about
from sparsync.bench.cpu import CpuWatch
from sparsync.bench.figures import distribution
from sparsync.bench.load import WARM_UP
from sparsync.cluster import Cluster
from sparsync.control import Control
from sparsync.launch_plan import Launch, create_run
from sparsync.launcher import run_error
from sparsync.live import EventTail, NoDisplay
from sparsync.run_directory import RunDirectory, read_address
from wire.config import Loaded, load
from wire.errors import Interrupted, SparsyncError
from wire.layout import BLOCK
from wire.rpc.identity import Security

SCRIPT = Path(__file__).parent / "scripts" / "synthetic.py"
LEAST_STEPS = 4
GB = 1e9
BLOCK_BYTES = 4 * BLOCK
ENDLESS = 1_000_000
POLL_S = 0.05
STOP_TIMEOUT_S = 10.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured. `size`: bytes of the model in float32, whole blocks; `seconds`: of each measurement."""

    size: int
    workers: int
    servers: int
    codecs: tuple[str, ...]
    settings: tuple[str, ...]
    seconds: float
    rounds: int

    @property
    def blocks(self) -> int:
        return self.size // BLOCK_BYTES


def whole_blocks(megabytes: float) -> int:
    """Bytes of the smallest model of whole blocks that has at least that many MB (10^6 bytes)."""
    return -(-round(megabytes * 1e6) // BLOCK_BYTES) * BLOCK_BYTES


def measure(options: Options, say: Say) -> dict[str, Any]:
    """The whole benchmark as one JSON object. Raises: the error that ended a run."""
    bare: list[dict[str, Any]] = []
    runs: dict[str, list[dict[str, Any]]] = {codec: [] for codec in options.codecs}
    for number in range(options.rounds):
        for codec in options.codecs:
            bare.append(measure_bare(options))
            say(f"round {number + 1}: bare streams {bare[-1]['gb_per_s']:.3f} GB/s each way")
            found = measure_run(options, codec)
            found["share_of_bare"] = found["gb_per_s"] / bare[-1]["gb_per_s"]
            runs[codec].append(found)
            say(
                f"round {number + 1}: {codec} {found['gb_per_s']:.3f} GB/s, {found['share_of_bare']:.0%} of that"
            )
    return {
        "benchmark": "wire",
        "about": about(),
        "options": {
            "mb": options.size / 1e6,
            "workers": options.workers,
            "servers": options.servers,
            "settings": list(options.settings),
            "seconds": options.seconds,
            "rounds": options.rounds,
        },
        "bare": {"rounds": bare, **summary(bare)},
        "runs": [
            {"codec": codec, "rounds": rounds, **summary(rounds), **trace(options, codec, say)}
            for codec, rounds in runs.items()
        ],
    }


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The distribution of each number of the rounds, and the median CPU of each role."""
    numbers = [key for key, value in rounds[0].items() if isinstance(value, float)]
    roles = {role for found in rounds for role in found["cpu_s_per_gb"]}
    cpu = {
        role: distribution(found["cpu_s_per_gb"].get(role, 0.0) for found in rounds)["median"]
        for role in sorted(roles)
    }
    return {key: distribution(found[key] for found in rounds) for key in numbers} | {
        "cpu_s_per_gb": cpu,
        "cpu_s_per_gb_in_all": sum(cpu.values()),
    }


# ── bare streams ────────────────────────────────────────────────────────────────────────────────


def measure_bare(options: Options) -> dict[str, Any]:
    """One measurement of bare streams."""
    with CpuWatch() as cpu:
        clients = raw.run(
            size=options.size, clients=options.workers, servers=options.servers, seconds=options.seconds
        )
    # Clients end at different times; only while all of them are at it do they share the machine as in a run.
    begin = max(done[0].begin for done in clients)
    end = min(done[-1].pulled for done in clients)
    whole = [[e for e in done if begin <= e.begin and e.pulled <= end] for done in clients]
    rates = [len(done) / (done[-1].pulled - done[0].begin) for done in whole if done]
    if len(rates) < len(clients):
        raise SparsyncError("two clients never worked at the same time; measure for longer (--seconds)")
    return rates_and_cpu(options, sum(rates), begin=begin, end=end, cpu=cpu) | {
        "push_s": distribution(e.pushed - e.begin for done in whole for e in done)["median"],
        "pull_s": distribution(e.pulled - e.pushed for done in whole for e in done)["median"],
    }


def rates_and_cpu(
    options: Options, exchanges_per_s: float, *, begin: float, end: float, cpu: CpuWatch
) -> dict[str, Any]:
    """What bare streams and runs have in common; `exchanges_per_s` of all workers together."""
    moved_gb = 2 * exchanges_per_s * (end - begin) * options.size / GB
    return {
        "gb_per_s": exchanges_per_s * options.size / GB,
        "exchange_s": options.workers / exchanges_per_s,
        "cpu_s_per_gb": {role: s / moved_gb for role, s in cpu.between(begin, end).items()},
    }


# ── a run ───────────────────────────────────────────────────────────────────────────────────────


def measure_run(options: Options, codec: str) -> dict[str, Any]:
    """One measurement of the data path."""
    with tempfile.TemporaryDirectory(prefix="sparsync-bench-") as directory, CpuWatch() as cpu:
        turns = run_cluster(options, codec, Path(directory), seconds=options.seconds)
    begin = min(worker["turns"][WARM_UP][0] for worker in turns)
    end = max(worker["turns"][-1][0] for worker in turns)
    units = sum(len(worker["turns"]) - 1 - WARM_UP for worker in turns)
    pushed, pulled = socket_bytes(turns)
    return rates_and_cpu(options, units / (end - begin), begin=begin, end=end, cpu=cpu) | {
        "steps": units // len(turns),
        "socket_bytes_pushed": pushed,
        "socket_bytes_pulled": pulled,
    }


def socket_bytes(workers: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """(pushed, pulled): bytes that a worker's sockets moved in a turn, between its first and its last look.

    workers: each with `meter`: (turn, sent, received) at the begin of some turns.
    """
    first, last = ([worker["meter"][at] for worker in workers] for at in (0, -1))
    turns, sent, received = (
        sum(after[i] - before[i] for before, after in zip(first, last, strict=True)) for i in range(3)
    )
    return sent / turns, received / turns


def trace(options: Options, codec: str, say: Say) -> dict[str, Any]:
    """Where the time of a step goes, from a run of its own whose workers look at their sockets all the time;
    and the bytes of frames, to hold those at the sockets against."""
    with tempfile.TemporaryDirectory(prefix="sparsync-bench-") as directory:
        turns = run_cluster(options, codec, Path(directory), seconds=options.seconds, flags=["--trace"])
    say(f"{codec}: traced a step")
    config = configuration(options, codec).config
    pushed, pulled = expected.frame_bytes(config, elements=options.size // 4)
    return {
        "phases": phases.of_a_step(turns, first=WARM_UP),
        "frame_bytes_pushed": pushed,
        "frame_bytes_pulled": pulled,
    }


def run_cluster(
    options: Options, codec: str, directory: Path, *, seconds: float, flags: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """What each worker's script has written, from a cluster that works for about `seconds` after its warm-up.

    Raises: the error that ended the run; Interrupted.
    """
    run = RunDirectory(directory / "run")
    loaded = configuration(options, codec)
    command = (str(SCRIPT), str(options.size), str(directory), *flags)
    launch = Launch(loaded, run, None, command)
    create_run(launch)
    cluster, stopped = asyncio.run(_run(launch, seconds))
    if cluster.supervisor.failure is not None:
        raise run_error(launch, cluster)
    if not stopped:
        raise Interrupted("interrupted before the measurement was over")
    return [json.loads(path.read_text()) for path in sorted(directory.glob("turns-*.json"))]


def configuration(options: Options, codec: str) -> Loaded:
    """One stream a worker, no deposits, room for a whole step at each server; then the settings asked for.

    Raises: ConfigError.
    """
    room = max(256 << 20, (options.workers + 1) * options.size)
    ours = {
        "push.codec": codec,
        "pull.codec": codec,
        "cluster.workers": options.workers,
        "cluster.servers": options.servers,
        "cluster.admit_bytes": room,
        "sync.units_per_step": options.workers,
        "durability.stream_state_every": ENDLESS,
        "run.steps": ENDLESS,
        "telemetry.live": "off",
    }
    return load(None, [*(f"{key}={value}" for key, value in ours.items()), *options.settings], {})


async def _run(launch: Launch, seconds: float) -> tuple[Cluster, bool]:
    """The cluster after its end, and whether that was at our request."""
    cluster = Cluster(launch, NoDisplay())
    stopping = asyncio.create_task(_stop_after(launch.run, seconds))
    try:
        await cluster.run()
    finally:
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
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
