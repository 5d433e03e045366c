"""The frontier as a page and a plot: benchmarks/results/frontier.{md,svg} from the runs in frontier.jsonl.

    python -m benchmarks.frontier_page

A method's learning rate is the one with the lowest loss at seed 0; its figures are means over all seeds at that rate.
A gap is against DDP with AdamW or with Muon, tuned the same way, over the same seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.figures import RESULTS, table
from benchmarks.frontier import STORE, Store
from benchmarks.points import WORK, Codec, Point
from sparsync.drawing import PALETTE, Frame, axes, document, dot, legend

Run = Mapping[str, Any]
HEADER = (
    "method",
    "up",
    "down",
    "merge and outer step",
    "lr",
    "of",
    "seeds",
    "loss x̂",
    "±",
    "against DDP, AdamW",
    "Muon",
    "fewer bytes",
)
HIGHEST_GAP = 0.15
"""What is worse than this is in the table, not in the plot."""


@dataclass(frozen=True)
class Row:
    """A method at the best of its learning rates: losses by seed."""

    point: Point
    losses: Mapping[int, float]
    ratio: float
    rates: tuple[float, ...]

    @property
    def loss(self) -> float:
        return statistics.fmean(self.losses.values())

    def gap(self, baseline: Row) -> float | None:
        """Share by which the loss is above the baseline's, over the seeds of both."""
        seeds = self.losses.keys() & baseline.losses.keys()
        if not seeds:
            return None
        ours, theirs = (statistics.fmean(row.losses[s] for s in seeds) for row in (self, baseline))
        return ours / theirs - 1.0


def rows(runs: Iterable[Run]) -> list[Row]:
    """One for each method, tuned."""
    methods: dict[Point, list[tuple[Point, Run]]] = {}
    for run in runs:
        point = Point.of(run["point"])
        methods.setdefault(replace(point, lr=0.0, seed=0), []).append((point, run))
    return [tuned(found) for found in methods.values()]


def tuned(found: Sequence[tuple[Point, Run]]) -> Row:
    first = [(point, run["loss"]) for point, run in found if point.seed == 0]
    best, _ = min(first, key=lambda pair: pair[1] if math.isfinite(pair[1]) else math.inf)
    of_best = [(point.seed, run) for point, run in found if point.lr == best.lr]
    tried = tuple(sorted({point.lr for point, _ in found}))
    return Row(best, {seed: run["loss"] for seed, run in of_best}, of_best[0][1]["ratio"], tried)


def method(point: Point) -> str:
    optimizer = ", Muon" if point.optimizer == "muon" else ""
    differs = f", R = {point.streams}" if point.streams != 4 else ""
    differs += f", warm-up {point.warmup}" if point.warmup != 100 else ""
    differs += "" if point.remembers else ", deltas forget"
    differs += "" if point.returns else ", nothing returns"
    if point.method == "ddp":
        return f"DDP{optimizer}{differs}"
    if point.method == "local":
        return f"local{optimizer}, H = {point.local_steps}{differs}"
    if point.method == "async":
        alike = len(set(point.speeds)) == 1
        speeds = f"speeds {':'.join(f'{speed:g}' for speed in point.speeds)}"
        network = ", over a network" if point.late else ""
        network += f", on from {'' if point.own == 1 else f'{point.own:g} '}own pushes" if point.own else ""
        steps = f"{optimizer}, H = {point.local_steps}" if point.local_steps > 1 else ""
        return f"async{steps}, {f'{len(point.speeds)} workers' if alike else speeds}{network}{differs}"
    return f"delayed{differs}" if point.lag else f"sync{differs}"


def family(point: Point) -> str:
    """What has a colour: a method by whatever H, speeds and warm-up."""
    return method(point).partition(", H =")[0].partition(", speeds")[0].partition(", R =")[0]


