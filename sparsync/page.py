"""Pages for people: tables for a terminal, and one HTML file that needs no other.

A page holds its plots as inline SVG, its tables, and whatever it was made from, as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """\
body { font: 14px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; }
td { text-align: right; font-variant-numeric: tabular-nums } th { text-align: right; font-weight: 600 }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
table { display: block; overflow-x: auto } td:nth-child(n+3) { white-space: nowrap }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
.plain td, .plain th { text-align: left; vertical-align: top }"""

Row = Sequence[object]


@dataclass(frozen=True)
class Table:
    """A header and rows; the first column is a name."""

    header: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Section:
    """A part of a page: what it shows and how to read it, then tables and plots."""

    heading: str
    words: str
    tables: Sequence[Table] = ()
    plots: Sequence[str] = ()
    plain: bool = False
    """Whether its tables hold words, which stand at the left, and no numbers."""


def figure(value: object) -> str:
    """A cell: numbers in four digits, a dash for what is not there."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def text_table(table: Table) -> list[str]:
    """The lines of a table for a terminal."""
    cells = [[*table.header], *([figure(c) for c in row] for row in table.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def document(
    title: str, about: Table, sections: Iterable[Section], raw: Sequence[tuple[str, str, str]]
) -> str:
    """The whole HTML file. `about`: what stands under the title; `raw`: (heading, summary, text) of what is folded."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>\n{STYLE}\n</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _html_table(about, plain=True),
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.heading)}</h2><p>{escape(section.words)}</p>")
        parts += [_html_table(table, plain=section.plain) for table in section.tables]
        parts += list(section.plots)
    for heading, summary, text in raw:
        folded = f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"
        parts.append(f"<h2>{escape(heading)}</h2>{folded}")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _html_table(table: Table, *, plain: bool = False) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(figure(cell))}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    return f"<table{' class=plain' if plain else ''}><tr>{head}</tr>\n{rows}</table>"
