"""Whether long runs leak: memory, descriptors and threads of every role over many joins and leaves.

    python -m benchmarks.soak [--minutes 30] [--warm-up-minutes 10] [--every-s 30]

A small model in short steps, on so little text that an epoch takes under a minute (a worker keeps the orders of samples
of two epochs), two servers, one worker that stays and one place that is filled anew every `--every-s` seconds: by turns
it is asked to go (SIGTERM) and killed. Of each process that lives throughout, a heartbeat among them, resident memory,
descriptors and threads are read every five seconds, and of the roles what they tell that malloc has given out (a leak
grows there, too; holes do not); slopes are those of least-squares lines behind the warm-up.
Writes benchmarks/results/soak.{json,md}.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.cluster import Cluster
from benchmarks.figures import about, table, verdict, write
from benchmarks.findings import figure

SETTINGS = {
    "run.steps": 100_000_000,
    "run.eval_every": 0,
    "model.layers": 2,
    "model.width": 64,
    "model.heads": 2,
    "data.source": str(Path(asyncio.__file__).parent),
    "data.seq_len": 64,
    "cluster.servers": 2,
    "cluster.workers": 2,
    "cluster.min_workers": 1,
    "telemetry.metrics": "127.0.0.1:0",
}
SERVERS = 2
STAYS = "worker-0"
SAMPLE_S = 5.0
LIMIT_MB_AN_HOUR = 2.0
USED = 'sparsync_malloc_bytes{state="used"} '
PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """Of one process; `used_mb` only of those that serve metrics."""

    at_s: float
    resident_mb: float
    used_mb: float | None
    descriptors: int
    threads: int


def look(pid: int, metrics: str | None, at_s: float) -> Sample:
    process = Path(f"/proc/{pid}")
    resident = int((process / "statm").read_text().split()[1]) * PAGE
    descriptors, threads = (len(os.listdir(process / name)) for name in ("fd", "task"))
    return Sample(at_s, resident / 1e6, used_mb(metrics) if metrics else None, descriptors, threads)


def used_mb(metrics: str) -> float:
    """What malloc has given out, as the process tells at that address."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=SAMPLE_S) as reply:
        (line,) = (line for line in reply.read().decode().splitlines() if line.startswith(USED))
    return float(line.removeprefix(USED)) / 1e6


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=30.0)
    options.add_argument("--warm-up-minutes", type=float, default=10.0)
    options.add_argument("--every-s", type=float, default=30.0)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), SETTINGS) as cluster:
        for number in range(SERVERS):
            cluster.start_server(f"ps-{number}")
        cluster.start_worker(STAYS, [])
        cluster.wait_for_closes(10)
        found = watch(cluster, 60 * chosen.minutes, chosen.every_s)
        steps = len(cluster.events("step"))
        ended = cluster.end()
    judged = {
        role: judge([sample for sample in samples if sample.at_s >= 60 * chosen.warm_up_minutes])
        for role, samples in found["samples"].items()
    }
    result = about(
        minutes=chosen.minutes,
        warm_up_minutes=chosen.warm_up_minutes,
        steps=steps,
        **found,
        judged=judged,
        end=ended,
    )
    write("soak", result, page(result))
    print(page(result))


def watch(cluster: Cluster, seconds: float, every_s: float) -> dict[str, Any]:
    """Samples of those who stay, while another worker comes and goes."""
    roles = {name: cluster.pid(name) for name in ("coordinator", *(f"ps-{n}" for n in range(SERVERS)), STAYS)}
    (heartbeat,) = children(roles[STAYS])
    metrics = {name: cluster.metrics(name) for name in roles}
    roles["its heartbeat"] = heartbeat
    samples: dict[str, list[Sample]] = {role: [] for role in roles}
    began = time.monotonic()
    comers, present, change_at = itertools.count(1), "", 0.0
    while (at_s := time.monotonic() - began) < seconds:
        if at_s >= change_at:
            present, change_at = change(cluster, present, next(comers)), at_s + every_s
        for role, pid in roles.items():
            samples[role].append(look(pid, metrics.get(role), round(at_s, 1)))
        time.sleep(SAMPLE_S)
    return {"joined": next(comers) - 1, "samples": samples}


def change(cluster: Cluster, present: str, number: int) -> str:
    """Who is there goes, by turns asked or killed; another comes. Its name."""
    if present:
        cluster.signal(present, signal.SIGTERM if number % 2 else signal.SIGKILL)
        if number % 2:
            cluster.wait_end(present)
        else:
            cluster.remove(present)
        print(f"{number - 1} have come and gone", file=sys.stderr)
    name = f"comer-{number}"
    cluster.start_worker(name, [])
    return name


def judge(samples: Sequence[Sample]) -> dict[str, float | None]:
    """What became of a process behind the warm-up."""
    hours = [sample.at_s / 3600 for sample in samples]
    used = [sample.used_mb for sample in samples if sample.used_mb is not None]
    half = len(samples) // 2
    first, last = samples[:half], samples[half:]
    return {
        "mb_an_hour": statistics.linear_regression(hours, [sample.resident_mb for sample in samples]).slope,
        "used_mb_an_hour": statistics.linear_regression(hours, used).slope if used else None,
        "resident_mb": samples[-1].resident_mb,
        "descriptors_before": max(sample.descriptors for sample in first),
        "descriptors_after": max(sample.descriptors for sample in last),
        "threads_before": max(sample.threads for sample in first),
        "threads_after": max(sample.threads for sample in last),
    }


def page(result: dict[str, Any]) -> str:
    rows = [
        [
            *(role, of["resident_mb"], of["mb_an_hour"], verdict(of["mb_an_hour"], LIMIT_MB_AN_HOUR)),
            figure(of["used_mb_an_hour"]),
            f"{of['descriptors_before']} / {of['descriptors_after']}",
            f"{of['threads_before']} / {of['threads_after']}",
        ]
        for role, of in result["judged"].items()
    ]
    return (
        "# Joins and leaves for a long time\n\n"
        f"{result['steps']:,} steps in {result['minutes']:g} minutes, the first {result['warm_up_minutes']:g} of them "
        f"warm-up; {result['joined']} workers came, and went asked or killed by turns. {result['machine']}, commit "
        f"{result['commit']}. Limit: {LIMIT_MB_AN_HOUR:g} MB of resident memory an hour. In use: what "
        "malloc had given out, which a leak raises, and holes do not. Descriptors and threads: the most in the first "
        "half behind the warm-up, and in the second. Every sample is in [soak.json](soak.json), how it was made in "
        "[soak.py](../soak.py).\n\n"
        + table(
            ["process", "MB at the end", "MB an hour", "", "in use, MB an hour", "descriptors", "threads"],
            rows,
        )
    )


if __name__ == "__main__":
    main()
