"""What a measurement comes to: order statistics of its values, what it was measured on, its two result files."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def distribution(values: Iterable[float]) -> dict[str, float]:
    """n, min, median, p90 and max; a quantile q is the value at rank ⌈q·n⌉, so each is one that was measured.

    Raises: ValueError for no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values were measured; expected at least one")

    def at(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1]

    return {"n": len(ordered), "min": ordered[0], "median": at(0.5), "p90": at(0.9), "max": ordered[-1]}


def about(**more: object) -> dict[str, object]:
    """Machine and commit, as they stand at the head of every result; `more` beside them."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "commit": asked.stdout.strip(),
        **more,
    }


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats with two decimals."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def write(name: str, result: dict[str, Any], page: str) -> None:
    """`name`.json with every figure and `name`.md for people, under benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    (RESULTS / f"{name}.md").write_text(page)


def verdict(found: float, limit: float) -> str:
    """Whether a figure keeps its limit, in a word for a table."""
    return "kept" if found <= limit else "MISSED"
