"""The public API: `join` a run with a model, take its batches, `step` after each unit.

The user's loop computes on what `batches` yields; `step` hands the unit's gradients to the
driver, which does everything else between two turns of the loop. With local steps it steps the user's
optimizer, and after the last step of a unit hands over how far the model has moved.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from wire.clock import monotonic_clock
from wire.errors import ScriptFailed, SparsyncError, UsageError
from wire.messages import BAD_UNIT
from wire.trace import span
from worker.data import Dataset, Loader, Order, batches_of, to_device
from worker.driver import Driver
from worker.evaluation import Evaluation
from worker.inner import outer
from worker.parameters import Parameters, specify
from worker.pieces import Piece, Standing
from worker.planes import HOST, place_of_planes
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
            groups), which is never stepped here; with local steps any optimizer, stepped in `step`.
        scheduler: any of torch.optim.lr_scheduler, stepped once a step of the global clock; the learning rates of a
            unit are those of its step, and travel with its commit.
        scaler: a GradScaler; unscaled (unless the loop did) and updated in `step`.
        state: objects with `state_dict` of tensors and JSON, saved and restored with stream 0.

    Raises:
        UsageError: the scheduler steps on a metric, so that no clock tells what it would do, or drives the momentum.
        ModelMismatch: the run's model or optimizer is another one, or one that cannot be trained here.
        Unreachable: the coordinator or a server does not answer.
    """
    attached = attachment()
    check_scheduler(scheduler, stepped_here=attached.config.sync.is_local)
    return Session(model, inner, scheduler, scaler, dict(state or {}), attached)


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
        local = self._config.sync.is_local
        specification = outer(inner, self._config.optimizer) if local else specify(inner)
        self._take = self._step_here if local else self._push_gradient
        place = place_of_planes(self._config.cluster.planes, attached.device)
        log.info(
            "computing on %s, compressing %s", attached.device, "on the host" if place is HOST else "there"
        )
        self._parameters = Parameters(model, inner, moves=local, place=place)
        self._evaluation = Evaluation(self._model, attached.report, monotonic_clock)
        self._order: Order | None = None
        self._started = False
        self._at = Standing()
        self.out: Path | None = attached.out
        self._extras = Extras(model, scaler, state)
        self._driver = Driver(
            attached,
            parameters=self._parameters,
            specification=specification,
            extras=self._extras,
            evaluation=self._evaluation,
            inner=inner,
            scheduler=scheduler,
            clock=monotonic_clock,
        )
        if scheduler is not None:  # torch's reminder to step before the scheduler would be wrong
            inner._opt_called = True  # type: ignore[attr-defined]

    # --- what the loop may ask ---------------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The step at hand; between units the one that the model stands at."""
        return self._at.piece.step if self._at.piece is not None else self._driver.clock

    @property
    def stream(self) -> int:
        """The stream of the unit at hand; its number in the run is `clock * sync.units_per_step + stream`."""
        return max(self._driver.task.stream, 0)

    @property
    def epoch(self) -> int:
        """The epoch of the step at hand; 0 without a dataset."""
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
        """Whether the batch at hand is one after which `step` is due."""
        return self._at.given == self._at.batches

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

    def published(self) -> dict[str, torch.Tensor]:
        """Copies of x̂'s parameters by name, on the CPU, as this worker holds it now; buffers are not among them.

        While a unit is computed the model may stand elsewhere: on its way through local steps, or where x̂ is
        expected to be.
        """
        return self._parameters.named_copies()

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

        `step` is due after `accumulate` batches (fewer where an epoch ends with fewer samples). Processes
        that load (`num_workers`) are spawned, never forked.

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
                due = [(step, task.stream) for step in self._driver.rounds.steps_of(task.step)]
                cut = [
                    batches_of(order.indices(*at), batch_size, accumulate)
                    for at in (*due, self._driver.following)
                ]
                announced = [
                    [(order.epoch(step), batch) for batch in batches]
                    for (step, _), batches in zip((*due, self._driver.following), cut, strict=True)
                ]
                pieces = [
                    Piece(step, tuple(map(len, batches)), self._loading(loader, announced[i : i + 2]))
                    for i, ((step, _), batches) in enumerate(zip(due, cut[:-1], strict=True))
                    if batches
                ]
                if pieces:
                    yield from self._unit(task, pieces)
                else:
                    self._driver.send_empty(END_OF_EPOCH)
        finally:
            loader.close()

    def _loading(
        self, loader: Loader, announced: Sequence[Sequence[tuple[int, list[int]]]]
    ) -> Callable[[int], Any]:
        """Loads batches of the first (epoch, indices); with it those of the second are announced."""

        def load(number: int) -> Any:
            if number == 0:
                loader.ahead([batch for batches in announced for batch in batches])
            return to_device(loader.load(*announced[0][number]), self._attached.device)

        return load

    def units(self, accumulate: int = 1) -> Iterator[int]:
        """For loops that draw their own batches: yields `accumulate` times before each `step`, the number of the turn.

        Random numbers are keyed by (seed, step, stream, turn) before each turn.
        """
        self._ready(0, "", 0, accumulate)
        for task in self._driver.tasks():
            steps = self._driver.rounds.steps_of(task.step)
            yield from self._unit(
                task, [Piece(step, (0,) * accumulate, lambda number: number) for step in steps]
            )

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
            keeps=not self._extras.empty,
        )

    def _unit(self, task: Task, pieces: Sequence[Piece]) -> Iterator[Any]:
        """One unit's turns of the loop; again while it is not finite, at last committed empty."""
        samples = sum(sum(piece.sizes) for piece in pieces)
        for _ in range(TRIES):
            self._at = Standing(samples)
            for piece in pieces:
                yield from self._piece(task, piece, last=piece is pieces[-1])
                if self._at.bad:
                    break
            if not self._at.bad:
                break
            self._driver.restore()
        if self._at.bad:
            self._driver.send_empty(BAD_UNIT + self._at.bad, samples=samples)
        self._at = Standing()

    def _piece(self, task: Task, piece: Piece, *, last: bool) -> Iterator[Any]:
        """The batches of one step, after which `step` must have been called."""
        self._at.begin(piece, last=last)
        self._driver.begin_step(piece.step)
        for number in range(len(piece.sizes)):
            batch = piece.load(number)
            seed_all("unit", self._config.run.seed, piece.step, task.stream, number)
            self._at.given += 1
            yield batch
        if not self._at.stepped:
            raise UsageError(
                f"session.step was not called for {self._driver.unit}: expected one call after its "
                f"{len(piece.sizes)} batches"
            )

    def step(self, loss: torch.Tensor | float, *, tokens: int | None = None) -> None:
        """Send the gradients, or take a local step with them and send what came of the unit's; zero them.

        Args:
            loss: of the last batch, for reports; a unit whose loss or gradients are not finite is computed
                again, and after the third time committed empty (`run.on_bad_unit`).
            tokens: of all batches since the last call, for rates; their samples without it.

        Raises:
            UsageError: it is not due (`accumulate` batches, one call each).
        """
        self._check_due()
        at = self._at
        at.stepped = True
        overflow = unscale(self._scaler, self._inner)
        value = float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)
        at.tokens += sum(at.piece.sizes if at.piece is not None else ()) if tokens is None else tokens
        self._take(value, overflow)
        if at.bad:
            log.warning("%s; computing it again", at.bad)
        for p in self._model.parameters():
            p.grad = None

    def _push_gradient(self, loss: float, overflow: bool) -> None:
        """The servers take the step."""
        with span("collect", step=self._driver.task.step, stream=self._driver.task.stream):
            norm_sq = self._parameters.collect()
        if overflow:
            self._driver.send_empty(OVERFLOW, samples=self._at.samples)
        elif self._finite(loss, norm_sq, self._parameters.first_bad_gradient):
            self._send(loss, norm_sq)

    def _step_here(self, loss: float, overflow: bool) -> None:
        """The user's optimizer takes the step; one whose scaled gradients overflow is left out."""
        if not overflow:
            norm = self._parameters.gradient_norm()
            if not self._finite(loss, norm, self._parameters.first_bad_gradient):
                return
            self._inner.step()
            self._parameters.moved()
            self._at.losses.append(loss)
        if self._at.last and not self._at.losses:
            self._driver.send_empty(OVERFLOW, samples=self._at.samples)
        elif self._at.last:
            with span("collect", step=self._driver.task.step, stream=self._driver.task.stream):
                norm_sq = self._parameters.collect_difference()
            if self._finite(self._at.loss, norm_sq, self._parameters.first_bad_parameter):
                self._send(self._at.loss, norm_sq)

    def _send(self, loss: float, norm_sq: float) -> None:
        self._driver.send(samples=self._at.samples, tokens=self._at.tokens, loss=loss, norm_sq=norm_sq)

    def _check_due(self) -> None:
        at = self._at
        if self._driver.task.kind is Kind.WAIT or at.stepped:
            raise UsageError(
                "session.step was called twice for one unit, or outside the loop over its batches"
            )
        if at.given < at.batches:
            raise UsageError(
                f"session.step was called after {at.given} of the {at.batches} batches of {self._driver.unit}; "
                "call it once per `accumulate` batches (session.boundary says when)"
            )

    def _finite(self, loss: float, norm: float, name_of_bad: Callable[[], str]) -> bool:
        """Whether the unit may reach the model; else `bad` says why."""
        if not math.isfinite(loss):
            self._at.bad = f"{self._driver.unit}: the loss is {loss}"
        elif not math.isfinite(norm):
            self._at.bad = f"{self._driver.unit}: the gradient of {name_of_bad()} is not finite"
        return not self._at.bad
