"""A GradScaler in a loop whose optimizer runs elsewhere: unscale, look for overflow, move the scale on."""

from __future__ import annotations

from typing import Any

import torch


def unscale(scaler: Any, inner: torch.optim.Optimizer) -> bool:
    """Undo the loss scale unless the loop did, and update the scaler; whether a gradient overflowed."""
    if scaler is None or not scaler.is_enabled():
        return False
    try:
        scaler.unscale_(inner)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise
    found = scaler._per_optimizer_states[id(inner)]["found_inf_per_device"]
    overflow = any(float(flag) for flag in found.values())
    scaler.update()
    return overflow
