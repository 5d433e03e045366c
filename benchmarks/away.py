"""The rate of an asynchronous run while its coordinator is away, against the rate before and after.

    python -m benchmarks.away [--away-s 180] [--beside-s 60] [--rounds 1]

The default run in `async`, two servers and two workers. The coordinator is killed, started again after `--away-s`
seconds, and asked how far the slowest shard's clock has come. Rates are steps a second between two looks at it.
Nobody may be declared dead. Writes benchmarks/results/away.{json,md}.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.figures import about, table, write

SERVERS = WORKERS = 2
SETTINGS = {"run.steps": 10_000_000, "run.eval_every": 0, "sync.mode": "async"}
LIMIT = 0.9
WARM_UP_STEPS = 20
POLL_S = 0.1
AGAIN_S = 30.0
"""For a coordinator that is started to be told by everybody."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--away-s", type=float, default=180.0)
    options.add_argument("--beside-s", type=float, default=60.0)
    options.add_argument("--rounds", type=int, default=1)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), SETTINGS) as cluster:
        for number in range(SERVERS):
            cluster.start_server(f"ps-{number}")
        for number in range(WORKERS):
            cluster.start_worker(f"worker-{number}", [])
        wait_until(cluster, lambda status: status["clock"] >= WARM_UP_STEPS, limit_s=300.0)
        rounds = [one_round(cluster, chosen.away_s, chosen.beside_s) for _ in range(chosen.rounds)]
        deaths = len(cluster.events("died"))
        cluster.end()
    result = about(away_s=chosen.away_s, rounds=rounds, declared_dead=deaths)
    write("away", result, page(result))
    print(page(result))


def one_round(cluster: Cluster, away_s: float, beside_s: float) -> dict[str, float]:
    before, (clock, at) = rate_over(cluster, beside_s)
    cluster.signal("coordinator", signal.SIGKILL)
    time.sleep(away_s)
    cluster.restart_coordinator()
    cluster.wait_for("reopened", after=len(cluster.events("reopened")))
    clock_again, again = wait_until(cluster, lambda status: told_by_all(status, clock), limit_s=AGAIN_S)
    away = (clock_again - clock) / (again - at)
    after, _ = rate_over(cluster, beside_s)
    return {"before": before, "away": away, "after": after, "share": away / statistics.fmean((before, after))}


def told_by_all(status: dict[str, Any], clock: int) -> bool:
    """Every worker and every shard is back on its line."""
    working = [worker for worker in status["workers"] if worker["state"] in ("computing", "waiting")]
    return len(working) == WORKERS and status["clock"] > clock


def rate_over(cluster: Cluster, seconds: float) -> tuple[float, tuple[int, float]]:
    """Steps a second from now on; the last look at the clock."""
    first, began = look(cluster)
    time.sleep(seconds)
    last, ended = look(cluster)
    return (last - first) / (ended - began), (last, ended)


def look(cluster: Cluster) -> tuple[int, float]:
    return int(cluster.status()["clock"]), time.monotonic()


def wait_until(cluster: Cluster, fits: Any, *, limit_s: float) -> tuple[int, float]:
    """The clock, and when, as soon as the status fits."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        status, at = cluster.status(), time.monotonic()
        if fits(status):
            return int(status["clock"]), at
        time.sleep(POLL_S)
    raise RuntimeError(f"it did not come to that within {limit_s:g} s:\n{cluster.story()}")


def page(result: dict[str, Any]) -> str:
    rows = [
        [f"{r['before']:.3f}", f"{r['away']:.3f}", f"{r['after']:.3f}", f"{r['share']:.3f}"]
        for r in result["rounds"]
    ]
    worst = min(r["share"] for r in result["rounds"])
    return (
        "# An asynchronous run without its coordinator\n\n"
        f"The default run in `async`, {SERVERS} servers, {WORKERS} workers, the coordinator away for "
        f"{result['away_s']:g} s; {result['machine']}, commit {result['commit']}. {result['declared_dead']} were "
        "declared dead. Every value is in [away.json](away.json), how it was made in [away.py](../away.py).\n\n"
        + table(["steps/s before", "while it is away", "after", "share"], rows)
        + f"\nTarget: a share of at least {LIMIT:g}: {'kept' if worst >= LIMIT else 'MISSED'}.\n"
    )


if __name__ == "__main__":
    main()
