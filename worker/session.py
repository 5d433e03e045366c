"""The public API: `join` a run with a model, take its batches, `step` after each unit.

The user's loop computes on what `batches` yields; `step` hands the unit's gradients to the
driver, which does everything else between two turns of the loop.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from wire.clock import monotonic_clock
from wire.errors import ScriptFailed, SparsyncError, UsageError
from wire.messages import BAD_UNIT
from worker.data import Dataset, Loader, Order, batches_of, to_device
from worker.driver import Driver
from worker.evaluation import Evaluation
from worker.parameters import Parameters, specify
from worker.randomness import seed_all
from worker.runtime import Attachment, attachment
from worker.scaling import unscale
from worker.schedule import check_scheduler
from worker.state import Extras, Stateful
from worker.streams import Kind, Task

log = logging.getLogger(__name__)
TRIES = 3
"""Times that a unit that is not finite is computed before it is given up as bad."""
END_OF_EPOCH = "epoch_end"
OVERFLOW = "overflow"


def join(
    model: nn.Module,
    inner: torch.optim.Optimizer,
    scheduler: Any = None,
    scaler: Any = None,
    state: Mapping[str, Stateful] | None = None,
) -> Session:
    """Enter the run that this process was started for, with `model`.

    Args:
        model: any module; moved to the worker's device. Its parameters receive the run's.
        inner: in per-step modes the specification of the servers' optimizer (SGD or AdamW, with parameter
            groups); it is never stepped here.
        scheduler: any of torch.optim.lr_scheduler, stepped once a step of the global clock; the learning rates of a
            unit are those of its step, and travel with its commit.
        scaler: a GradScaler; unscaled (unless the loop did) and updated in `step`.
        state: objects with `state_dict` of tensors and JSON, saved and restored with stream 0.

    Raises:
        UsageError: the scheduler steps on a metric, so that no clock tells what it would do, or drives the momentum.
        ModelMismatch: the run's model or optimizer is another one, or one that cannot be trained here.
        Unreachable: the coordinator or a server does not answer.
    """
    check_scheduler(scheduler)
    return Session(model, inner, scheduler, scaler, dict(state or {}), attachment())


class Session:
    """A worker's part in one run; made by `join`, used as a context manager.

    Attributes:
        out: the run directory where it is on this machine, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        inner: torch.optim.Optimizer,
        scheduler: Any,
        scaler: Any,
        state: dict[str, Stateful],
        attached: Attachment,
    ) -> None:
        self._attached = attached
        self._config = attached.config
        self._model = model.to(attached.device)
        self._inner, self._scaler = inner, scaler
        specification = specify(inner)
        self._parameters = Parameters(model, inner)
        self._evaluation = Evaluation(self._model, attached.report, monotonic_clock)
        self._order: Order | None = None
        self._started = False
        self._begin_unit(0, 0)
        self.out: Path | None = attached.out
        self._driver = Driver(
            attached,
            parameters=self._parameters,
            specification=specification,
            extras=Extras(model, scaler, state),
            evaluation=self._evaluation,
            inner=inner,
            scheduler=scheduler,
            clock=monotonic_clock,
        )
        if (
            scheduler is not None
        ):  # the servers step; torch's reminder to step before the scheduler would be wrong
            inner._opt_called = True  # type: ignore[attr-defined]

    # --- what the loop may ask ---------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The step of the unit at hand; between units the one that the model stands at."""
        return self._driver.clock

    @property
    def stream(self) -> int:
        """The stream of the unit at hand; its number in the run is `clock * sync.units_per_step + stream`."""
        return max(self._driver.task.stream, 0)

    @property
    def epoch(self) -> int:
        """The epoch of the unit at hand; 0 without a dataset."""
        return self._order.epoch(self.clock) if self._order is not None else 0

    @property
    def total_steps(self) -> int | None:
        """Steps of the run; None until it has begun."""
        return self._driver.total_steps

    @property
    def is_first(self) -> bool:
        """Whether this worker carries stream 0, or (where streams are not carried) is the one that evaluates."""
        return self._driver.first

    @property
    def replaying(self) -> bool:
        """Whether the unit at hand was computed before by another worker, whose state this one takes over."""
        return self._driver.task.kind is Kind.REPLAY

    @property
    def boundary(self) -> bool:
        """Whether the batch at hand is the last of its unit, after which `step` is due."""
        return self._given == self._of_unit

    # --- around the loop -----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and self._driver.end is None:
            name = type(error).__name__ if isinstance(error, SparsyncError) else ScriptFailed.__name__
            self._attached.report(failed={"error": name, "message": f"{type(error).__name__}: {error}"})
            self._attached.transfer.flush(2.0)
        elif error is None and self._driver.end is None:
            self._driver.leave("its loop ended before the run")
        self._attached.detach()

    def evaluate(self, fn: Callable[[], float], *, every: int = 0) -> None:
        """Have `fn` run on x̂ every `every` steps (0: only at the end), and at the end also on x.

        It runs on the worker that carries stream 0, in eval mode, without gradients, and leaves the
        random state as it was. `fn` returns a validation loss. Call this once, before the loop.
        """
        if self._started:
            raise UsageError("session.evaluate was called inside the loop; call it once before")
        if every < 0:
            raise UsageError(
                f"session.evaluate(every={every}): expected 0 (only at the end) or a number of steps"
            )
        self._evaluation.install(fn, every)

    def log(self, **scalars: float) -> None:
        """Put scalars into the run's events, under the step at hand. Replayed units log nothing."""
        if not self.replaying:
            values = {name: float(value) for name, value in scalars.items()}
            self._attached.report(scalars={"step": self.clock, "values": values})

    # --- the loop ------------------------------------------------------------------------------------

    def batches(
        self,
        dataset: Dataset,
        batch_size: int = 8,
        accumulate: int = 1,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        num_workers: int = 0,
    ) -> Iterator[Any]:
        """The batches of this worker's units, until the run ends, across epochs, without `drop_last`.

        A unit is `accumulate` batches (fewer where an epoch ends with fewer samples); `step` is due
        after each unit. Processes that load (`num_workers`) are spawned, never forked.

        Raises:
            UsageError: the dataset has no length, or `step` was not called where it was due.
            DataRefused: it is empty, or differs from the other workers'.
        """
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise UsageError(
                f"session.batches needs a dataset with __len__ and __getitem__, found {type(dataset).__name__}; "
                "for an iterable one draw your own batches in `for _ in session.units():`"
            )
        if batch_size < 1:
            raise UsageError(f"batch_size is {batch_size}; expected at least 1")
        seed, streams = self._config.run.seed, self._config.sync.units_per_step
        order = Order(seed, len(dataset), batch_size * accumulate, streams)
        self._order = order
        self._ready(len(dataset), str(getattr(dataset, "digest", "")), batch_size, accumulate)
        loader = Loader(dataset, seed=seed, collate=collate_fn, processes=num_workers)
        try:
            for task in self._driver.tasks():
                unit = batches_of(order.indices(task.step, task.stream), batch_size, accumulate)
                if not unit:
                    self._driver.send_empty(END_OF_EPOCH)
                    continue
                step, stream = self._driver.following
                coming = batches_of(order.indices(step, stream), batch_size, accumulate)
                loader.ahead([*((self.epoch, b) for b in unit), *((order.epoch(step), b) for b in coming)])
                yield from self._unit(task, [len(b) for b in unit], self._loading(loader, task, unit))
        finally:
            loader.close()

    def _loading(self, loader: Loader, task: Task, unit: list[list[int]]) -> Callable[[int], Any]:
        epoch = self.epoch
        return lambda number: to_device(loader.load(epoch, unit[number]), self._attached.device)

    def units(self, accumulate: int = 1) -> Iterator[int]:
        """For loops that draw their own batches: yields `accumulate` times a unit, the number of the turn.

        Random numbers are keyed by (seed, step, stream, turn) before each turn.
        """
        self._ready(0, "", 0, accumulate)
        for task in self._driver.tasks():
            yield from self._unit(task, [0] * accumulate, lambda number: number)

    def _ready(self, samples: int, digest: str, batch_size: int, accumulate: int) -> None:
        """Tell the coordinator that this worker can take streams, and with what."""
        if self._started:
            raise UsageError("session.batches (or units) was called twice; one loop takes a run to its end")
        if accumulate < 1:
            raise UsageError(f"accumulate is {accumulate}; expected at least 1")
        self._started = True
        self._model.train()
        self._driver.ready(
            samples=samples,
            data_digest=digest,
            batch_size=batch_size,
            accumulate=accumulate,
            evaluate_every=self._evaluation.every,
            evaluates=self._evaluation.installed,
        )

    def _unit(self, task: Task, sizes: list[int], load: Callable[[int], Any]) -> Iterator[Any]:
        """One unit's turns of the loop; again while it is not finite, at last committed empty."""
        for _ in range(TRIES):
            self._begin_unit(len(sizes), sum(sizes))
            for number in range(len(sizes)):
                batch = load(number)
                seed_all("unit", self._config.run.seed, task.step, task.stream, number)
                self._given += 1
                yield batch
            if not self._stepped:
                raise UsageError(
                    f"session.step was not called for {self._driver.unit}: expected one call after its "
                    f"{len(sizes)} batches"
                )
            if not self._bad:
                return
            self._driver.restore()
        self._driver.send_empty(BAD_UNIT + self._bad, samples=self._samples)

    def _begin_unit(self, batches: int, samples: int) -> None:
        self._given, self._of_unit, self._samples = 0, batches, samples
        self._stepped, self._bad = False, ""

    def step(self, loss: torch.Tensor | float, *, tokens: int | None = None) -> None:
        """Send the unit's gradients, and zero them.

        Args:
            loss: of the unit's last batch, for reports; a unit whose loss or gradients are not finite
                is computed again, and after the third time committed empty (`run.on_bad_unit`).
            tokens: of the whole unit, for rates; its samples without it.

        Raises:
            UsageError: it is not due (`accumulate` batches a unit, one call each).
        """
        self._check_due()
        self._stepped = True
        overflow = unscale(self._scaler, self._inner)
        norm_sq = self._parameters.collect()
        value = float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)
        if overflow:
            self._driver.send_empty(OVERFLOW, samples=self._samples)
        elif self._is_bad(value, norm_sq):
            log.warning("%s; computing it again", self._bad)
        else:
            count = self._samples if tokens is None else tokens
            self._driver.send(samples=self._samples, tokens=count, loss=value, norm_sq=norm_sq)
        for p in self._model.parameters():
            p.grad = None

    def _check_due(self) -> None:
        if self._driver.task.kind is Kind.WAIT or self._stepped:
            raise UsageError(
                "session.step was called twice for one unit, or outside the loop over its batches"
            )
        if self._given < self._of_unit:
            raise UsageError(
                f"session.step was called after {self._given} of the {self._of_unit} batches of {self._driver.unit}; "
                "call it once per `accumulate` batches (session.boundary says when)"
            )

    def _is_bad(self, loss: float, norm_sq: float) -> bool:
        """Whether the unit must not reach the model; `_bad` then says why."""
        if not math.isfinite(loss):
            self._bad = f"{self._driver.unit}: the loss is {loss}"
        elif not math.isfinite(norm_sq):
            name = self._parameters.first_bad_gradient()
            self._bad = f"{self._driver.unit}: the gradient of {name} is not finite"
        return bool(self._bad)
