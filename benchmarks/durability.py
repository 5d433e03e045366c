"""What the log costs: steps a second of the default run at each level of `durability.ack`, against `memory`.

The levels are run in turn, A B C A B C …, so that a machine whose speed drifts slows all of them; ratios are within
a round. With `--replicas` a fourth run of each round has a standby for each shard, on the same cores.

    python benchmarks/durability.py [--steps 60] [--rounds 3] [--replicas]

Writes benchmarks/results/durability.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.figures import about, table, verdict, write

WARM_UP = 3
LEVELS = {
    "memory": ["durability.ack=memory"],
    "os": ["durability.ack=os"],
    "disk": ["durability.ack=disk"],
    "os, with a standby": ["durability.ack=os", "durability.replicas=1"],
}
TARGETS = {"os": 0.97, "disk": 0.92}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=60)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--replicas", action="store_true", help="measure a run with standbys, too")
    chosen = options.parse_args()
    levels = [level for level in LEVELS if chosen.replicas or "standby" not in level]
    rounds = [{level: rate(level, chosen.steps) for level in levels} for _ in range(chosen.rounds)]
    result = about(steps=chosen.steps, rounds=rounds, ratios=ratios(rounds, levels))
    write("durability", result, page(result))
    print(page(result))


def rate(level: str, steps: int) -> float:
    """Steps a second of the default run without evaluations, from its first steps to its last."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        keys = [f"run.steps={steps}", "run.eval_every=0", *LEVELS[level]]
        settings = [word for key in keys for word in ("-s", key)]
        subprocess.run(
            [sys.executable, "-P", "-m", "sparsync", "train", "--json", "--out", str(out), *settings],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    closed = [line["s"] for line in lines if line["event"] == "step"][WARM_UP:]
    found = (len(closed) - 1) / (closed[-1] - closed[0])
    print(f"{level}: {found:.2f} steps/s", file=sys.stderr)
    return found


def ratios(rounds: list[dict[str, float]], levels: list[str]) -> dict[str, dict[str, float]]:
    """Of each level against `memory` of the same round."""
    found = {level: [r[level] / r["memory"] for r in rounds] for level in levels if level != "memory"}
    return {
        level: {"min": min(values), "median": statistics.median(values), "max": max(values)}
        for level, values in found.items()
    }


def page(result: dict[str, Any]) -> str:
    rows = [
        [level, *(f"{found[key]:.3f}" for key in ("min", "median", "max")), *judged(level, found["median"])]
        for level, found in result["ratios"].items()
    ]
    return (
        "# What the log costs\n\n"
        f"Steps a second of the default run ({result['steps']} steps) against `durability.ack = memory` in the same "
        f"round; {len(result['rounds'])} rounds, {result['machine']}, commit {result['commit']}. Every value is in "
        "[durability.json](durability.json), how it was made in [durability.py](../durability.py).\n\n"
        + table(["level", "min", "median", "max", "target", ""], rows)
    )


def judged(level: str, ratio: float) -> list[object]:
    target = TARGETS.get(level)
    return ["", ""] if target is None else [f">= {target}", verdict(target, ratio)]


if __name__ == "__main__":
    main()
