"""What faults cost: wall time of the default run with one kill -9 every 30 s, over all roles, against none.

    python benchmarks/faults.py [--steps 300] [--rounds 3] [--every 30s] [--seed 0]

`sparsync train` with and without `sparsync chaos` beside it, in turn within each round. The time is from the first step
to the last close. Both must end with the same digest of the parameters. Writes benchmarks/results/faults.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.cluster import SPARSYNC, role_environment
from benchmarks.figures import about, table, verdict, write

ROLES = "worker,ps,coordinator"
LIMIT = 1.5
BEGIN_S = 120.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--every", default="30s")
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    rounds = []
    for number in range(chosen.rounds):
        calm = run(chosen.steps)
        struck = run(chosen.steps, every=chosen.every, seed=chosen.seed + number)
        if calm["params_digest"] != struck["params_digest"]:
            raise RuntimeError(f"round {number}: the digests differ: {calm} {struck}")
        ratio = struck["wall_s"] / calm["wall_s"]
        rounds.append({"calm": calm, "struck": struck, "ratio": ratio})
        print(
            f"{calm['wall_s']:.1f} s, with {len(struck['faults'])} faults {struck['wall_s']:.1f} s",
            file=sys.stderr,
        )
    result = about(steps=chosen.steps, every=chosen.every, seed=chosen.seed, rounds=rounds)
    write("faults", result, page(result))
    print(page(result))


def run(steps: int, *, every: str = "", seed: int = 0) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        keys = [f"run.steps={steps}", "run.eval_every=0", "cluster.restarts=100"]
        words = [word for key in keys for word in ("-s", key)]
        train = subprocess.Popen(
            [*SPARSYNC, "train", "--json", "--out", str(out), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=role_environment(),
            text=True,
        )
        faults = strike(out, every, seed) if every else []
        told, _ = train.communicate()
        if train.returncode:
            raise RuntimeError(f"sparsync train ended with {train.returncode}")
        lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    times = [line["t"] for line in lines if line["event"] == "step"]
    return {
        "wall_s": seconds_between(times[0], times[-1]),
        "params_digest": json.loads(told)["params_digest"],
        "faults": faults,
    }


def strike(out: Path, every: str, seed: int) -> list[dict[str, Any]]:
    """Kills until the run ends."""
    deadline = time.monotonic() + BEGIN_S
    while not (out / "events.jsonl").exists() or '"step"' not in (out / "events.jsonl").read_text():
        if time.monotonic() > deadline:
            raise RuntimeError("the run did not begin")
        time.sleep(0.1)
    done = subprocess.run(
        [
            *SPARSYNC,
            "chaos",
            str(out),
            "--every",
            every,
            "--seed",
            str(seed),
            "--kinds",
            "kill",
            "--roles",
            ROLES,
            "--json",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=role_environment(),
        text=True,
        check=False,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)["faults"]
    return found


def seconds_between(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def page(result: dict[str, Any]) -> str:
    rows = [
        [number, r["calm"]["wall_s"], len(r["struck"]["faults"]), r["struck"]["wall_s"], r["ratio"]]
        for number, r in enumerate(result["rounds"])
    ]
    ratio = statistics.median(r["ratio"] for r in result["rounds"])
    return (
        "# A run with faults\n\n"
        f"The default run, {result['steps']} steps, one kill -9 every {result['every']} over {ROLES}, against none; "
        f"{result['machine']}, commit {result['commit']}, seeds from {result['seed']}. Median ratio {ratio:.2f}, limit "
        f"{LIMIT}: {verdict(ratio, LIMIT)}. Digests were equal in each round. Every value is in "
        "[faults.json](faults.json), how it was made in [faults.py](../faults.py).\n\n"
        + table(["round", "without s", "faults", "with s", "ratio"], rows)
    )


if __name__ == "__main__":
    main()
