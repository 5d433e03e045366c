"""How soon a run goes on after a server or the coordinator is lost; n faults of each kind in real processes.

    python benchmarks/recovery.py [--n 30] [--seed 0] [--kinds server failover stopped coordinator]

- server: `kill -9` of a server without a standby, which is started again at once, as a service manager does.
- failover: `kill -9` of a primary with a standby in sync; started again as the standby before the next fault.
- stopped: SIGSTOP of such a primary; it is continued after the failover, and must end by itself with exit code 83.
- coordinator: `kill -9` of the coordinator, which is started again at once.

Two shards, two workers, units of 20 ms, a fault at a random moment. *Goes on*: from the fault to the first close of a
step after it, so all units of the step were accepted by then, by who serves the shards. *Noticed*: to the coordinator's
decision to promote. Starting a process again takes most of the first and the last; `start_s` is how long a Python
takes to import torch on the same machine at the same time. Writes benchmarks/results/recovery.{json,md}.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cluster import SPARSYNC, Cluster, role_environment
from benchmarks.figures import ROOT, about, distribution, table, verdict, write
from wire.errors import StaleIncarnation

SCRIPT = ROOT / "benchmarks" / "scripts" / "steady.py"
SETTINGS = {"run.steps": 10_000_000, "cluster.servers": 2}
SHARDS = WORKERS = 2
UNIT_S = 0.02
WARM_UP_CLOSES = 10
LIMITS = {
    ("server", "goes_on_s"): 5.0,
    ("failover", "goes_on_s"): 8.0,
    ("failover", "after_noticed_s"): 3.0,
    ("stopped", "goes_on_s"): 8.0,
    ("stopped", "after_noticed_s"): 3.0,
    ("coordinator", "goes_on_s"): 5.0,
}
FIGURES = ("noticed_s", "after_noticed_s", "goes_on_s", "start_s")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = list(dict.fromkeys(kind for kind, _ in LIMITS))
    options.add_argument("--n", type=int, default=30, help="faults of each kind")
    options.add_argument("--seed", type=int, default=0, help="of who is lost, and when")
    options.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    chosen = options.parse_args()
    draw = random.Random(chosen.seed)
    found = {kind: measure(kind, chosen.n, draw) for kind in chosen.kinds}
    result = about(seed=chosen.seed, unit_s=UNIT_S, shards=SHARDS, workers=WORKERS, kinds=found)
    write("recovery", result, page(result))
    print(page(result))


# --- measuring ---------------------------------------------------------------------------


def measure(kind: str, n: int, draw: random.Random) -> dict[str, Any]:
    """All faults of a kind in one run."""
    replicas = int(kind in ("failover", "stopped"))
    settings = {**SETTINGS, "durability.replicas": replicas}
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), settings) as cluster:
        for number in range(SHARDS * (1 + replicas)):
            cluster.start_server(f"ps-{number}")
        for number in range(WORKERS):
            name = f"worker-{number}"
            cluster.start_worker(name, [SCRIPT, name, directory, "--unit-s", str(UNIT_S)])
        faults = [one_fault(cluster, kind, draw) for _ in range(n)]
        deaths = sum(e["name"].startswith("worker") for e in cluster.events("died"))
        ended = cluster.end()
    spread = {key: distribution(f[key] for f in faults) for key in FIGURES if key in faults[0]}
    return {**spread, "workers_declared_dead": deaths, "faults": faults, "end": ended}


def one_fault(cluster: Cluster, kind: str, draw: random.Random) -> dict[str, Any]:
    if kind in ("failover", "stopped"):
        wait_for_standbys(cluster)
    cluster.wait_for_closes(WARM_UP_CLOSES)
    time.sleep(draw.uniform(0.0, 1.0))
    fault = FAULTS[kind](cluster, draw)
    start_s = fault["start_s"] = round(time_to_start(), 3)
    told = ", ".join(f"{key} {fault[key]:.2f}" for key in FIGURES if key in fault)
    print(f"{kind}: {told} (a process starts in {start_s:.2f} s)", file=sys.stderr)
    return fault


def lose_server(cluster: Cluster, draw: random.Random) -> dict[str, Any]:
    name = f"ps-{draw.randrange(SHARDS)}"
    at = cluster.signal(name, signal.SIGKILL)
    cluster.remove(name)
    cluster.start_server(name)
    moved = cluster.wait_for("moved", lambda e: e["at"] > at)
    return {"server": name, "goes_on_s": first_close(cluster, moved["at"]) - at}


def lose_primary(cluster: Cluster, draw: random.Random) -> dict[str, Any]:
    name = primary_of(cluster, draw.randrange(SHARDS))
    at = cluster.signal(name, signal.SIGKILL)
    cluster.remove(name)
    fault = taken_over(cluster, name, at)
    cluster.start_server(name)
    return fault


def stop_primary(cluster: Cluster, draw: random.Random) -> dict[str, Any]:
    name = primary_of(cluster, draw.randrange(SHARDS))
    at = cluster.signal(name, signal.SIGSTOP)
    fault = taken_over(cluster, name, at)
    cluster.signal(name, signal.SIGCONT)
    code = cluster.wait_end(name)
    if code != StaleIncarnation.exit_code:
        raise RuntimeError(
            f"{name} ended with {code}, expected {StaleIncarnation.exit_code}:\n{cluster.story()}"
        )
    cluster.start_server(name)
    return fault


def lose_coordinator(cluster: Cluster, draw: random.Random) -> dict[str, Any]:
    at = cluster.signal("coordinator", signal.SIGKILL)
    cluster.restart_coordinator()
    return {"goes_on_s": first_close(cluster, at) - at}


FAULTS: dict[str, Callable[[Cluster, random.Random], dict[str, Any]]] = {
    "server": lose_server,
    "failover": lose_primary,
    "stopped": stop_primary,
    "coordinator": lose_coordinator,
}


def taken_over(cluster: Cluster, name: str, at: float) -> dict[str, Any]:
    promoted = cluster.wait_for("promoted", lambda e: e["at"] > at)["at"]
    goes_on = first_close(cluster, promoted)
    return {
        "server": name,
        "noticed_s": promoted - at,
        "after_noticed_s": goes_on - promoted,
        "goes_on_s": goes_on - at,
    }


def first_close(cluster: Cluster, after: float) -> float:
    return float(cluster.wait_for("step", lambda e: e["at"] > after)["at"])


def wait_for_standbys(cluster: Cluster) -> None:
    """Until every shard has one in sync."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        primaries = [s for s in cluster.status()["servers"] if s["role"] == "primary"]
        if len(primaries) == SHARDS and all(s["in_sync"] for s in primaries):
            return
        time.sleep(0.1)
    raise RuntimeError(f"standbys are not in sync:\n{cluster.story()}")


