"""Defaults that depend on who runs the optimizer: the servers on gradients, or the workers on local steps.

A key that nobody set is None in the tree; `wire.config.complete` puts in what this table says.
"""

from __future__ import annotations

from typing import Any

BY_ARITHMETIC: dict[str, tuple[Any, Any]] = {
    "sync.local_steps": (1, 15),
    "push.values": ("mxint4", "int4"),
    "pull.values": ("mxint4", "int4"),
    "push.density": (0.25, 0.0625),
    "pull.density": (0.25, 0.125),
    "push.coarse": (4.0, 6.0),
    "pull.coarse": (5.0, 6.0),
    "push.decay": (1.0, 1.0),
    "optimizer.name": ("adamw", "muon"),
    "optimizer.lr": (2e-3, 8e-3),
    "optimizer.weights": ("uniform", "tokens"),
}
"""`section.key` -> (per-step runs, runs with local steps)."""


def default_of(key: str, *, local: bool) -> Any:
    """What stands for `key` where nobody set it."""
    return BY_ARITHMETIC[key][local]


def told(key: str) -> str:
    """The same in words."""
    servers, workers = BY_ARITHMETIC[key]
    return f"{servers}" if servers == workers else f"{servers}, with local steps {workers}"
