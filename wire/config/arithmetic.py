"""Defaults that depend on who runs the optimizer: the servers on gradients, or the workers on local steps.

A key that nobody set is None in the tree; `wire.config.complete` puts in what this table says.
"""

from __future__ import annotations

from typing import Any

BY_ARITHMETIC: dict[str, tuple[Any, Any]] = {
    "sync.local_steps": (1, 15),
    "push.density": (0.25, 0.0625),
    "pull.density": (0.25, 0.125),
    "push.decay": (1.0, 1.0),
    "optimizer.betas": ((0.5, 0.95), (0.9, 0.95)),
    "optimizer.weights": ("uniform", "tokens"),
}
"""`section.key` -> (per-step runs, runs with local steps)."""
LATE: dict[str, Any] = {"optimizer.betas": (0.9, 0.95)}
"""Per-step runs in `delayed`, where that is another: looking ahead needs the momentum that it looks along."""


def default_of(key: str, *, local: bool, late: bool = False) -> Any:
    """What stands for `key` where nobody set it. `late`: the run begins in `delayed`."""
    return LATE[key] if late and not local and key in LATE else BY_ARITHMETIC[key][local]


def told(key: str) -> str:
    """The same in words."""
    servers, workers = (_told(value) for value in BY_ARITHMETIC[key])
    others = {"in `delayed`": _told(LATE[key])} if key in LATE else {}
    if servers != workers:
        others["with local steps"] = workers
    return ", ".join([servers, *(f"{where} {value}" for where, value in others.items())])


def _told(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)
