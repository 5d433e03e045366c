"""The loss of a run as an SVG file (`sparsync.drawing`).

`read_losses` gathers the curves from events.jsonl; a resume that goes back to an older step replaces
what came after it. `loss_svg` draws: the training loss as a thin line with a smooth one over it, the
validation losses as dots. Long runs are thinned to `MAX_POINTS` means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparsync.drawing import Frame, Point, axes, document, dot, legend, line, note

MAX_POINTS = 600
SMOOTHING_SHARE = 0.04
"""Share of the points over which the smooth line averages."""

TRAIN, SMOOTH = "#9db7d5", "#1f5fa8"
MODEL_COLOURS = {"published": "#d1495b", "x": "#2e8b57"}
MODEL_NAMES = {"published": "validation (published model)", "x": "validation (servers' x)"}


@dataclass
class Losses:
    """Losses by step: of training, and of each evaluated model."""

    train: dict[int, float] = field(default_factory=dict)
    evaluated: dict[str, dict[int, float]] = field(default_factory=dict)


def read_losses(events: Iterable[Mapping[str, Any]]) -> Losses:
    """The curves in a run's events; values that are not finite are left out."""
    losses = Losses()
    for event in events:
        step, loss = event.get("step"), event.get("loss")
        if not isinstance(step, int) or not isinstance(loss, int | float) or not math.isfinite(loss):
            continue
        if event.get("event") == "step":
            _forget_from(losses, step)
            losses.train[step] = float(loss)
        elif event.get("event") == "evaluated":
            losses.evaluated.setdefault(str(event.get("model") or "published"), {})[step] = float(loss)
    return losses


def _forget_from(losses: Losses, step: int) -> None:
    """Drops what an older timeline had from `step` on."""
    if step not in losses.train:
        return
    losses.train = {s: v for s, v in losses.train.items() if s < step}
    for model, curve in losses.evaluated.items():
        losses.evaluated[model] = {s: v for s, v in curve.items() if s < step}


def loss_svg(losses: Losses, *, title: str) -> str:
    """The plot as a whole SVG document."""
    train = thin(sorted(losses.train.items()))
    evaluated: dict[str, list[Point]] = {
        model: [(s, v) for s, v in sorted(curve.items())]
        for model, curve in losses.evaluated.items()
        if curve
    }
    points = [*train, *(p for curve in evaluated.values() for p in curve)]
    if not points:
        return document(title, [note("no step is closed yet")])
    frame = Frame.around(points)
    body = axes(frame, x="step", y="loss")
    if train:
        body += [line(frame, train, TRAIN, 1.0), line(frame, smooth(train), SMOOTH, 2.0)]
    for model, curve in evaluated.items():
        body += _dots(frame, curve, MODEL_COLOURS.get(model, "#666"))
    return document(title, [*body, *legend(_entries(bool(train), list(evaluated)))])


def thin(points: Sequence[Point]) -> list[Point]:
    """At most `MAX_POINTS` points: means of runs of neighbours."""
    run = -(-len(points) // MAX_POINTS)
    if run <= 1:
        return list(points)
    return [_mean(points[i : i + run]) for i in range(0, len(points), run)]


def smooth(points: Sequence[Point]) -> list[Point]:
    """The mean of each point's neighbourhood; narrower at both ends."""
    reach = max(1, round(len(points) * SMOOTHING_SHARE / 2))
    smoothed = []
    for i, (x, _) in enumerate(points):
        r = min(reach, i, len(points) - 1 - i)
        smoothed.append((x, _mean(points[i - r : i + r + 1])[1]))
    return smoothed


def _mean(points: Sequence[Point]) -> Point:
    return sum(p[0] for p in points) / len(points), sum(p[1] for p in points) / len(points)


def _dots(frame: Frame, points: Sequence[Point], colour: str) -> list[str]:
    dots = [dot(frame, (x, y), colour, f"step {x:g}: {y:.4f}") for x, y in points]
    return [line(frame, points, colour, 1.5), *dots] if len(points) > 1 else dots


def _entries(has_train: bool, models: Sequence[str]) -> list[tuple[str, str]]:
    """(name, colour) of each curve."""
    entries = [("training", SMOOTH)] if has_train else []
    return entries + [(MODEL_NAMES.get(m, f"validation ({m})"), MODEL_COLOURS.get(m, "#666")) for m in models]
