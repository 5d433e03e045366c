"""session.evaluate: the user's validation on the model at a boundary, marked so that it is no straggling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wire.clock import Clock
from wire.trace import span
from worker.randomness import untouched


class Evaluation:
    """At most one function, run once for each (step, model).

    Args:
        report: tells the coordinator, by the name of the field in WorkerReport.
    """

    def __init__(self, model: nn.Module, report: Callable[..., Any], clock: Clock) -> None:
        self._model = model
        self._report = report
        self._clock = clock
        self._function: Callable[[], float] | None = None
        self._done: set[tuple[int, str]] = set()
        self.every = 0

    @property
    def installed(self) -> bool:
        return self._function is not None

    def install(self, function: Callable[[], float], every: int) -> None:
        self._function, self.every = function, every

    def passed(self, before: int, clock: int) -> int | None:
        """The newest multiple of `every` that a clock has passed on its way from `before` to `clock`."""
        newest = clock // self.every * self.every if self.every else before
        return newest if newest > before else None

    def forget(self) -> None:
        """What was told may have been lost: it may be run again."""
        self._done.clear()

    def due(self, step: int, model: str) -> bool:
        """Whether it has to be run for that, where a step is one at which evaluations are due."""
        return self._function is not None and (step, model) not in self._done

    def run(self, step: int, model: str) -> None:
        """Evaluate and report; the random state and the mode of each module are left as they were."""
        assert self._function is not None
        self._done.add((step, model))
        self._report(announce={"activity": "evaluating"})
        began = self._clock.now()
        modes = [(module, module.training) for module in self._model.modules()]
        self._model.eval()
        with untouched(), torch.no_grad(), span("evaluate", at=step, model=model):
            loss = float(self._function())
        for module, training in modes:  # one by one: some are kept in eval mode while the others train
            module.training = training
        seconds = self._clock.now() - began
        self._report(evaluated={"step": step, "model": model, "loss": loss, "seconds": seconds})
