"""Whether a worker that lives is ever given up, and whether a deadlocked one is.

    python benchmarks/false_deaths.py [--seconds 600] [--deadlock-only | --holds-only]

- Holds: 3 workers whose script holds the GIL for 4 s about every 20 s, while four busy loops a core compete for
  the processor from before the workers start. Counted: `died` events (none may be), closed steps, and the oldest
  heartbeat that the coordinator's status showed, asked four times a second.
- Deadlock: without the load, one worker's script takes a lock twice. Its heartbeat goes on; the progress timeout
  (8 s here, 60 s by default) must remove it, and the others must go on.

Writes benchmarks/results/false_deaths.{json,md}; what is left out keeps its earlier figures.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.detection import longest_stall
from benchmarks.figures import RESULTS, ROOT, about, distribution, table, write

SCRIPT = ROOT / "benchmarks" / "scripts" / "steady.py"
SETTINGS: dict[str, object] = {"run.steps": 10_000_000}
SERVERS, WORKERS = 2, 3
HOLD_S, HOLD_EVERY_S = 4.0, 20.0
OVERSUBSCRIPTION = 4
LOOK_EVERY_S = 0.25
PROGRESS_TIMEOUT_S = 8.0
CLOSES_AFTER = 20
BEGIN_LIMIT_S = 300.0
"""For three workers to load torch while eight loops a pair of cores compete with them."""
REMOVED_LIMIT_S = 60.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--seconds", type=float, default=600.0, help="how long to hold, from the first step on"
    )
    only = options.add_mutually_exclusive_group()
    only.add_argument("--holds-only", action="store_true")
    only.add_argument("--deadlock-only", action="store_true")
    chosen = options.parse_args()
    path = RESULTS / "false_deaths.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if not chosen.deadlock_only:
        result["holds"] = about() | measure_holds(chosen.seconds)
    if not chosen.holds_only:
        result["deadlock"] = about() | measure_deadlock()
    write("false_deaths", result, page(result))
    print(page(result))


# --- holds of the GIL, under load ----------------------------------------------------------


def measure_holds(seconds: float) -> dict[str, Any]:
    """A run of at least `seconds` after its first steps."""
    with (
        tempfile.TemporaryDirectory() as name,
        busy_loops(OVERSUBSCRIPTION * (os.cpu_count() or 1)) as loops,
        Cluster(Path(name), SETTINGS) as cluster,
    ):
        directory = Path(name)
        start(cluster, directory, "--hold-s", str(HOLD_S), "--hold-every-s", str(HOLD_EVERY_S))
        began = cluster.wait_for("step", limit_s=BEGIN_LIMIT_S)["at"]
        worst, looks = watch(cluster, seconds)
        closes = [e["at"] for e in cluster.events("step")]
        died = list(cluster.events("died"))
        held = holds(directory)
        ended = cluster.end()
    return {
        "seconds": round(closes[-1] - began, 1),
        "busy_loops": loops,
        "died": [{"name": e["name"], "reason": e["reason"]} for e in died],
        "steps": len(closes),
        "longest_between_closes_s": round(longest_stall(closes, began), 3),
        "oldest_beat_s": round(worst, 3),
        "looks": looks,
        "holds_s": distribution(held) if held else {"n": 0},
        "end": ended,
    }


def watch(cluster: Cluster, seconds: float) -> tuple[float, int]:
    """The oldest heartbeat of a worker that any status showed until one died, and how many were looked at."""
    worst, looks, until = 0.0, 0, time.monotonic() + seconds
    while time.monotonic() < until:
        ages = [w["beat_age_s"] for w in cluster.status()["workers"] if w["gone"] is None]
        worst, looks = max([worst, *(age for age in ages if age is not None)]), looks + 1
        if cluster.events("died"):
            print(f"died: {cluster.events('died')[-1]}", file=sys.stderr)
            return worst, looks
        time.sleep(LOOK_EVERY_S)
    return worst, looks


def holds(directory: Path) -> list[float]:
    """Seconds of each hold of the GIL, as the scripts told them."""
    return [
        json.loads(line)["seconds"]
        for path in directory.glob("holds-*.jsonl")
        for line in path.read_text().splitlines()
    ]


@contextmanager
def busy_loops(count: int) -> Iterator[int]:
    """That many processes that compute for nothing, at normal priority."""
    spawning = multiprocessing.get_context("spawn")
    loops = [spawning.Process(target=burn, args=(os.getpid(),), daemon=True) for _ in range(count)]
    try:
        for loop in loops:
            loop.start()
        yield count
    finally:
        for loop in loops:
            if loop.pid is not None:
                loop.kill()
                loop.join()


def burn(parent: int) -> None:
    """Compute until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.getppid() == parent:
        for _ in range(1_000_000):
            pass


