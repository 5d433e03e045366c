"""The loss of a run as an SVG file, written by hand: no plotting library, no fonts, no scripts.

`read_losses` gathers the curves from events.jsonl; a resume that goes back to an older step replaces
what came after it. `loss_svg` draws: the training loss as a thin line with a smooth one over it, the
validation losses as dots. Long runs are thinned to `MAX_POINTS` means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 44, 46
MAX_POINTS = 600
SMOOTHING_SHARE = 0.04
"""Share of the points over which the smooth line averages."""
SMALLEST_SPAN = 1e-6
"""Of an axis, relative to its values; what differs by less is drawn as equal."""

TRAIN, SMOOTH = "#9db7d5", "#1f5fa8"
MODEL_COLOURS = {"published": "#d1495b", "x": "#2e8b57"}
MODEL_NAMES = {"published": "validation (published model)", "x": "validation (servers' x)"}

Point = tuple[float, float]


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
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    if not points:
        empty = f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">no step is closed yet</text>'
        return "\n".join([*head, empty, "</svg>"]) + "\n"
    frame = Frame.around(points)
    body = [*_axes(frame)]
    if train:
        body += [_line(frame, train, TRAIN, 1.0), _line(frame, smooth(train), SMOOTH, 2.0)]
    for model, curve in evaluated.items():
        body += _dots(frame, curve, MODEL_COLOURS.get(model, "#666"))
    return "\n".join([*head, *body, *_legend(bool(train), list(evaluated)), "</svg>"]) + "\n"


@dataclass(frozen=True)
class Frame:
    """The range of the axes; `x` and `y` map a value to a place in the picture."""

    x_ticks: tuple[float, ...]
    y_ticks: tuple[float, ...]

    @classmethod
    def around(cls, points: Sequence[Point]) -> Frame:
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        return cls(nice_ticks(min(xs), max(xs), 8), nice_ticks(min(ys), max(ys), 6))

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def nice_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    """About `count` round values, the first ≤ `low` and the last ≥ `high`; at least two."""
    if high - low <= SMALLEST_SPAN * max(1.0, abs(low)):
        pad = max(abs(low) * 0.1, 0.5)
        low, high = low - pad, high + pad
    raw = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


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


def _axes(frame: Frame) -> list[str]:
    parts = []
    for tick in frame.y_ticks:
        y = frame.y(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in frame.x_ticks:
        x = frame.x(tick)
        parts.append(f'<path d="M{x:.1f} {HEIGHT - BOTTOM}v5" stroke="#888"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#888"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    parts.append(
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">loss</text>'
    )
    return parts


def _line(frame: Frame, points: Sequence[Point], colour: str, width: float) -> str:
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _dots(frame: Frame, points: Sequence[Point], colour: str) -> list[str]:
    dots = [
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5" fill="{colour}">'
        f"<title>step {x:g}: {y:.4f}</title></circle>"
        for x, y in points
    ]
    return [_line(frame, points, colour, 1.5), *dots] if len(points) > 1 else dots


def _legend(has_train: bool, models: Sequence[str]) -> list[str]:
    entries = [("training", SMOOTH)] if has_train else []
    entries += [(MODEL_NAMES.get(m, f"validation ({m})"), MODEL_COLOURS.get(m, "#666")) for m in models]
    parts = []
    for row, (name, colour) in enumerate(entries):
        y = TOP + 12 + 18 * row
        parts.append(f'<path d="M{WIDTH - 226} {y}h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - 198}" y="{y + 4}">{escape(name)}</text>')
    return parts
