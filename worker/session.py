"""The public API: `join` a run with a model, take its batches, `step` after each unit.

The user's loop computes; between two of its turns the session does what the carrier says:
takes over streams, replays, deposits, waits for the next version. Order of the path:
collect → compress → push, then follow → apply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from wire.clock import monotonic_clock
from wire.codec.chain import codecs_of
from wire.codec.dense import pack, unpack
from wire.errors import Interrupted, ScriptFailed, SparsyncError, UsageError, by_name
from wire.ids import UnitId
from wire.messages import BAD_UNIT, Commit
from worker.data import Dataset, Loader, Order, batches_of, to_device
from worker.evaluation import Evaluation
from worker.mailbox import End
from worker.parameters import Parameters, learning_rates, specify
from worker.randomness import seed_all
from worker.replica import Replica
from worker.runtime import Attachment, attachment
from worker.state import Extras, Stateful, StreamState
from worker.streams import Carrier, Kind, Task

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
        scheduler: stepped once a step of the global clock; learning rates travel with the commits.
        scaler: a GradScaler; unscaled (unless the loop did) and updated in `step`.
        state: objects with `state_dict` of tensors and JSON, saved and restored with stream 0.

    Raises:
        ModelMismatch: the run's model or optimizer is another one, or one that cannot be trained here.
        Unreachable: the coordinator or a server does not answer.
    """
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
        self._inner, self._scheduler, self._scaler = inner, scheduler, scaler
        self._clock = monotonic_clock
        specification = specify(inner)
        self._parameters = Parameters(model, inner)
        self._push, pull = codecs_of(self._config, optimizer=specification.kind)
        self._transfer = attached.transfer
        upload = self._transfer.do_declare(self._parameters.layout, specification)
        self._replica = Replica(
            self._parameters.published,
            self._parameters.layout,
            self._transfer.placement,
            pull,
            self._transfer,
        )
        self._extras = Extras(model, scaler, state)
        self._streams: dict[int, StreamState] = {}
        self._carrier = Carrier()
        self._evaluation = Evaluation(self._model, self._transfer, self._clock)
        self._task = Task(Kind.WAIT)
        self._given = 0
        self._of_unit = 0
        self._stepped = False
        self._bad = ""
        self._samples = 0
        self._accumulate = 1
        self._scheduled = 0
        self._started = False
        self._leaving = False
        self._end: End | None = None
        self._unit_began = 0.0
        self._units = self._replayed = 0
        self._compute_s = self._wait_s = 0.0
        self._order: Order | None = None
        self.total_steps: int | None = None
        self.out: Path | None = attached.out
        self._transfer.begin_attending()
        if upload:
            log.info("uploading the initial parameters")
            self._transfer.do_upload(self._replica.packed(self._parameters.published))
            self._transfer.report(uploaded={})
        if scheduler is not None:
            inner._opt_called = True  # type: ignore[attr-defined]  # the servers step; torch's reminder would be wrong

    # --- what the loop may ask ---------------------------------------------------------------

    @property
    def clock(self) -> int:
        """The step of the unit at hand."""
        return max(self._task.step, 0) if self._task.kind in (Kind.COMPUTE, Kind.REPLAY) else self._version

    @property
    def epoch(self) -> int:
        """The epoch of the unit at hand; 0 without a dataset."""
        return self._order.epoch(self.clock) if self._order is not None else 0

    @property
    def is_first(self) -> bool:
        """Whether this worker carries stream 0."""
        return 0 in self._carrier.streams

    @property
    def replaying(self) -> bool:
        """Whether the unit at hand was computed before by another worker, whose state this one takes over."""
        return self._task.kind is Kind.REPLAY

    @property
    def boundary(self) -> bool:
        """Whether the batch at hand is the last of its unit, after which `step` is due."""
        return self._given == self._of_unit

    @property
    def _version(self) -> int:
        return max(self._replica.version, 0)

    # --- the loop ------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._end is None and not isinstance(error, GeneratorExit):
            name = type(error).__name__ if isinstance(error, SparsyncError) else ScriptFailed.__name__
            self._transfer.report(failed={"error": name, "message": f"{kind and kind.__name__}: {error}"})
            self._transfer.drain(2.0)
        self._attached.detach()
        self._transfer.close()

    def evaluate(self, fn: Callable[[], float], *, every: int = 0) -> None:
        """Have `fn` run on x̂ every `every` steps (0: only at the end), and at the end also on x.

        It runs on the worker that carries stream 0, in eval mode, without gradients, and leaves the
        random state as it was. `fn` returns a validation loss. Call this once, before the loop.
        """
        if self._started:
            raise UsageError("session.evaluate must be called before the loop begins")
        self._evaluation.install(fn, every)

    def log(self, **scalars: float) -> None:
        """Put scalars into the run's events, under the step at hand. Replayed units log nothing."""
        if not self.replaying:
            values = {name: float(value) for name, value in scalars.items()}
            self._transfer.report(scalars={"step": self.clock, "values": values})

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
        seed, streams = self._config.run.seed, self._config.sync.units_per_step
        loader = Loader(dataset, seed=seed, collate=collate_fn, processes=num_workers)
        if len(dataset):
            self._order = Order(seed, len(dataset), batch_size * accumulate, streams)
        digest = str(getattr(dataset, "digest", ""))
        self._ready(len(dataset), digest, batch_size, accumulate)
        try:
            for task in self._tasks():
                assert self._order is not None
                epoch = self._order.epoch(task.step)
                indices = self._order.indices(task.step, task.stream)
                unit = batches_of(indices, batch_size, accumulate)
                if not unit:
                    self._commit_empty(END_OF_EPOCH)
                    continue
                coming = self._order.indices(task.step + 1, task.stream)
                loader.ahead(self._order.epoch(task.step + 1), batches_of(coming, batch_size, accumulate))
                for _ in range(TRIES):
                    yield from self._batches_of_unit(task, epoch, unit, loader)
                    if not self._bad:
                        break
                else:
                    self._commit_empty(BAD_UNIT + self._bad)
        finally:
            loader.close()

    def _batches_of_unit(
        self, task: Task, epoch: int, unit: list[list[int]], loader: Loader
    ) -> Iterator[Any]:
        self._begin_unit(len(unit), sum(map(len, unit)))
        for number, indices in enumerate(unit):
            batch = to_device(loader.load(epoch, indices), self._attached.device)
            seed_all("unit", self._config.run.seed, task.step, task.stream, number)
            self._given += 1
            yield batch
        self._check_stepped()

    def units(self, accumulate: int = 1) -> Iterator[int]:
        """For loops that draw their own batches: yields `accumulate` times a unit, the number of the turn.

        Random numbers are keyed by (seed, step, stream, turn) before each turn.
        """
        self._ready(0, "", 0, accumulate)
        for task in self._tasks():
            for _ in range(TRIES):
                self._begin_unit(accumulate, 0)
                for number in range(accumulate):
                    seed_all("unit", self._config.run.seed, task.step, task.stream, number)
                    self._given += 1
                    yield number
                self._check_stepped()
                if not self._bad:
                    break
            else:
                self._commit_empty(BAD_UNIT + self._bad)

    def _begin_unit(self, batches: int, samples: int) -> None:
        self._given, self._of_unit, self._samples = 0, batches, samples
        self._stepped, self._bad = False, ""

    def _check_stepped(self) -> None:
        if not self._stepped:
            raise UsageError(
                f"session.step was not called for {self._unit()}: expected one call after its {self._of_unit} batches"
            )

    def step(self, loss: torch.Tensor | float, *, tokens: int | None = None) -> None:
        """Send the unit's gradients, and zero them.

        Args:
            loss: of the unit's last batch, for reports; a unit whose loss or gradients are not finite
                is computed again, and after the third time committed empty (`run.on_bad_unit`).
            tokens: of the whole unit, for rates; its samples without it.

        Raises:
            UsageError: it is not due (`accumulate` batches a unit, one call each).
        """
        if self._task.kind not in (Kind.COMPUTE, Kind.REPLAY) or self._stepped:
            raise UsageError(
                "session.step was called twice for one unit, or outside the loop over its batches"
            )
        if self._given < self._of_unit:
            raise UsageError(
                f"session.step was called after {self._given} of the {self._of_unit} batches of {self._unit()}; call "
                "it once per `accumulate` batches (session.boundary says when)"
            )
        self._stepped = True
        overflow = self._unscale()
        norm_sq = self._parameters.collect()
        value = float(loss.detach()) if isinstance(loss, torch.Tensor) else float(loss)
        if overflow:
            self._commit_empty(OVERFLOW)
        elif not np.isfinite(value):
            self._bad = f"{self._unit()}: loss is {value}"
        elif not np.isfinite(norm_sq):
            self._bad = f"{self._unit()}: gradient of {self._parameters.first_bad_gradient()} is not finite"
        else:
            count = self._samples if tokens is None else tokens
            self._send(self._commit(samples=self._samples, tokens=count, loss=value, norm_sq=norm_sq))
        if self._bad:
            log.warning("%s; computing it again", self._bad)
        for p in self._model.parameters():
            p.grad = None

    def _unscale(self) -> bool:
        """Undo the loss scale unless the loop did, and move the scaler on; whether a gradient overflowed."""
        if self._scaler is None or not self._scaler.is_enabled():
            return False
        try:
            self._scaler.unscale_(self._inner)
        except RuntimeError as error:
            if "already been called" not in str(error):
                raise
        states = self._scaler._per_optimizer_states[id(self._inner)]
        overflow = any(float(found) for found in states["found_inf_per_device"].values())
        self._scaler.update()
        return overflow

    # --- one unit --------------------------------------------------------------------------------

    def _unit(self) -> UnitId:
        return UnitId(self._attached.timeline, self._task.step, self._task.stream)

    def _commit(
        self, *, empty: str = "", samples: int = 0, tokens: int = 0, loss: float = 0.0, norm_sq: float = 0.0
    ) -> Commit:
        return Commit(empty, samples, tokens, loss, norm_sq, learning_rates(self._inner))

    def _commit_empty(self, reason: str) -> None:
        """The unit contributes nothing; the stream's state stays as it was."""
        self._send(self._commit(empty=reason, samples=self._samples if reason != END_OF_EPOCH else 0))

    def _send(self, commit: Commit) -> None:
        """Compress the gradient shard by shard; each frame leaves while the next is being encoded."""
        task, state = self._task, self._streams[self._task.stream]
        for shard, blocks in enumerate(self._replica.trainable):
            frame = b""
            if not commit.empty_reason:
                frame = self._push.encode(self._parameters.gradient, state.planes, blocks)
            if task.kind is Kind.COMPUTE and (not task.send_to or shard in task.send_to):
                self._transfer.begin_push(shard, self._unit(), task.attempt, frame, commit)
        state.extra = self._extras.save(task.stream)
        self._carrier.done(task)
        seconds = self._clock.now() - self._unit_began
        self._compute_s += seconds
        if task.kind is Kind.COMPUTE:
            self._units += 1
        else:
            self._replayed += 1
        self._report_progress(seconds)

    def _report_progress(self, unit_s: float = 0.0) -> None:
        pushed, pulled, state = self._transfer.bytes_moved()
        self._transfer.report(
            progress={
                "version": self._version,
                "units": self._units,
                "compute_s": self._compute_s,
                "wait_s": self._wait_s,
                "bytes_pushed": pushed,
                "bytes_pulled": pulled,
                "bytes_state": state,
                "pulls": self._replica.pulls,
                "unit_s": unit_s,
                "replayed": self._replayed,
            }
        )

    # --- between two units -------------------------------------------------------------------------

    def _ready(self, samples: int, digest: str, batch_size: int, accumulate: int) -> None:
        if self._started:
            raise UsageError("session.batches (or units) was called twice; one loop takes a run to its end")
        if batch_size < 0 or accumulate < 1:
            raise UsageError(f"batch_size {batch_size} and accumulate {accumulate}: expected at least 1")
        self._started = True
        self._transfer.report(
            ready={
                "samples": samples,
                "data_digest": digest,
                "batch_size": batch_size,
                "accumulate": accumulate,
                "evaluate_every": self._evaluation.every,
                "evaluates": self._evaluation.installed,
            }
        )

    def _tasks(self) -> Iterator[Task]:
        """The units to compute or to replay, one after the other, until the run ends."""
        self._model.train()
        while not self._ended():
            self._listen()
            task = self._carrier.next()
            match task.kind:
                case Kind.LOAD:
                    self._load(task)
                case Kind.DEPOSIT | Kind.RELEASE:
                    self._deposit(task)
                case Kind.REPLAY | Kind.COMPUTE:
                    self._seek(task.step)
                    if task.kind is Kind.COMPUTE:
                        self._evaluate_if_due()
                    self._extras.load(task.stream, self._streams[task.stream].extra)
                    self._task = task
                    self._unit_began = self._clock.now()
                    yield task
                    self._task = Task(Kind.WAIT)
                case Kind.WAIT:
                    self._wait()
        self._finish()

    def _ended(self) -> bool:
        end = self._transfer.mailbox.end
        if end is None:
            return False
        self._end = end
        if end.error and end.error != Interrupted.__name__:
            raise by_name(end.error)(end.reason)
        return True

    def _listen(self) -> None:
        """Take in what has arrived: a plan, deltas; tell that this worker wants to go."""
        if self._attached.asked_to_end() and not self._leaving:
            self._leaving = True
            self._transfer.report(leaving={"reason": "SIGTERM"})
        plan = self._transfer.mailbox.take_plan()
        if plan is not None:
            self.total_steps = plan.total_steps or None
            self._carrier.take(plan.assignments)
            if self._replica.version < 0 and plan.assignments:
                self._first_pull(min(a.deposit for a in plan.assignments))
        while (deltas := self._transfer.mailbox.take_deltas(self._replica.newest)) is not None:
            self._replica.receive(deltas)
            self._reached(deltas[0])

    def _first_pull(self, version: int) -> None:
        """Hold x̂ for the first time, and follow from there."""
        self._replica.seek(version)
        self._parameters.refresh()
        self._carrier.reached(version, deposit=False, final=False)
        self._transfer.begin_following(version)

    def _reached(self, delta: Any) -> None:
        self._carrier.reached(delta.version + 1, deposit=delta.deposit, final=delta.final)

    def _seek(self, version: int) -> None:
        """Bring the model to `version`; a history that was fetched for it tells where deposits are due."""
        if self._replica.version == version:
            return
        for deltas in self._replica.seek(version):
            self._reached(deltas[0])
        self._parameters.refresh()
        if version == self._carrier.version:
            self._follow_schedule(version)
            self._report_progress()

    def _follow_schedule(self, version: int) -> None:
        if self._scheduler is not None:
            for _ in range(version - self._scheduled):
                self._scheduler.step()
        self._scheduled = version

    def _wait(self) -> None:
        """Nothing can be computed: bring x̂ forward, evaluate at the end, wait for news."""
        if 0 <= self._replica.version < self._carrier.version:
            self._seek(self._carrier.version)
        if self._carrier.final:
            self._evaluate_if_due()
        began = self._clock.now()
        self._transfer.mailbox.wait(self._replica.newest)
        self._wait_s += self._clock.now() - began

    def _evaluate_if_due(self) -> None:
        if not self.is_first or self._replica.version < 0:
            return
        self._evaluation.run_if_due(self._replica.version, "published", final=self._carrier.final)
        if self._carrier.final and self._evaluation.due(self._replica.version, "x", final=True):
            self._replica.load_x()
            self._parameters.refresh()
            self._evaluation.run_if_due(self._replica.version, "x", final=True)
            self._restore_published()

    def _restore_published(self) -> None:
        """Hold x̂ again after x was evaluated."""
        version = self._replica.version
        self._replica.version = -1
        self._replica.seek(version)
        self._parameters.refresh()

    def _load(self, task: Task) -> None:
        """Take over a stream: its newest deposit, or the state that every stream begins with."""
        planes = {name: np.zeros_like(self._parameters.gradient) for name in self._push.state_planes}
        extra = self._extras.initial
        if task.has_deposit:
            log.info("taking over stream %d from its deposit at step %d", task.stream, task.step)
            for shard, parts in enumerate(
                self._transfer.do_withdraw(task.stream, task.step, self._expected_of_deposit)
            ):
                for name in planes:
                    unpack(parts[name], planes[name], self._replica.trainable[shard])
                extra = parts.get("extra", extra)
        self._streams[task.stream] = StreamState(planes, extra)
        self._carrier.done(task)
        self._report_progress()

    def _expected_of_deposit(self, shard: int, name: str) -> int | range | None:
        if name == "extra":
            return range(1 << 28)
        return 4 * self._replica.trainable[shard].elements if name in self._push.state_planes else None

    def _deposit(self, task: Task) -> None:
        state = self._streams[task.stream]
        parts = [
            {name: pack(plane, blocks) for name, plane in state.planes.items()}
            for blocks in self._replica.trainable
        ]
        parts[0]["extra"] = state.extra
        released = task.kind is Kind.RELEASE
        self._transfer.begin_deposit(task.stream, task.step, task.attempt, parts, released=released)
        self._carrier.done(task)
        if released:
            del self._streams[task.stream]

    def _finish(self) -> None:
        """The run is over: the model holds the newest x̂ of this worker."""
        if self._replica.version >= 0:
            self._seek(self._carrier.version)
        self._report_progress()
        self._transfer.drain(1.0)
        self._model.eval()