# --- a deadlock ----------------------------------------------------------------------------


def measure_deadlock() -> dict[str, Any]:
    """One worker takes a lock twice; when it is removed, and why."""
    settings = {**SETTINGS, "cluster.progress_timeout_s": PROGRESS_TIMEOUT_S, "cluster.straggler_s": 600.0}
    with tempfile.TemporaryDirectory() as name, Cluster(Path(name), settings) as cluster:
        directory = Path(name)
        start(cluster, directory)
        cluster.wait_for_closes(CLOSES_AFTER)
        victim = cluster.carriers()[0]
        told = directory / f"deadlock-{victim}"
        told.touch()
        oldest_beat_s, _ = watch(cluster, REMOVED_LIMIT_S)
        died = cluster.wait_for("died", limit_s=LOOK_EVERY_S)
        before = sum(e["at"] <= died["at"] for e in cluster.events("step"))
        cluster.wait_for("step", after=before + CLOSES_AFTER - 1)
        closes = [e["at"] for e in cluster.events("step")]
        since = float(told.read_text())
        cluster.remove(victim)
        ended = cluster.end()
    return {
        "progress_timeout_s": PROGRESS_TIMEOUT_S,
        "right_one": died["name"] == victim,
        "reason": died["reason"],
        "removed_s": round(died["at"] - since, 3),
        "stall_s": round(longest_stall(closes, since), 3),
        "oldest_beat_s": round(oldest_beat_s, 3),
        "end": ended,
    }


# --- both ----------------------------------------------------------------------------------


def start(cluster: Cluster, directory: Path, *arguments: str) -> None:
    """Servers, and workers that run the script with these arguments."""
    for number in range(SERVERS):
        cluster.start_server(f"ps-{number}")
    for number in range(WORKERS):
        name = f"worker-{number}"
        cluster.start_worker(name, [SCRIPT, name, directory, *arguments])
    for number in range(WORKERS):
        name = f"worker-{number}"
        cluster.wait_for("assigned", lambda e, name=name: e["worker"] == name, limit_s=BEGIN_LIMIT_S)  # type: ignore[misc]


def page(result: dict[str, Any]) -> str:
    """Both parts, or the one there is."""
    text = "# False deaths, and a true one\n\nEvery value: [false_deaths.json](false_deaths.json); how it was made: "
    text += "[false_deaths.py](../false_deaths.py).\n"
    if held := result.get("holds"):
        rows = [
            ["died (none may be)", len(held["died"])],
            ["seconds", held["seconds"]],
            [
                "holds of the GIL",
                f"{held['holds_s']['n']}, the longest {held['holds_s'].get('max', 0):.1f} s",
            ],
            ["steps closed", held["steps"]],
            ["longest between two closes, s", held["longest_between_closes_s"]],
            ["oldest heartbeat seen, s (given up at 5)", held["oldest_beat_s"]],
        ]
        text += f"\n## Holds of the GIL, {held['busy_loops']} busy loops\n\n{origin(held)}\n\n"
        text += table(["", "found"], rows)
    if locked := result.get("deadlock"):
        rows = [
            ["removed", f"{'the right one' if locked['right_one'] else 'ANOTHER ONE'}: {locked['reason']}"],
            ["after, s", locked["removed_s"]],
            ["limit, s", locked["progress_timeout_s"]],
            ["oldest heartbeat until then, its own too, s", locked["oldest_beat_s"]],
            ["longest between two closes, s", locked["stall_s"]],
        ]
        text += f"\n## A deadlock\n\n{origin(locked)}\n\n{table(['', 'found'], rows)}"
    return text


def origin(part: dict[str, Any]) -> str:
    return f"{SERVERS} servers, {WORKERS} workers; {part['machine']}, commit {part['commit']}."


if __name__ == "__main__":
    main()
