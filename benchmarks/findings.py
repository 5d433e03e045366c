"""What experiments find: claims with a limit, and the figures of `sparsync bench modes` that they are about.

A figure of what failed, or diverged, is None, and so is every finding that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]
Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Finding:
    """One claim. `kept`: None where it cannot be said."""

    claim: str
    found: float | None
    limit: float
    kept: bool | None


def at_most(claim: str, found: float | None, limit: float) -> Finding:
    return Finding(claim, found, limit, None if found is None else found <= limit)


def at_least(claim: str, found: float | None, limit: float) -> Finding:
    return Finding(claim, found, limit, None if found is None else found >= limit)


def rows(result: Result, **of: object) -> dict[str, dict[str, Any]]:
    """Of the first group that has these properties, by label; what failed is not among them."""
    groups = (g for g in result["groups"] if all(g[key] == value for key, value in of.items()))
    return {row["label"]: row for row in next(groups, {"rows": []})["rows"]}


def mean(found: Rows, label: str, name: str) -> float | None:
    """Of a row's figure; None where the row failed, or has none."""
    spread = found.get(label, {}).get(name)
    return None if spread is None else float(spread["mean"])


def ratio(value: float | None, to: float | None) -> float | None:
    return None if value is None or not to else value / to


def worse(found: Rows, label: str, than: str) -> float | None:
    """How much higher a method's loss is than another's, as a share."""
    share = ratio(mean(found, label, "loss"), mean(found, than, "loss"))
    return None if share is None else share - 1.0


def figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
