"""How soon a lost worker is noticed, and how long the others wait for it; n faults of each kind in real processes.

    python benchmarks/detection.py [--n 20] [--seed 0] [--kinds killed stopped silent]

- killed: `kill -9` of the worker. Its heartbeat process is left to end by itself.
- stopped: SIGSTOP of the worker and its heartbeat, as when the machine stops.
- silent: all its connections, to the coordinator and to the servers, stop forwarding without being closed
  (sparsync/faults), as when its network is gone.

A coordinator, 2 servers and 3 workers. One is lost at a random moment of its heartbeat's period, then, once the
run goes on, a second one; then two others take their places (loading torch takes longer than all the rest).
*Noticed*: from the fault to the coordinator's `died` event. *Stall*: the longest time between two closes of steps,
from the last one before the fault to the fifth after `died`; so it holds the heirs' replay, and a step of units.
Writes benchmarks/results/detection.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster, free_address
from benchmarks.figures import ROOT, about, distribution, table, verdict, write
from sparsync.faults.background import ProxyThread

SCRIPT = ROOT / "benchmarks" / "scripts" / "steady.py"
SETTINGS = {"run.steps": 10_000_000}
SERVERS, WORKERS = 2, 3
UNIT_S = 0.02
WARM_UP_CLOSES = 10
CLOSES_AFTER = 5
NOTICED_S = {"killed": 1.0, "stopped": 5.0, "silent": 5.0}
STALL_S = 7.0
"""Beside one unit."""
GIVE_UP_S = 30.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--n", type=int, default=20, help="faults of each kind")
    options.add_argument("--seed", type=int, default=0, help="of who is lost, and when")
    options.add_argument("--kinds", nargs="+", choices=tuple(NOTICED_S), default=list(NOTICED_S))
    chosen = options.parse_args()
    result: dict[str, Any] = about(seed=chosen.seed, unit_s=UNIT_S, servers=SERVERS, workers=WORKERS)
    draw = random.Random(chosen.seed)
    direct = [kind for kind in chosen.kinds if kind != "silent"]
    result["kinds"] = measure(direct, chosen.n, draw, proxy=None) if direct else {}
    if "silent" in chosen.kinds:
        proxy = ProxyThread()
        try:
            result["kinds"] |= measure(["silent"], chosen.n, draw, proxy=proxy)
        finally:
            proxy.close()
    write("detection", result, page(result))
    print(page(result))


# --- measuring ---------------------------------------------------------------------------


def measure(
    kinds: Sequence[str], n: int, draw: random.Random, *, proxy: ProxyThread | None
) -> dict[str, Any]:
    """All faults of these kinds in one run; figures by kind."""
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), SETTINGS) as cluster:
        site = Site(cluster, Path(directory), proxy)
        found = {kind: [one_fault(site, kind, draw) for _ in range(n)] for kind in kinds}
        steps = [e["at"] for e in cluster.events("step")]
        ended = cluster.end()
    return {kind: figures(faults, steps) | {"end": ended} for kind, faults in found.items()}


class Site:
    """The run, its workers by running number, and the ways to lose one."""

    def __init__(self, cluster: Cluster, directory: Path, proxy: ProxyThread | None) -> None:
        self.cluster = cluster
        self._directory = directory
        self._proxy = proxy
        self._numbers = itertools.count()
        self._coordinator = proxy.forward(cluster.address) if proxy else None
        self.faults: dict[str, Callable[[str], float]] = {
            "killed": self._kill,
            "stopped": lambda name: cluster.signal(name, signal.SIGSTOP),
            "silent": self._silence,
        }
        for number in range(SERVERS):
            self._start_server(f"ps-{number}")
        self.fill()

    def _start_server(self, name: str) -> None:
        listen = free_address()
        self.cluster.start_server(
            name, listen=listen, advertise=self._proxy.forward(listen) if self._proxy else None
        )

    def fill(self) -> None:
        """Start what is missing of the workers, and wait until each carries a stream."""
        missing = WORKERS - len(self.cluster.carriers())
        names = {self._start_worker() for _ in range(missing)}
        for name in names:
            self.cluster.wait_for("assigned", lambda e, name=name: e["worker"] == name)  # type: ignore[misc]

    def _start_worker(self) -> str:
        name = f"worker-{next(self._numbers)}"
        script: list[str | Path] = [SCRIPT, name, self._directory, "--unit-s", str(UNIT_S)]
        self.cluster.start_worker(name, script, coordinator=self._coordinator)
        return name

    def _kill(self, name: str) -> float:
        at = time.time()
        os.kill(self.cluster.pid(name), signal.SIGKILL)
        return at

    def _silence(self, name: str) -> float:
        assert self._proxy is not None
        at = time.time()
        self._proxy.silence(self.cluster.pid(name))
        return at


def one_fault(site: Site, kind: str, draw: random.Random) -> dict[str, Any]:
    """Lose a worker and see what follows."""
    cluster = site.cluster
    if len(cluster.carriers()) == 1:
        site.fill()
    cluster.wait_for_closes(WARM_UP_CLOSES)
    time.sleep(draw.uniform(0.0, 1.0))
    name = draw.choice(cluster.carriers())
    deaths = len(cluster.events("died"))
    at = site.faults[kind](name)
    died = cluster.wait_for("died", after=deaths, limit_s=GIVE_UP_S)
    if died["name"] != name:
        raise RuntimeError(f"{died['name']} died ({died['reason']}), expected {name}:\n{cluster.story()}")
    before = sum(e["at"] <= died["at"] for e in cluster.events("step"))
    cluster.wait_for("step", after=before + CLOSES_AFTER - 1)
    closes = [e["at"] for e in cluster.events("step")][: before + CLOSES_AFTER]
    cluster.remove(name)
    fault = {
        "worker": name,
        "noticed_s": round(died["at"] - at, 3),
        "stall_s": round(longest_stall(closes, at), 3),
        "reason": died["reason"],
        "streams": died["streams"],
    }
    print(f"{kind}: noticed {fault['noticed_s']:.2f} s, stall {fault['stall_s']:.2f} s", file=sys.stderr)
    return fault


def longest_stall(closes: Sequence[float], fault: float) -> float:
    """The longest time between two closes, from the last one before the fault on.

    Raises: ValueError where none stands before it, or none after.
    """
    before = [c for c in closes if c <= fault]
    after = [c for c in closes if c > fault]
    if not before or not after:
        raise ValueError(
            f"{len(before)} closes before the fault and {len(after)} after; expected at least one"
        )
    return max(b - a for a, b in itertools.pairwise([before[-1], *after]))


def figures(faults: Sequence[dict[str, Any]], steps: Sequence[float]) -> dict[str, Any]:
    """What a kind's faults come to. `step_s`: the median time between two closes of the whole run."""
    return {
        "noticed_s": distribution(f["noticed_s"] for f in faults),
        "stall_s": distribution(f["stall_s"] for f in faults),
        "step_s": round(statistics.median(b - a for a, b in itertools.pairwise(steps)), 4),
        "faults": list(faults),
    }


# --- telling -----------------------------------------------------------------------------


def page(result: dict[str, Any]) -> str:
    rows = [
        row(kind, name, found) for kind, found in result["kinds"].items() for name in ("noticed_s", "stall_s")
    ]
    return (
        "# Lost workers: noticed when, waited for how long\n\n"
        f"{result['servers']} servers, {result['workers']} workers, units of {result['unit_s']:g} s; "
        f"{result['machine']}, commit {result['commit']}, seed {result['seed']}. Seconds; every value is in "
        "[detection.json](detection.json), how it was made in [detection.py](../detection.py).\n\n"
        + table(["lost by", "figure", "n", "min", "median", "p90", "max", "limit", ""], rows)
    )


def row(kind: str, name: str, found: dict[str, Any]) -> list[object]:
    values = found[name]
    limit = NOTICED_S[kind] if name == "noticed_s" else STALL_S + UNIT_S
    words = {"noticed_s": "until noticed", "stall_s": "longest stall"}
    return [kind, words[name], *values.values(), limit, verdict(values["max"], limit)]


if __name__ == "__main__":
    main()
