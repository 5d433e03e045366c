"""`sparsync bench wire`: how near the whole data path comes to bare streams between as many processes.

In a run each worker pushes N MB of gradient and pulls N MB of model a step, and the servers run SGD (`loaded_cluster`).
Before each run the same bytes go over bare streams (`raw`); a share is the ratio of a run to the bare streams before
it. Rates count the float32 model, one way, of all workers together; CPU seconds are those of all processes, for a GB of
model moved in either direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsync.bench import expected, phases, raw
from sparsync.bench.about import about
from sparsync.bench.cpu import CpuWatch
from sparsync.bench.figures import distribution
from sparsync.bench.load import WARM_UP
from sparsync.bench.loaded_cluster import configuration, run_cluster
from wire.errors import SparsyncError

GB = 1e9

Say = Callable[[str], None]
Worker = dict[str, Any]
"""What a worker's script has written: `turns`, `meter`, `trace` (`scripts/synthetic.py`)."""


@dataclass(frozen=True)
class Options:
    """What is measured.

    size: bytes of the model in float32, whole blocks. seconds: of each measurement. quick: the runs that are measured
    are traced too, though that slows them a little, instead of one more run for each codec.
    """

    size: int
    workers: int
    servers: int
    codecs: tuple[str, ...]
    settings: tuple[str, ...]
    seconds: float
    rounds: int
    quick: bool

    def run(self, codec: str, *, traced: bool) -> tuple[list[Worker], CpuWatch]:
        """A run with that codec both ways."""
        loaded = configuration(
            size=self.size, workers=self.workers, servers=self.servers, codec=codec, settings=self.settings
        )
        return run_cluster(loaded, size=self.size, seconds=self.seconds, traced=traced)


def measure(options: Options, say: Say) -> dict[str, Any]:
    """The whole benchmark as one JSON object. Raises: the error that ended a run."""
    bare: list[dict[str, Any]] = []
    runs: dict[str, list[dict[str, Any]]] = {codec: [] for codec in options.codecs}
    steps: dict[str, dict[str, Any]] = {}
    for number in range(options.rounds):
        for codec in options.codecs:
            bare.append(measure_bare(options))
            workers, cpu = options.run(codec, traced=options.quick)
            found = measure_run(options, workers, cpu)
            found["share_of_bare"] = found["gb_per_s"] / bare[-1]["gb_per_s"]
            runs[codec].append(found)
            steps[codec] = phases.of_a_step(workers, first=WARM_UP)
            say(
                f"round {number + 1}: {codec} moves {found['gb_per_s']:.3f} GB/s each way, "
                f"{found['share_of_bare']:.0%} of bare streams"
            )
    for codec in options.codecs:
        if not options.quick:
            steps[codec] = phases.of_a_step(options.run(codec, traced=True)[0], first=WARM_UP)
            say(f"traced: {codec}")
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
            {"codec": codec, "rounds": rounds, **summary(rounds), "phases": steps[codec]}
            | frames(options, codec)
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


def frames(options: Options, codec: str) -> dict[str, float]:
    """The codecs' own count of the bytes that a worker moves in a step."""
    loaded = configuration(
        size=options.size,
        workers=options.workers,
        servers=options.servers,
        codec=codec,
        settings=options.settings,
    )
    pushed, pulled = expected.frame_bytes(loaded.config, elements=options.size // 4)
    return {"frame_bytes_pushed": pushed, "frame_bytes_pulled": pulled}


# ── one measurement ─────────────────────────────────────────────────────────────────────────────


def measure_bare(options: Options) -> dict[str, Any]:
    """Of bare streams. Raises: SparsyncError where their clients did not work at the same time."""
    with CpuWatch() as cpu:
        clients = raw.run(
            size=options.size, clients=options.workers, servers=options.servers, seconds=options.seconds
        )
    # Clients end at different times; only while all of them are at it do they share the machine as in a run.
    begin = max(done[0].begin for done in clients)
    end = min(done[-1].pulled for done in clients)
    whole = [[e for e in done if begin <= e.begin and e.pulled <= end] for done in clients]
    if not all(whole):
        raise SparsyncError(
            "the clients of bare streams took no turns together; measure for longer (--seconds)"
        )
    per_s = sum(len(done) / (done[-1].pulled - done[0].begin) for done in whole)
    return rates(options, per_s, begin=begin, end=end, cpu=cpu) | {
        "push_s": distribution(e.pushed - e.begin for done in whole for e in done)["median"],
        "pull_s": distribution(e.pulled - e.pushed for done in whole for e in done)["median"],
    }


def measure_run(options: Options, workers: Sequence[Worker], cpu: CpuWatch) -> dict[str, Any]:
    """Of a run, from the begin of the first turn after the warm-up to that of the last one."""
    begin = min(worker["turns"][WARM_UP][0] for worker in workers)
    end = max(worker["turns"][-1][0] for worker in workers)
    units = sum(len(worker["turns"]) - 1 - WARM_UP for worker in workers)
    pushed, pulled = socket_bytes(workers)
    return rates(options, units / (end - begin), begin=begin, end=end, cpu=cpu) | {
        "steps": units // len(workers),
        "socket_bytes_pushed": pushed,
        "socket_bytes_pulled": pulled,
    }


def rates(
    options: Options, exchanges_per_s: float, *, begin: float, end: float, cpu: CpuWatch
) -> dict[str, Any]:
    """What bare streams and runs have in common; `exchanges_per_s` of all workers together."""
    moved_gb = 2 * exchanges_per_s * (end - begin) * options.size / GB
    return {
        "gb_per_s": exchanges_per_s * options.size / GB,
        "exchange_s": options.workers / exchanges_per_s,
        "cpu_s_per_gb": {role: s / moved_gb for role, s in cpu.between(begin, end).items()},
    }


def socket_bytes(workers: Sequence[Worker]) -> tuple[float, float]:
    """(pushed, pulled): bytes that a worker's sockets moved in a turn, between its first and its last look.

    workers: each with `meter`: (turn, sent, received) at the begin of some turns.
    """
    first, last = ([worker["meter"][at] for worker in workers] for at in (0, -1))
    turns, sent, received = (
        sum(after[i] - before[i] for before, after in zip(first, last, strict=True)) for i in range(3)
    )
    return sent / turns, received / turns
