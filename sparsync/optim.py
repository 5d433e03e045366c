"""Several optimizers as one, for scripts whose workers step by themselves (local steps).

optimizer = CombinedOptimizer(Muon(matrices, lr=lr), AdamW(rest, lr=lr))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch


class CombinedOptimizer(torch.optim.Optimizer):
    """Optimizers that each step parameters of their own, as one: to `sparsync.join`, schedulers and loss scalers.

    Its parameter groups are theirs, in order, and so is the state that they begin with. Afterwards they are stepped
    through this one only.

    Attributes:
        name: with those of its parts: whose state it has.

    Raises: ValueError where a parameter is in two of them, or one is LBFGS, which steps with a closure only.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        if any(isinstance(part, torch.optim.LBFGS) for part in parts):
            raise ValueError(
                "LBFGS in a CombinedOptimizer; expected optimizers that step without a closure, such as AdamW or Muon"
            )
        self._parts: tuple[torch.optim.Optimizer, ...] = ()
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._parts = parts
        self._cuts = [0, *itertools.accumulate(len(part.param_groups) for part in parts)]
        self.name = f"{type(self).__name__}({', '.join(type(part).__name__ for part in parts)})"
        for part in parts:
            self.state.update(part.state)

    def __getstate__(self) -> dict[str, Any]:
        """For copies."""
        return {**super().__getstate__(), "_parts": self._parts, "_cuts": self._cuts, "name": self.name}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of each. `closure` is called once, before the first, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, (first, last) in zip(self._parts, itertools.pairwise(self._cuts), strict=True):
            part.param_groups, part.state = self.param_groups[first:last], self.state
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once it is built, since nobody could say which of the parts should step it."""
        if self._parts:
            raise ValueError(
                "a parameter group was added to a CombinedOptimizer; give it to one of the parts before"
            )
        super().add_param_group(param_group)
