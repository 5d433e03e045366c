"""The learning rates of each step: the user's scheduler, followed on the run's clock.

A scheduler goes one way, one call a step, and many derive a rate from the one before; units come in any order, are
replayed, or begin in the middle of a run. So the scheduler is stepped to the largest clock seen and what it gave is
kept: a unit has the rates of *its own* step, whoever computes it and whenever.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch

from wire.errors import UsageError

OTHERS = ("momentum", "betas")
"""The options of a parameter group that torch's schedulers may change beside its learning rate."""


class Schedule:
    """What `scheduler` makes of the options of `inner`'s groups, by step; without one they are the loop's own affair.

    All steps are kept, a number a group: a run may take millions.

    Args:
        scheduler: as it was made, at step 0.
    """

    def __init__(self, inner: torch.optim.Optimizer, scheduler: Any) -> None:
        self._inner, self._scheduler = inner, scheduler
        self._rates = array("d")
        self._others: list[tuple[int, list[dict[str, Any]]]] = []
        self._keep()
        self._shown = 0

    @property
    def _newest(self) -> int:
        return len(self._rates) // len(self._inner.param_groups) - 1

    def _keep(self) -> None:
        """The options of the step behind the newest one, as they stand."""
        groups = self._inner.param_groups
        self._rates.extend(float(group["lr"]) for group in groups)
        others = [{name: _plain(group[name]) for name in OTHERS if name in group} for group in groups]
        if not self._others or self._others[-1][1] != others:
            self._others.append((self._newest, others))

    def stand_at(self, step: int) -> None:
        """Give `inner` the options of `step`; a new process is brought from 0 to there."""
        if self._scheduler is None:
            return
        newest = self._newest
        self._show(min(step, newest))
        for _ in range(step - newest):
            self._scheduler.step()
            self._keep()
        self._shown = step

    def _show(self, step: int) -> None:
        """Options that stand there already are not touched: what a loop adds to the newest stays, as in plain torch."""
        if step == self._shown:
            return
        groups = self._inner.param_groups
        rates = self._rates[step * len(groups) : (step + 1) * len(groups)]
        _, others = self._others[bisect_right(self._others, step, key=lambda kept: kept[0]) - 1]
        for group, rate, more in zip(groups, rates, others, strict=True):
            for name, value in {"lr": rate, **more}.items():
                if isinstance(group[name], torch.Tensor):
                    group[name].fill_(value)
                else:
                    group[name] = value


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, torch.Tensor) else value


def check_scheduler(scheduler: Any, *, stepped_here: bool = False) -> None:
    """Raises: UsageError for one that depends on more than the clock, or drives more than learning rates.

    stepped_here: whether its optimizer is stepped by the session, which may then drive all that it likes.
    """
    for part in _parts(scheduler):
        if isinstance(part, torch.optim.lr_scheduler.ReduceLROnPlateau):
            raise UsageError(
                "ReduceLROnPlateau depends on a metric that the workers do not share; use a schedule of the clock, "
                "such as LambdaLR or CosineAnnealingLR"
            )
        if getattr(part, "cycle_momentum", False) and not stepped_here:
            raise UsageError(
                f"{type(part).__name__} with cycle_momentum=True moves the momentum, which is the servers' and fixed "
                "for the run; only learning rates travel with the commits: use cycle_momentum=False"
            )


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and all that it is composed of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)
