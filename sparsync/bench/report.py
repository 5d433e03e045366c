"""A benchmark's result for people: a table for the terminal, and one HTML file that needs no other.

The page holds its plots as inline SVG, its tables, what it was measured on, and the whole result as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from sparsync.run_directory import write_whole
from wire.errors import UsageError

STYLE = """\
body { font: 14px/1.5 system-ui, sans-serif; color: #222; max-width: 62em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; }
td { text-align: right; font-variant-numeric: tabular-nums } th { text-align: right; font-weight: 600 }
th:first-child, td:first-child { text-align: left } svg { max-width: 100%; height: auto }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
.plain td { text-align: left }"""

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


def page(title: str, result: Mapping[str, Any], sections: Iterable[Section]) -> str:
    """The whole HTML file."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>\n{STYLE}\n</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _html_table(provenance(result), plain=True),
    ]
    for section in sections:
        parts.append(f"<h2>{escape(section.heading)}</h2><p>{escape(section.words)}</p>")
        parts += [_html_table(table) for table in section.tables]
        parts += list(section.plots)
    raw = escape(json.dumps(result, indent=1))
    parts.append(
        f"<h2>Everything</h2><details><summary>the result as JSON</summary><pre>{raw}</pre></details>"
    )
    return "\n".join([*parts, "</body></html>"]) + "\n"


def provenance(result: Mapping[str, Any]) -> Table:
    """Machine, versions, commit and options as rows."""
    about = result["about"]
    groups = {**about["machine"], "commit": about["commit"], "at": about["at"]}
    groups["versions"] = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)
    groups["options"] = ", ".join(
        f"{k} {_words(v)}" for k, v in result["options"].items() if v not in (None, [])
    )
    return Table(("measured on", ""), [*groups.items()])


def _words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _html_table(table: Table, *, plain: bool = False) -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(figure(cell))}</td>" for cell in row) + "</tr>\n" for row in table.rows
    )
    return f"<table{' class=plain' if plain else ''}><tr>{head}</tr>\n{rows}</table>"


def write(out: Path, name: str, result: Mapping[str, Any], html: str) -> list[Path]:
    """`name`.json and `name`.html in `out`, which is made; their paths. Raises: UsageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot create it ({error.strerror}); choose another --out") from None
    files = {out / f"{name}.json": json.dumps(result, indent=2) + "\n", out / f"{name}.html": html}
    for path, text in files.items():
        write_whole(path, text)
    return [*files]
