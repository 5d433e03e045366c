"""Plots as SVG, written by hand: no plotting library, no fonts, no scripts. What all plots have in common.

`curves` have axes that fit their points (`Frame`); `bars` lie on their side, a label before each, and may begin
anywhere, so that they show sums of parts as well as spans of time. Functions return pieces of markup; `document`
makes them a file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 44, 46
BAR_LEFT, BAR_HEIGHT, BAR_GAP = 250, 16, 6
LEGEND_ROW = 18
SAMPLE, KEY_SAMPLE = 30, 50
"""Room for the sample before a name in a legend, and after it."""
LETTER = 6.6
"""Width of a letter of 12 pixels, about."""
SMALLEST_SPAN = 1e-6
"""Of an axis, relative to its values; what differs by less is drawn as equal."""
PALETTE = ("#1f5fa8", "#d1495b", "#2e8b57", "#e0a030", "#7b5ea7", "#4fb0c6", "#8c6d46", "#888888")

DASHES = ' stroke-dasharray="6 4"'

Point = tuple[float, float]


def document(title: str, body: Iterable[str], *, height: float = HEIGHT) -> str:
    """A whole SVG file."""
    heading = f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(title)}</text>'
    return _file([heading, *body], height=height)


def _file(body: Iterable[str], *, height: float) -> str:
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def note(text: str) -> str:
    """What stands in the middle where there is nothing to draw."""
    return f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">{escape(text)}</text>'


# ── axes ────────────────────────────────────────────────────────────────────────────────────────


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


def plain(value: float) -> str:
    """A tick's text."""
    return f"{value:g}"


def axes(
    frame: Frame,
    *,
    x: str,
    y: str,
    x_text: Callable[[float], str] = plain,
    y_text: Callable[[float], str] = plain,
) -> list[str]:
    """Lines, ticks and the axes' names; the texts of ticks may show another scale than the values' own."""
    parts = []
    for tick in frame.y_ticks:
        at = frame.y(tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{y_text(tick)}</text>')
    for tick in frame.x_ticks:
        at = frame.x(tick)
        parts.append(f'<path d="M{at:.1f} {HEIGHT - BOTTOM}v5" stroke="#888"/>')
        text = x_text(tick)
        anchor = "end" if at + LETTER * len(text) / 2 > WIDTH - 2 else "middle"
        place = at if anchor == "middle" else WIDTH - 2.0
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="#888"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2:.1f}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
    )
    return parts


# ── points and lines ────────────────────────────────────────────────────────────────────────────


def line(frame: Frame, points: Sequence[Point], colour: str, width: float, *, dashed: bool = False) -> str:
    """One line through all points."""
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" '
        f'stroke-linejoin="round" stroke-linecap="round"{DASHES if dashed else ""}/>'
    )


def dot(frame: Frame, point: Point, colour: str, told: str) -> str:
    """One point; `told` is shown where the pointer rests on it."""
    x, y = point
    return (
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3.5" fill="{colour}">'
        f"<title>{escape(told)}</title></circle>"
    )


def legend(entries: Iterable[tuple[str, str]]) -> list[str]:
    """(name, colour) of each curve, at the upper right."""
    parts = []
    for row, (name, colour) in enumerate(entries):
        y = TOP + 12 + LEGEND_ROW * row
        parts.append(f'<path d="M{WIDTH - 226} {y}h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - 198}" y="{y + 4}">{escape(name)}</text>')
    return parts


@dataclass(frozen=True)
class Key:
    """What a line stands for, where several plots share one legend."""

    name: str
    colour: str
    dashed: bool = False


def keys(entries: Sequence[Key]) -> str:
    """A whole SVG file: nothing but a legend, as many a line as fit."""
    rows = _wrapped([entry.name for entry in entries], sample=KEY_SAMPLE)
    known = {entry.name: entry for entry in entries}
    parts = list[str]()
    for number, names in enumerate(rows):
        x, y = float(LEFT), 14.0 + LEGEND_ROW * number
        for name in names:
            entry = known[name]
            dashes = DASHES if entry.dashed else ""
            parts.append(f'<path d="M{x:.1f} {y}h24" stroke="{entry.colour}" stroke-width="3"{dashes}/>')
            parts.append(f'<text x="{x + 30:.1f}" y="{y + 4}">{escape(name)}</text>')
            x += KEY_SAMPLE + LETTER * len(name)
    return _file(parts, height=LEGEND_ROW * len(rows) + 8)


