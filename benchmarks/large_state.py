"""How long a server with a large state takes to serve again after `kill -9`, a GB of state.

    python benchmarks/large_state.py [--width 5120] [--n 5] [--seed 0]

One shard that holds two square layers of that width with AdamW's moments and the streams' deposits; one worker. The
server is killed at a random moment and started again at once, as by a service manager. *Recovered*: from its log, image
and tail read and applied. *Goes on*: from the kill to the first close after it, starting Python and joining included.
The state is what its newest image holds. Writes benchmarks/results/large_state.{json,md}.
"""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.figures import about, distribution, table, verdict, write
from benchmarks.recovery import SCRIPT, first_close, time_to_start

LIMIT_S_A_GB = 10.0
BEGIN_S = 300.0
SETTINGS = {
    "run.steps": 10_000_000,
    "cluster.servers": 1,
    "cluster.workers": 1,
    "sync.units_per_step": 1,
    "durability.stream_state_every": 8,
}
RECOVERED = re.compile(r"recovered shard .* ([\d.]+) s$", re.MULTILINE)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--width", type=int, default=5120)
    options.add_argument("--n", type=int, default=5, help="kills")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    chosen = options.parse_args()
    draw = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), SETTINGS) as cluster:
        cluster.start_server("ps-0")
        cluster.start_worker("worker-0", [SCRIPT, "worker-0", directory, "--width", str(chosen.width)])
        cluster.wait_for_closes(2, limit_s=BEGIN_S)
        kills = [one_kill(cluster, Path(directory), draw) for _ in range(chosen.n)]
        ended = cluster.end()
    result = about(width=chosen.width, seed=chosen.seed, kills=kills, end=ended)
    write("large_state", result, page(result))
    print(page(result))


def one_kill(cluster: Cluster, directory: Path, draw: random.Random) -> dict[str, Any]:
    cluster.wait_for_closes(draw.randrange(2, 12), limit_s=BEGIN_S)
    time.sleep(draw.uniform(0.0, 1.0))
    log = directory / "ps-0.log"
    known = len(RECOVERED.findall(log.read_text()))
    at = cluster.signal("ps-0", signal.SIGKILL)
    cluster.remove("ps-0")
    gb = max(image.stat().st_size for image in (directory / "ps-0").glob("snapshots/*.image")) / 1e9
    cluster.start_server("ps-0")
    moved = cluster.wait_for("moved", lambda e: e["at"] > at, limit_s=BEGIN_S)
    goes_on_s = first_close(cluster, moved["at"]) - at
    recovered_s = float(RECOVERED.findall(log.read_text())[known])
    found = {"state_gb": gb, "recovered_s": recovered_s, "goes_on_s": goes_on_s, "start_s": time_to_start()}
    print(", ".join(f"{key} {value:.2f}" for key, value in found.items()), file=sys.stderr)
    return {**found, "recovered_s_a_gb": recovered_s / gb, "goes_on_s_a_gb": goes_on_s / gb}


def page(result: dict[str, Any]) -> str:
    rows = []
    for key in ("state_gb", "recovered_s", "goes_on_s", "start_s", "recovered_s_a_gb", "goes_on_s_a_gb"):
        spread = distribution(kill[key] for kill in result["kills"])
        judged = [LIMIT_S_A_GB, verdict(spread["max"], LIMIT_S_A_GB)] if key == "goes_on_s_a_gb" else ["", ""]
        rows.append([f"`{key}`", *spread.values(), *judged])
    return (
        "# A server with a large state, killed and started again\n\n"
        f"Two layers of {result['width']} x {result['width']}, AdamW, one shard, one worker; {result['machine']}, "
        f"commit {result['commit']}, seed {result['seed']}. Every value is in [large_state.json](large_state.json), "
        "how it was made in [large_state.py](../large_state.py).\n\n"
        + table(["figure", "n", "min", "median", "p90", "max", "limit", ""], rows)
    )


if __name__ == "__main__":
    main()