def primary_of(cluster: Cluster, shard: int) -> str:
    servers = cluster.status()["servers"]
    return str(next(s["name"] for s in servers if s["shard"] == shard and s["role"] == "primary"))


def time_to_start() -> float:
    """Of a Python with torch in it, which every server loads."""
    began = time.monotonic()
    subprocess.run([SPARSYNC[0], "-c", "import torch"], check=True, env=role_environment())
    return time.monotonic() - began


# --- telling -----------------------------------------------------------------------------


def page(result: dict[str, Any]) -> str:
    words = {
        "noticed_s": "until the standby is promoted",
        "after_noticed_s": "from there to the next close",
        "goes_on_s": "until the run goes on",
        "start_s": "`import torch` beside it",
    }
    rows = [
        [kind, words[key], *found[key].values(), *judged(kind, key, found[key]["max"])]
        for kind, found in result["kinds"].items()
        for key in FIGURES
        if key in found
    ]
    dead = sum(found["workers_declared_dead"] for found in result["kinds"].values())
    return (
        "# Lost servers and coordinators: until the run goes on\n\n"
        f"{result['shards']} shards, {result['workers']} workers, units of {result['unit_s']:g} s; "
        f"{result['machine']}, commit {result['commit']}, seed {result['seed']}. Seconds; {dead} workers were declared "
        "dead. Every value is in [recovery.json](recovery.json), how it was made in "
        "[recovery.py](../recovery.py).\n\n"
        + table(["lost", "figure", "n", "min", "median", "p90", "max", "limit", ""], rows)
    )


def judged(kind: str, key: str, worst: float) -> list[object]:
    limit = LIMITS.get((kind, key))
    return ["", ""] if limit is None else [limit, verdict(worst, limit)]


if __name__ == "__main__":
    main()