def codec(one: Codec) -> str:
    kept = "" if one.density == 1.0 else f"{one.density * 4096:.0f} of 4,096, "
    memory = {"none": "", "ef": ", EF", "ef21": ", EF21"}[one.feedback]
    coarse = f" coarse {one.coarse:g}" if one.coarse != 1.0 else ""
    return f"{kept}{one.values}{coarse}{memory}" + (f", β {one.decay:g}" if one.decay != 1.0 else "")


def outer(point: Point) -> str:
    if point.method != "local" and point.local_steps == 1:
        return f"β1 {point.beta1:g}" + (f", {point.ahead:g} ahead" if point.ahead else "")
    momentum = f", Nesterov {point.momentum:g}" if point.momentum else ""
    ahead = f", {point.ahead:g} ahead" if point.ahead else ""
    return f"γ {point.gamma:g}, α {point.alpha:g}{momentum}{ahead}"


def cells(row: Row, baselines: Sequence[Row]) -> list[object]:
    point = row.point
    gaps = ["" if (gap := row.gap(baseline)) is None else f"{gap:+.2%}" for baseline in baselines]
    spread = f"{statistics.stdev(row.losses.values()):.4f}" if len(row.losses) > 1 else ""
    return [
        *(method(point), codec(point.up), codec(point.down), outer(point), f"{point.lr:g}"),
        *(", ".join(f"{rate:g}" for rate in row.rates), len(row.losses)),
        *(f"{row.loss:.4f}", spread, *gaps, f"{row.ratio:.4g}"),
    ]


def page(found: Sequence[Row], baselines: Sequence[Row], about: Mapping[str, Any]) -> str:
    work = WORK
    ordered = sorted(found, key=lambda row: row.loss)
    return (
        "# The frontier: loss against bytes\n\n"
        f"{about['parameters']:,} parameters ({work.layers} layers, width {work.width}), {work.steps:,} steps of 4 "
        f"units of {work.batch_size} x {work.seq_len} bytes of text; data {about['data_digest'][:12]}. "
        f"{about['machine']}. `python -m benchmarks.frontier SWEEP`, every figure in "
        "[frontier.jsonl](frontier.jsonl); how busy the machine was plays no part.\n\n"
        "Loss is on 32,768 held-out bytes, on the published model. Bytes are of frames, both ways, against dense fp32. "
        "Each method at the best of the learning rates that it was run at, by seed 0 and the same held-out bytes.\n\n"
        "![loss against bytes](frontier.svg)\n\n" + table(HEADER, (cells(row, baselines) for row in ordered))
    )


def plot(found: Sequence[Row], baselines: Sequence[Row]) -> str:
    names = sorted({family(row.point) for row in found})
    colours = dict(zip(names, PALETTE * 2, strict=False))
    places = [
        ((math.log10(row.ratio), 100 * gap), row)
        for row in found
        if (gap := row.gap(baselines[0])) is not None and gap <= HIGHEST_GAP
    ]
    frame = Frame.around([place for place, _ in places])
    body = axes(
        frame,
        x="fewer bytes than dense fp32, both ways",
        y="loss above that of DDP with AdamW, %",
        x_text=lambda power: f"{float(f'{10**power:.3g}'):,g}x",
    )
    body += [
        dot(frame, place, colours[family(row.point)], " · ".join(map(str, cells(row, baselines))))
        for place, row in places
    ]
    return document("Loss against bytes", [*body, *legend((name, colours[name]) for name in names)])


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    runs = Store(STORE).runs()
    found = [row for row in rows(runs) if row.point.work == WORK and row.point.remembers]
    baselines = sorted((r for r in found if r.point.method == "ddp"), key=lambda row: row.point.optimizer)
    (RESULTS / "frontier.md").write_text(page(found, baselines, runs[0]))
    (RESULTS / "frontier.svg").write_text(plot(found, baselines))
    print(RESULTS / "frontier.md")


if __name__ == "__main__":
    main()
