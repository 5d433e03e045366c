"""What an image of a live server costs: how much longer steps take while one is taken and written.

    python benchmarks/snapshots.py [--steps 300] [--eager-s 0.4]

The default run, its two servers made to take images far more often than they would (scripts/eager_server.py). A step
during which an image was taken is compared with the steps around it, all of one run. An image is seen from
outside: its file is there while it is written; copying the state in memory, which comes before, is counted to it by
`COPY_S`. `share_of_a_run` is what images add to a run whose servers take them when they would: the added seconds over
the time between two images, which is by applying records (ps/archive.py).
Writes benchmarks/results/snapshots.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.figures import ROOT, about, table, verdict, write
from ps.archive import REPLAY_S, REPLAY_S_A_GB

SERVERS = WORKERS = 2
COPY_S = 0.1
POLL_S = 0.002
LIMIT = 1.05
WARM_UP = 20


class Watch(threading.Thread):
    """When image files were being written: (begin, end) in wall-clock seconds."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory = directory
        self.over = False
        self.spans: list[tuple[float, float]] = []

    def run(self) -> None:
        since: dict[Path, float] = {}
        while not self.over:
            now, partial = time.time(), set(self._directory.glob("ps-*/snapshots/*.partial"))
            for path in partial - since.keys():
                since[path] = now
            for path in since.keys() - partial:
                self.spans.append((since.pop(path), now))
            time.sleep(POLL_S)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--eager-s", type=float, default=0.4)
    chosen = options.parse_args()
    settings = {"run.steps": chosen.steps, "run.eval_every": 0}
    server = [str(ROOT / "benchmarks" / "scripts" / "eager_server.py"), str(chosen.eager_s)]
    with tempfile.TemporaryDirectory() as directory, Cluster(Path(directory), settings) as cluster:
        for number in range(SERVERS):
            cluster.start_server(f"ps-{number}", program=server)
        watch = Watch(Path(directory))
        watch.start()
        for number in range(WORKERS):
            cluster.start_worker(f"worker-{number}", [])
        cluster.wait_for_closes(chosen.steps - 1, limit_s=30.0 + 2.0 * chosen.steps)
        watch.over = True
        closes = [event["at"] for event in cluster.events("step")][WARM_UP:]
        state_bytes = max(path.stat().st_size for path in Path(directory).glob("ps-*/snapshots/*.image"))
    found = compare(closes, watch.spans)
    due_s = REPLAY_S + REPLAY_S_A_GB * state_bytes / 1e9
    between_s = (closes[-1] - closes[0]) / (found["images"] / SERVERS) * due_s / chosen.eager_s
    added_s = statistics.fmean(found["with_image"]) - statistics.fmean(found["without"])
    result = about(steps=chosen.steps, **found, state_bytes=state_bytes, share_of_a_run=added_s / between_s)
    write("snapshots", result, page(result))
    print(page(result))


def compare(closes: list[float], spans: list[tuple[float, float]]) -> dict[str, Any]:
    """Durations of steps with and without an image in them, and the ratio of their means and medians."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for began, ended in itertools.pairwise(closes):
        found[any(a - COPY_S < ended and b > began for a, b in spans)].append(ended - began)
    with_image, without = found[True], found[False]
    return {
        "images": len(spans),
        "image_s": statistics.median(b - a for a, b in spans),
        "with_image": with_image,
        "without": without,
        "ratio_of_medians": statistics.median(with_image) / statistics.median(without),
        "ratio_of_means": statistics.fmean(with_image) / statistics.fmean(without),
    }


def page(result: dict[str, Any]) -> str:
    rows = [
        [name, len(values), statistics.median(values), statistics.fmean(values)]
        for name, values in (("with an image", result["with_image"]), ("without", result["without"]))
    ]
    ratios = [
        [name, f"{result[key]:.3f}", LIMIT, verdict(result[key], LIMIT)]
        for name, key in (("medians", "ratio_of_medians"), ("means", "ratio_of_means"))
    ]
    ratios.append(
        [
            "a whole run",
            f"{1 + result['share_of_a_run']:.4f}",
            LIMIT,
            verdict(1 + result["share_of_a_run"], LIMIT),
        ]
    )
    return (
        "# Images of a live server\n\n"
        f"The default run, {result['steps']} steps, {result['images']} images of its two servers, each written within "
        f"{result['image_s']:.3f} s (median); {result['machine']}, commit {result['commit']}. Every value is in "
        "[snapshots.json](snapshots.json), how it was made in [snapshots.py](../snapshots.py).\n\n"
        + table(["steps", "n", "median s", "mean s"], rows)
        + "\n"
        + table(["ratio of", "", "limit", ""], ratios)
    )


if __name__ == "__main__":
    main()