# ── bars ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Part:
    """A stretch of a bar."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Bar:
    """One row; `told` stands behind its end."""

    label: str
    parts: tuple[Part, ...]
    told: str = ""


def single(label: str, value: float, told: str = "", *, name: str = "") -> Bar:
    """A bar of one part from zero."""
    return Bar(label, (Part(name, 0.0, value),), told)


def stacked(label: str, values: Iterable[tuple[str, float]], told: str = "") -> Bar:
    """A bar whose parts, (name, value) each, lie one behind the other."""
    parts, at = list[Part](), 0.0
    for name, value in values:
        parts.append(Part(name, at, at + value))
        at += value
    return Bar(label, tuple(parts), told)


def bars(title: str, rows: Sequence[Bar], *, unit: str) -> str:
    """A whole SVG file: the rows from top to bottom on one axis from zero; parts of one name have one colour."""
    names = list(dict.fromkeys(part.name for row in rows for part in row.parts))
    colours = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}
    last = max((part.end for row in rows for part in row.parts), default=0.0)
    ticks = nice_ticks(0.0, last or 1.0, 6)
    named = [name for name in names if name]
    legend_rows, top = _wrapped(named, sample=SAMPLE), TOP
    top += LEGEND_ROW * len(legend_rows)
    bottom = top + len(rows) * (BAR_HEIGHT + BAR_GAP)
    right = RIGHT + LETTER * max((len(row.told) for row in rows), default=0)

    def x(value: float) -> float:
        return BAR_LEFT + value / ticks[-1] * (WIDTH - right - BAR_LEFT)

    body = []
    for number, words in enumerate(legend_rows):
        body += _legend_line(words, colours, TOP + LEGEND_ROW * number)
    for tick in ticks:
        body.append(f'<path d="M{x(tick):.1f} {top - 4}V{bottom}" stroke="#e4e4e4"/>')
        body.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for number, row in enumerate(rows):
        body += _row(row, top + number * (BAR_HEIGHT + BAR_GAP), x, colours)
    body.append(f'<text x="{x(ticks[-1]):.1f}" y="{bottom + 34}" text-anchor="end">{escape(unit)}</text>')
    return document(title, body, height=bottom + BOTTOM)


def _row(row: Bar, y: float, x: Callable[[float], float], colours: dict[str, str]) -> list[str]:
    base = y + BAR_HEIGHT - 4
    parts = [
        f'<text x="{BAR_LEFT - 8}" y="{base:.1f}" text-anchor="end">{escape(_fitting(row.label))}</text>'
    ]
    for part in row.parts:
        width = max(x(part.end) - x(part.begin), 0.0)
        words = f"{part.name or row.label}: {part.end - part.begin:.4g}"
        parts.append(
            f'<rect x="{x(part.begin):.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR_HEIGHT}" '
            f'fill="{colours[part.name]}"><title>{escape(words)}</title></rect>'
        )
    end = max((part.end for part in row.parts), default=0.0)
    parts.append(f'<text x="{x(end) + 5:.1f}" y="{base:.1f}">{escape(row.told)}</text>')
    return parts


def _fitting(label: str) -> str:
    """What there is room for before a bar."""
    most = int((BAR_LEFT - 8) / LETTER)
    return label if len(label) <= most else label[: most - 1] + "…"


def _wrapped(names: Sequence[str], *, sample: int) -> list[list[str]]:
    """The names, as many a line as fit."""
    rows, used = list[list[str]](), WIDTH
    for name in names:
        width = round(sample + LETTER * len(name))
        if used + width > WIDTH - LEFT - RIGHT:
            rows.append([])
            used = 0
        rows[-1].append(name)
        used += width
    return rows


def _legend_line(names: Sequence[str], colours: dict[str, str], y: float) -> list[str]:
    parts, x = list[str](), float(LEFT)
    for name in names:
        parts.append(f'<rect x="{x:.1f}" y="{y - 9}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{x + 16:.1f}" y="{y + 2}">{escape(name)}</text>')
        x += SAMPLE + LETTER * len(name)
    return parts
