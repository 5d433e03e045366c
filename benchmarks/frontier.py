"""The frontier: loss against bytes over local steps, density, bits, merges and outer steps; in one process.

    python benchmarks/frontier.py baseline             one sweep of the table below; several may run side by side
    python benchmarks/frontier.py --point '{"method": "local", "local_steps": 5, "lr": 0.004}'

Simulates R = 4 workers and two servers with the real codecs; every method sees the same samples in the same order.

- `ddp`: what PyTorch's DDP computes: the gradient of all R units, clipped, AdamW or Muon.
- `step`: units on x̂, clipped gradients pushed, AdamW on the servers, a delta down: `sync`, or `delayed` (`lag`).
- `local`: H steps of AdamW or Muon from x̂ a worker (moments and residual its own), the difference pushed, SGD on the
  servers (Nesterov where it has momentum), a delta down. Merged by γ: Σ w Δ R / (n^γ R^(1-γ)).
- `async`: workers of given speeds, units counted by staleness, servers that step when enough are there (`racing.py`).

Bytes are lengths of frames, R pushes up and R pulls down a round; dense is 4 bytes a parameter for each of 2 R a step.
The learning rate has one grid for all methods. Every run ends after the same number of samples, with the same
schedule. Results: benchmarks/results/frontier.jsonl, a line a run; runs that are in it already are not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.figures import RESULTS, about
from benchmarks.one_process import Model, adamw
from benchmarks.points import SMALL, SWEEPS, Point
from benchmarks.racing import Race
from benchmarks.servers import (
    BETA2,
    CLIP_NORM,
    WEIGHT_DECAY,
    Servers,
    own_optimizer,
    set_rate,
    share_of_peak,
)
from benchmarks.streams import Stream
from sparsync.lm.corpus import prepare
from wire.codec.base import Plane
from worker.foresight import Course, Foresight

WINDOWS = 512
"""Held-out windows: 32,768 tokens."""
CURVE_EVERY = 300
STORE = RESULTS / "frontier.jsonl"


class Lagging:
    """What units are computed on: x̂ `lag` versions ago.

    Attributes:
        before: the version before that.
    """

    def __init__(self, published: Plane, lag: int) -> None:
        self._published = published
        self._old = [published.copy() for _ in range(lag)]
        self.before = published.copy()

    @property
    def base(self) -> Plane:
        return self._old[0] if self._old else self._published

    def publish_over(self) -> None:
        """x̂ is about to move."""
        if self._old:
            self.before = self._old[0]
            self._old = [*self._old[1:], self._published.copy()]


def run_ddp(point: Point, model: Model, measure: Any) -> Servers | None:
    optimizer = own_optimizer(point, model)
    for step in range(point.work.steps):
        model.backward(step * point.streams, units=point.streams, clip_norm=CLIP_NORM)
        set_rate(optimizer, point.lr * share_of_peak(step, point))
        optimizer.step()
        measure(step + 1)
    return None


def run_step(point: Point, model: Model, measure: Any) -> Servers:
    servers = Servers(point, model)
    states = [{name: model.plane() for name in servers.push.state_planes} for _ in range(point.streams)]
    optimizer = adamw(
        model, servers.x, servers.move, lr=point.lr, betas=(point.beta1, BETA2), weight_decay=WEIGHT_DECAY
    )
    view = Lagging(model.published, point.lag)
    momentum = np.full(model.layout.blocks, point.beta1, np.float32)
    foresight = Foresight(servers.push, model.shards, momentum=momentum, weight=point.ahead)
    courses = [Course.of(b"", blocks=model.layout.blocks) for _ in states]
    ahead = model.plane()
    for step in range(point.work.steps):
        for stream, state in enumerate(states):
            model.bind(view.base)
            if point.ahead and step:
                before = view.before if step > 1 else None
                courses[stream] = foresight.look(courses[stream], view.base, before, ahead)
                ahead += view.base
                model.bind(ahead)
            unit = step * point.streams + stream
            model.backward(unit, clip_norm=CLIP_NORM)
            frames = servers.take(model.gradient, state, unit)
            courses[stream] = courses[stream].sent(frames)
        servers.gather()
        set_rate(optimizer, point.lr * share_of_peak(step, point))
        optimizer.step()
        view.publish_over()
        servers.publish()
        measure(step + 1)
    return servers


def run_local(point: Point, model: Model, measure: Any) -> Servers:
    servers = Servers(point, model)
    streams = [Stream(point, model, servers) for _ in range(point.streams)]
    velocity = model.plane() if point.momentum else None
    view = Lagging(model.published, point.lag)
    for number, first in enumerate(range(0, point.work.steps, point.local_steps)):
        last = min(first + point.local_steps, point.work.steps)
        base = view.base.copy()
        for index, stream in enumerate(streams):
            update = stream.work(base, index, first, last)
            servers.take(update, stream.state, number * point.streams + index)
        servers.x -= np.float32(point.alpha) * outer(servers.gather(), velocity, point.momentum)
        view.publish_over()
        servers.publish()
        measure(last)
    return servers


def outer(move: Plane, velocity: Plane | None, momentum: float) -> Plane:
    """Nesterov as torch.optim.SGD has it."""
    if velocity is None:
        return move
    velocity *= np.float32(momentum)
    velocity += move
    return move + np.float32(momentum) * velocity


def run_async(point: Point, model: Model, measure: Any) -> Servers:
    servers = Servers(point, model)
    Race(point, model, servers).run(measure)
    return servers


METHODS = {"ddp": run_ddp, "step": run_step, "local": run_local, "async": run_async}


def run(point: Point) -> dict[str, Any]:
    """The result of one point."""
    text = prepare("stdlib")
    model = Model(point.work, text, seed=point.seed, windows=WINDOWS)
    curve: list[tuple[int, float]] = []
    seen = 0

    def measure(step: int) -> None:
        nonlocal seen
        if step // CURVE_EVERY > seen and step < point.work.steps:
            seen = step // CURVE_EVERY
            model.bind(model.published)
            curve.append((step, model.loss()))

    began = time.perf_counter()
    servers = METHODS[point.method](point, model, measure)
    took = time.perf_counter() - began
    model.bind(model.published)
    result = {
        "loss": model.loss(),
        "curve": curve,
        "wall_s": round(took, 1),
        "parameters": model.layout.numel,
        "data_digest": text.digest,
    }
    dense = 2 * 4 * model.layout.numel * point.streams * point.work.steps
    if servers is None:
        return {**result, "bytes": dense, "ratio": 1.0}
    moved = servers.pushed + servers.readers * servers.pulled
    model.published[:] = servers.x
    shares = {"pushed": servers.pushed, "pulled": servers.readers * servers.pulled}
    units = point.streams * math.ceil(point.work.steps / point.local_steps)
    stale = servers.behind / units / point.streams
    return {
        **result,
        "loss_x": model.loss(),
        "bytes": moved,
        "ratio": dense / moved,
        **shares,
        "stale_steps": stale,
    }


# --- results ----------------------------------------------------------------------------------


class Store:
    """Runs by their points, a line each, in a file that several processes append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def measured(self, point: Point) -> bool:
        return any(Point.of(run["point"]) == point for run in self.runs())

    def add(self, point: Point, result: dict[str, Any]) -> None:
        self.path.parent.mkdir(exist_ok=True)
        line = json.dumps({"point": asdict(point), **result, **about()})
        with self.path.open("a") as file:
            file.write(line + "\n")


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With what `complete` takes."""
    parser.add_argument("--part", default="0/1", help="I/N: every Nth point, from the Ith on")
    parser.add_argument("--seeds", default="0", help="each point with each of them")
    parser.add_argument("--lrs", help="only points at these learning rates")
    parser.add_argument("--store", type=Path, default=STORE)
    return parser


def complete(points: Iterable[Point], chosen: argparse.Namespace) -> None:
    """Run those of the points that were chosen and are not in the store yet."""
    torch.set_num_threads(1)
    store = Store(chosen.store)
    lrs = tuple(map(float, chosen.lrs.split(","))) if chosen.lrs else ()
    tuned = [point for point in points if not lrs or point.lr in lrs]
    seeded = [replace(point, seed=int(seed)) for seed in chosen.seeds.split(",") for point in tuned]
    part, parts = map(int, chosen.part.split("/"))
    for point in seeded[part::parts]:
        if store.measured(point):
            continue
        result = run(point)
        store.add(point, result)
        print(f"{result['loss']:.4f} {result['ratio']:8.1f}x {result['wall_s']:6.0f} s  {point}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", nargs="*", choices=[*SWEEPS, []])
    parser.add_argument("--point", action="append", default=[], type=json.loads)
    parser.add_argument("--small", action="store_true", help="a small model and few steps, to find one's way")
    chosen = options(parser).parse_args()
    points = [point for name in chosen.sweep for point in SWEEPS[name]()]
    points += [Point.of(raw) for raw in chosen.point]
    complete((replace(point, work=SMALL) if chosen.small else point for point in points), chosen)


if __name__ == "__main__":
    main()
