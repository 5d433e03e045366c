"""The plots of a report, each a whole SVG file made of `sparsync.drawing`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sparsync.drawing import (
    PALETTE,
    Bar,
    Frame,
    Part,
    Point,
    axes,
    bars,
    document,
    legend,
    line,
    note,
    single,
)
from sparsync.plot import SMOOTH, TRAIN, smooth, thin
from sparsync.quantities import show_bytes, show_count, show_seconds
from sparsync.report.history import COORDINATOR, History, Process

MAX_POINTS = 150
"""Of a rate: it is the mean of so many stretches of equally many steps."""
MAX_ROWS = 60
"""Processes that are drawn; those with a story come first."""
WIDTH_OF_A_MARK = 1 / 400
"""Of the whole time: what lasts less is drawn as long as that, or nobody would see it."""
HEADROOM = 1.3
"""Above curves that end at the upper right, where the legend is."""
MOVED = {
    "bytes_pushed": "sent by workers",
    "bytes_pulled": "received by workers",
    "bytes_state": "stream state",
}


def rates_svg(history: History) -> str:
    """Tokens a second, over stretches of equally many steps."""
    title = "tokens a second"
    points = rate_points(history)
    if len(points) < 2:
        return document(title, [note("too few steps are closed")])
    frame = Frame.around([*points, (points[0][0], 0.0)])
    body = axes(frame, x="seconds of the run", y="tokens/s", y_text=show_count)
    return document(title, [*body, line(frame, points, TRAIN, 1.0), line(frame, smooth(points), SMOOTH, 2.0)])


def rate_points(history: History) -> list[Point]:
    """(seconds at the middle of a stretch, tokens a second in it)."""
    steps = history.steps
    if not steps:
        return []
    before_s = history.begun_s if history.begun_s is not None else steps[0][0]
    size = -(-len(steps) // MAX_POINTS)
    points = []
    for first in range(0, len(steps), size):
        group = steps[first : first + size]
        end_s = group[-1][0]
        if end_s > before_s:
            points.append(((before_s + end_s) / 2, sum(t for _, _, t in group) / (end_s - before_s)))
        before_s = end_s
    return points


def bytes_svg(history: History) -> str:
    """What the workers' sockets moved, up to each moment; there are figures."""
    title = "bytes moved so far"
    curves = {
        name: thin([(f["at_s"], float(f[key])) for f in history.figures]) for key, name in MOVED.items()
    }
    points = [point for curve in curves.values() for point in curve]
    frame = Frame.around([*points, (points[0][0], HEADROOM * max(y for _, y in points))])
    body = axes(frame, x="seconds of the run", y="bytes", y_text=show_bytes)
    entries = list(zip(curves, PALETTE, strict=False))
    body += [line(frame, curves[name], colour, 2.0) for name, colour in entries if curves[name]]
    return document(title, [*body, *legend(entries)])


def staleness_svg(histogram: Mapping[str, int]) -> str:
    """Units by how many steps' worth of others' units were accepted since they were begun."""
    total = sum(histogram.values())
    rows = [
        single(f"{value} steps stale", float(count), f"{count / total:.1%}")
        for value, count in sorted(histogram.items(), key=lambda item: float(item[0]))
        if count
    ]
    return bars("settled units by staleness", rows, unit="units")


def mean_staleness(history: History) -> list[Point]:
    """(seconds, mean staleness of what was settled since the figure before)."""
    points, before = list[Point](), (0.0, 0)
    for figure in history.figures:
        counts: Mapping[str, int] = figure.get("staleness") or {}
        units = sum(counts.values())
        weight = sum(float(value) * count for value, count in counts.items())
        if units > before[1]:
            points.append((figure["at_s"], max(0.0, weight - before[0]) / (units - before[1])))
        before = (weight, units)
    return points


def mean_staleness_svg(points: Sequence[Point]) -> str:
    title = "mean staleness of what was settled, over time"
    frame = Frame.around([*points, (points[0][0], 0.0)])
    body = axes(frame, x="seconds of the run", y="steps")
    return document(title, [*body, line(frame, thin(points), PALETTE[0], 2.0)])


def crew_changes(history: History) -> bool:
    """Whether the number of workers ever fell, so that a plot of it tells something."""
    numbers = [there for _, there in history.crew]
    return any(after < before for before, after in pairwise(numbers))


def crew_svg(history: History) -> str:
    """How many workers were in the run; some were."""
    points = list[Point]()
    for at_s, there in history.crew:
        if points:
            points.append((at_s, points[-1][1]))
        points.append((at_s, float(there)))
    points.append((history.end_s, points[-1][1]))
    frame = Frame.around([*points, (points[0][0], 0.0)])
    body = axes(frame, x="seconds of the run", y="workers")
    return document("workers in the run", [*body, line(frame, points, PALETTE[0], 2.0)])


def timeline_svg(history: History) -> str:
    """Who was in the run when: a row for each process."""
    rows = [_row(process, history.end_s) for process in drawn(history)]
    return bars("who was in the run when", rows, unit="seconds of the run")


def drawn(history: History) -> list[Process]:
    """At most `MAX_ROWS` processes, by role and name; where there are more, those that nothing befell are left out."""
    order = {COORDINATOR: 0, "ps": 1, "worker": 2}
    chosen = sorted(history.processes.values(), key=lambda p: p.joins < 2 and not p.last)[:MAX_ROWS]
    return sorted(chosen, key=lambda p: (order.get(p.role, 3), _natural(p.name)))


def _natural(name: str) -> tuple[str, int, str]:
    """`worker-10` behind `worker-9`."""
    head = name.rstrip("0123456789")
    digits = name[len(head) :]
    return head, int(digits or 0), name


def _row(process: Process, end_s: float) -> Bar:
    least_s = end_s * WIDTH_OF_A_MARK
    parts = []
    for stretch in process.stretches:
        until = stretch.end_s if stretch.end_s is not None else end_s
        parts.append(Part(stretch.state, stretch.begin_s, max(until, stretch.begin_s + least_s)))
    told = [f"{process.joins} starts"] if process.joins > 1 else []
    if process.last:
        told.append(f"{process.last} at {show_seconds(parts[-1].end if parts else None)}")
    return Bar(process.name, tuple(parts), ", ".join(told))


def waits_svg(workers: Sequence[Mapping[str, Any]]) -> str:
    """How much of its time each worker waited."""
    rows = [
        single(
            f"{w.get('name')} ({w.get('incarnation')})",
            100 * float(w["wait_share"]),
            f"{w['wait_share']:.0%}",
        )
        for w in workers[:MAX_ROWS]
        if w.get("wait_share") is not None
    ]
    return bars("share of its time that a worker waited for others", rows, unit="percent")
