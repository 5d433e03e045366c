"""The learning rates of each step: the user's scheduler, followed on the run's clock.

A scheduler goes one way, one call a step, and many derive a rate from the one before; units come in any order, are
replayed, or begin in the middle of a run. So the scheduler is stepped to the largest clock seen and what it gave is
kept: a unit has the rates of *its own* step, whoever computes it and whenever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from wire.errors import UsageError
from worker.parameters import learning_rates


class Schedule:
    """The rates of `inner`'s parameter groups as `scheduler` sets them; without one they are the loop's own affair.

    Args:
        scheduler: as it was made, at step 0.
    """

    def __init__(self, inner: torch.optim.Optimizer, scheduler: Any) -> None:
        self._inner, self._scheduler = inner, scheduler
        self._rates = [learning_rates(inner)]
        self._shown = 0

    def stand_at(self, step: int) -> None:
        """Give `inner` the rates of `step`; a new process is brought from 0 to there."""
        if self._scheduler is None:
            return
        newest = len(self._rates) - 1
        if newest < step:
            self._show(newest)
            self._advance(step - newest)
        else:
            self._show(step)
        self._shown = step

    def _advance(self, steps: int) -> None:
        for _ in range(steps):
            self._scheduler.step()
            rates = learning_rates(self._inner)
            self._rates.append(self._rates[-1] if rates == self._rates[-1] else rates)

    def _show(self, step: int) -> None:
        """Rates that stand there already are not touched: what a loop adds to the newest stays, as in plain torch."""
        if step != self._shown:
            _set_rates(self._inner, self._rates[step])


def _set_rates(inner: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    for group, rate in zip(inner.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def check_scheduler(scheduler: Any) -> None:
    """Raises: UsageError for one that depends on more than the clock, or drives more than learning rates."""
    for part in _parts(scheduler):
        if isinstance(part, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise UsageError(
                "ReduceLROnPlateau depends on a metric that the workers do not share; use a schedule of the clock, "
                "such as LambdaLR or CosineAnnealingLR"
            )
        if getattr(part, "cycle_momentum", False):
            raise UsageError(
                f"{type(part).__name__} with cycle_momentum=True moves the momentum, which is the servers' and fixed "
                "for the run; only learning rates travel with the commits: use cycle_momentum=False"
            )


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and all that it is composed of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
