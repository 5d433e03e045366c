"""A GradScaler in a loop whose optimizer runs elsewhere: unscale, look for overflow, move the scale on."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp.grad_scaler import OptState

from wire.errors import UsageError


def unscale(scaler: Any, inner: torch.optim.Optimizer) -> bool:
    """Undo the loss scale unless the loop did, and update the scaler; whether a gradient overflowed.

    Raises: UsageError when the loop gave it another optimizer: of a part of `inner`, what it did would be done twice.
    """
    if scaler is None or not scaler.is_enabled():
        return False
    states = scaler._per_optimizer_states
    if any(state["stage"] is not OptState.READY for key, state in states.items() if key != id(inner)):
        raise UsageError(
            "the scaler was given another optimizer since the last session.step; expected that of sparsync.join, as in "
            f"scaler.unscale_(inner) before clipping, or none. Here inner is {type(inner).__name__}, and its parts are "
            "never given one by one; another optimizer of yours needs a scaler of its own"
        )
    try:
        scaler.unscale_(inner)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise
    found = states[id(inner)]["found_inf_per_device"]
    overflow = any(float(flag) for flag in found.values())
    scaler.update()
    return overflow
