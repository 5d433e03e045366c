"""The plots of a report, each a whole SVG file made of `sparsync.drawing`. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
from sparsync.plot import thin
from sparsync.quantities import show_bytes, show_count, show_seconds
from sparsync.report.history import COORDINATOR, History, Process

MAX_POINTS = 150
"""Of a rate: stretches of time."""
MAX_ROWS = 60
"""Processes that are drawn; those with a story come first."""
STALEST = 10
"""Steps from which on all staleness is one bar."""
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
    """Tokens a second, over equal stretches of time."""
    title = "tokens a second"
    points = rate_points(history)
    if len(points) < 2:
        return document(title, [note("too few steps are closed")])
    frame = Frame.around([*points, (points[0][0], 0.0)])
    body = axes(frame, x="seconds of the run", y="tokens/s", y_text=show_count)
    return document(title, [*body, line(frame, points, PALETTE[0], 1.5)])


def rate_points(history: History) -> list[Point]:
    """(seconds at the middle of a stretch, tokens a second in it); a step's spread over the time since the last."""
    if not history.steps:
        return []
    ends = [at_s for at_s, _, _ in history.steps]
    begin = history.begun_s if history.begun_s is not None else ends[0]
    wide = (max(ends) - begin) / MAX_POINTS
    if wide <= 0:
        return []
    sums = [0.0] * MAX_POINTS
    before = begin
    for at_s, _, tokens in history.steps:
        first, last = ((s - begin) / wide for s in (min(before, at_s), at_s))
        for index, share in _shares(first, last):
            sums[min(index, MAX_POINTS - 1)] += tokens * share
        before = at_s
    return [(begin + (i + 0.5) * wide, total / wide) for i, total in enumerate(sums)]


def _shares(first: float, last: float) -> Iterator[tuple[int, float]]:
    """How a span falls upon stretches of length 1: (number, share of it)."""
    if last - first < 1e-9:
        yield int(last), 1.0
        return
    for index in range(int(first), math.ceil(last)):
        within = min(last, index + 1) - max(first, index)
        if within > 0:
            yield index, within / (last - first)


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
    total, counts = sum(histogram.values()), dict[int, int]()
    for value, count in histogram.items():
        whole = min(int(float(value)), STALEST)
        counts[whole] = counts.get(whole, 0) + count
    rows = [
        single(f"{value}{' and more' if value == STALEST else ''}", float(count), f"{count / total:.1%}")
        for value, count in sorted(counts.items())
        if count
    ]
    return bars("settled units by whole steps of staleness", rows, unit="units")


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
