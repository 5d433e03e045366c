"""What mutual TLS costs: steps a second of the default run with it, against plain text.

    python -m benchmarks.encryption [--steps 80] [--rounds 3]

Two servers, two workers, the default model and codecs, on loopback, so that bytes cost processor time and nothing else.
The two kinds of run take turns within each round. Writes benchmarks/results/encryption.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.figures import about, table, write

SERVERS = WORKERS = 2
WARM_UP = 15
LIMIT = 0.97


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=80)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    rounds = []
    for number in range(chosen.rounds):
        order = (False, True) if number % 2 == 0 else (True, False)  # what warms up or tires is shared
        rates = {tls: run(chosen.steps, tls=tls) for tls in order}
        rounds.append({"plain": rates[False], "tls": rates[True], "share": rates[True] / rates[False]})
        print(rounds[-1], file=sys.stderr)
    share = statistics.median(one["share"] for one in rounds)
    result = about(steps=chosen.steps, rounds=rounds, share=share)
    write("encryption", result, page(result))
    print(page(result))


def run(steps: int, *, tls: bool) -> float:
    """Steps a second behind the warm-up."""
    settings = {"run.steps": 10_000_000, "run.eval_every": 0}
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), settings, tls=tls) as cluster:
        for number in range(SERVERS):
            cluster.start_server(f"ps-{number}")
        for number in range(WORKERS):
            cluster.start_worker(f"worker-{number}", [])
        cluster.wait_for_closes(WARM_UP + steps, limit_s=120.0 + 5.0 * steps)
        closes = [event["at"] for event in cluster.events("step")][WARM_UP:]
        cluster.end()
    return (len(closes) - 1) / float(closes[-1] - closes[0])


def page(result: dict[str, Any]) -> str:
    rows = [[f"{one[key]:.3f}" for key in ("plain", "tls", "share")] for one in result["rounds"]]
    kept = "kept" if result["share"] >= LIMIT else "MISSED"
    return (
        "# Mutual TLS against plain text\n\n"
        f"The default run, {result['steps']} steps, {SERVERS} servers, {WORKERS} workers; {result['machine']}, commit "
        f"{result['commit']}. Every value is in [encryption.json](encryption.json), how it was made in "
        "[encryption.py](../encryption.py).\n\n"
        + table(["plain, steps/s", "TLS, steps/s", "share"], rows)
        + f"\nMedian share {result['share']:.3f}, target at least {LIMIT:g}: {kept}.\n"
    )


if __name__ == "__main__":
    main()
