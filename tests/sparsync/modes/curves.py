"""Curves and results made by hand."""

from __future__ import annotations

from typing import Any

from sparsync.bench.modes.cases import Case, Workload
from sparsync.bench.modes.results import Measured

WORK = Workload(
    layers=1,
    width=32,
    heads=2,
    seq_len=16,
    batch_size=2,
    streams=4,
    steps=100,
    copies=4,
    windows=8,
    servers=1,
    unit_s=0.0,
    source="stdlib",
    settings=(),
)


def case(method: str = "sync", **other: Any) -> Case:
    told: dict[str, Any] = {
        "method": method,
        "kind": "cluster",
        "codec": "default",
        "settings": (f"sync.mode={method}",),
        "workers": 2,
        "straggler": "none",
        "link": "unlimited",
        "shaped": "unlimited",
        "lr": 1e-3,
        "seed": 0,
        "work": WORK,
    }
    return Case(**{**told, **other})


def curve(*points: tuple[float, float, float | None]) -> list[dict[str, Any]]:
    """Of (seconds, tokens, loss); 3 bytes a token up and 1 down, no deposits."""
    none = {"bytes_state": 0, "bytes_control": 0}
    return [
        {"seconds": s, "tokens": n, "bytes_up": 3 * n, "bytes_down": n, **none, "loss": loss}
        for s, n, loss in points
    ]


def measured(of: Case, points: list[dict[str, Any]], **other: Any) -> Measured:
    """A whole result."""
    last = points[-1]
    told = {
        "val_loss": last["loss"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "tokens_per_s": last["tokens"] / last["seconds"],
        "bytes_pushed": last["bytes_up"],
        "bytes_pulled": last["bytes_down"],
        "bytes_state": last["bytes_state"],
        "bytes_control": last["bytes_control"],
        "shares": {"computed": 0.5, "slept": 0.0, "sent": 0.1, "waited": 0.4, "kept": 0.0},
        "staleness": {"0": 10},
        "recoveries": 0,
        "curve": points,
        **other,
    }
    return Measured(of, told)
