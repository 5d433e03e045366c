"""What happens between two turns of the user's loop: plans and deltas in, the next unit out.

The route leads from segment to segment: `exact` carries streams, `elastic` works off leases,
and each moves x̂ and codec state its own way. Where this worker was given up, it joins anew
and the loop goes on. The session puts the user's API on top.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from wire import trace
from wire.clock import Clock, Deadline
from wire.errors import Interrupted, RunOver, SparsyncError, StaleIncarnation, by_name
from wire.ids import UnitId
from wire.messages import Commit, OptimizerSpec
from wire.metrics import Sample
from wire.rounds import Rounds
from worker.elastic import ElasticSegment
from worker.evaluation import Evaluation
from worker.exact import ExactSegment
from worker.inner import Inner
from worker.mailbox import End, Mailbox
from worker.metrics import samples
from worker.parameters import Parameters, learning_rates
from worker.progress import Progress
from worker.replica import Replica
from worker.route import NOWHERE, Route
from worker.runtime import Attachment
from worker.schedule import Schedule
from worker.state import Extras
from worker.streams import WAIT, Kind, Task

log = logging.getLogger(__name__)
REJOINS = 5
"""Times that a worker which is given up joins anew before a unit of it is accepted again."""
FIRST_UNIT_S = 5.0
"""In its first unit, while nobody knows how long one takes, a worker says so often that it makes progress."""
LEAVE_S = 10.0
"""Who is to go waits so long to be let go: where its loop ended before the run, or the coordinator is away."""


class Driver:
    """One worker's way through a run.

    Attributes:
        task: the unit at hand (kind COMPUTE or REPLAY), or WAIT between units.
        end: how the run ended, once it has.
    """

    def __init__(
        self,
        attached: Attachment,
        *,
        parameters: Parameters,
        specification: OptimizerSpec,
        extras: Extras,
        evaluation: Evaluation,
        inner: torch.optim.Optimizer,
        scheduler: Any,
        clock: Clock,
    ) -> None:
        self._attached = attached
        self._parameters = parameters
        self._specification = specification
        self._extras = extras
        self._origin = extras.initial
        self._evaluation = evaluation
        self._optimizer = inner
        self._inner = Inner(inner) if attached.config.sync.is_local else None
        self._schedule = Schedule(inner, scheduler)
        self._rounds = Rounds.of(attached.config, origin=attached.origin)
        self._clock = clock
        self._ready: Mapping[str, Any] | None = None
        self._looked_at = NOWHERE
        self._in_unit = False
        self._leaving = False
        self._forsaken: Deadline | None = None
        self._futile = 0
        self._began = self._told = 0.0
        self.task = WAIT
        self.end: End | None = None
        self._enter()
        attached.clock = lambda: self.clock if self._replica.held else None
        attached.samples = self._samples

    def _enter(self) -> None:
        """Begin as the incarnation that the process now has: tell the model, hold nothing yet."""
        transfer = self._attached.transfer
        transfer.on_wait = self._told_to_go
        upload = transfer.do_declare(self._parameters.layout, self._specification)
        self._route = Route(
            self._attached.config,
            transfer,
            parameters=self._parameters,
            specification=self._specification,
            extras=self._extras,
            origin=self._origin,
            inner=self._inner,
            fresh=self._origin is self._extras.initial,
        )
        self._progress = Progress()
        transfer.begin_attending()
        if upload:
            log.info("uploading the initial parameters")
            transfer.do_upload(self._route.replica.packed(self._parameters.published))
            transfer.report(uploaded={})
        if self._ready is not None:
            transfer.report(ready=self._ready)

    def ready(self, **what: Any) -> None:
        """Tell the coordinator that this worker can take work, and with what; told anew after a rejoin."""
        self._ready = what
        self._attached.report(ready=what)

    @property
    def _segment(self) -> ExactSegment | ElasticSegment:
        return self._route.segment

    @property
    def _replica(self) -> Replica:
        return self._route.replica

    @property
    def _mailbox(self) -> Mailbox:
        return self._attached.transfer.mailbox

    @property
    def total_steps(self) -> int | None:
        """Of the run, once the coordinator knows it."""
        return self._route.total_steps

    @property
    def rounds(self) -> Rounds:
        """Which steps belong to a unit."""
        return self._rounds.until(self.total_steps) if self.total_steps else self._rounds

    @property
    def first(self) -> bool:
        """Whether this worker evaluates."""
        return self._segment.first

    @property
    def clock(self) -> int:
        """The first step of the unit at hand; between units how far the model has come."""
        waits = self.task.kind is Kind.WAIT
        return self.rounds.first_step(self._segment.clock if waits else self.task.step)

    @property
    def unit(self) -> UnitId:
        """The unit at hand."""
        return UnitId(self._attached.timeline, self.task.step, self.task.stream)

    @property
    def following(self) -> tuple[int, int]:
        """(first step, stream) of the unit after the one at hand, unless the plan changes."""
        round_, stream = self._segment.following(self.task)
        return self.rounds.first_step(round_), stream

    # --- the way ---------------------------------------------------------------------------------

    def tasks(self) -> Iterator[Task]:
        """The units to compute or to replay, one after the other, until the run ends.

        Before each the model holds its version and its stream's state.

        Raises: the error that ended the run.
        """
        self._attached.training = True
        while not self._over():
            try:
                task = self._turn()
            except StaleIncarnation as error:
                self._come_back(error)
                continue
            except (RunOver, Interrupted) as over:
                if self._mailbox.end is None and not self._leaving:
                    raise
                self._mailbox.put_end(End(str(over), ""))
                continue
            if task.kind is not Kind.WAIT:
                self.task, self._began, self._in_unit = task, self._clock.now(), True
                under_way = trace.begin()
                yield task
                trace.done("unit", under_way, step=task.step, stream=task.stream, kind=task.kind.name.lower())
                self.task = WAIT
        self._finish()

    def _over(self) -> bool:
        """Whether the run has ended, for this worker or for all."""
        if self.end is None and (end := self._mailbox.end) is not None:
            if end.error == StaleIncarnation.__name__:
                self._come_back(StaleIncarnation(end.reason))
                return self._over()
            self.end = end
            if end.error and end.error != Interrupted.__name__:
                raise by_name(end.error)(end.reason)
        return self.end is not None

    def _turn(self) -> Task:
        """Do what comes next; the unit if it is one, with the model made ready for it."""
        self._listen()
        task = self._route.next() if self._forsaken is None else WAIT
        match task.kind:
            case Kind.LOAD | Kind.DEPOSIT | Kind.RELEASE | Kind.FLUSH:
                self._manage(task)
            case Kind.REPLAY | Kind.COMPUTE:
                self._prepare(task)
                return task
            case Kind.WAIT:
                self._wait()
        return WAIT

    def _manage(self, task: Task) -> None:
        if isinstance(self._segment, ElasticSegment):
            self._segment.flush(self._rates)
        else:
            self._segment.manage(task)
        if task.kind in (Kind.LOAD, Kind.FLUSH):
            self._report_progress()

    def _prepare(self, task: Task) -> None:
        if task.kind is Kind.COMPUTE and isinstance(self._segment, ExactSegment):
            while self._segment.pass_by(task):
                self._evaluate_if_due()
        if self._segment.stand_at(task):
            self._report_progress()
        self._schedule.stand_at(self.rounds.first_step(task.step))
        if task.kind is Kind.COMPUTE:
            self._evaluate_if_due()
        self._segment.begin(task)

    def _wait(self) -> None:
        """Nothing can be computed: bring x̂ forward, evaluate what no unit waits for, wait for news."""
        if moved := self._segment.catch_up():
            self._report_progress()
        if self._segment.final or self._segment.elastic or (moved and self._segment.lags):
            self._evaluate_if_due()
        began = self._clock.now()
        with trace.span("wait"):
            self._mailbox.wait(deltas=self._route.open)
        self._attached.waits()
        self._progress.wait_s += self._clock.now() - began

    def _finish(self) -> None:
        """The run is over: the model holds the newest x̂ received, and the first stream's buffers."""
        if self._replica.held:
            self._route.take_in()  # the end overtakes the last deltas where both have arrived
            if self._segment.catch_up():
                self._report_progress()
            self._schedule.stand_at(self.clock)
        self._parameters.show()
        self._segment.show_first()

    def begin_step(self, step: int) -> None:
        """The batches of a step come next; a local one is taken under its own learning rates, in whatever order."""
        self._attached.vitals.progressed()
        if self._inner is None:
            return
        self._schedule.stand_at(step)
        if not self._progress.units and self._clock.now() - self._told > FIRST_UNIT_S:
            self._report_progress()

    def _listen(self) -> None:
        """Take in what has arrived; tell that this worker wants to go.

        Raises: Interrupted where nobody has been there for long to let it go.
        """
        if self._attached.asked_to_end():
            self._say_leaving("asked to end")
            attended = self._attached.transfer.attended
            self._forsaken = None if attended else self._forsaken or Deadline(self._clock, LEAVE_S)
            if self._forsaken is not None and self._forsaken.passed:
                raise Interrupted("asked to end while the coordinator is away: nothing more is handed over")
        self._mailbox.check()
        self._route.advance()

    # --- going and coming ----------------------------------------------------------------------------

    def _say_leaving(self, reason: str) -> None:
        if not self._leaving:
            self._leaving = True
            self._attached.report(leaving={"reason": reason})

    def _told_to_go(self) -> bool:
        """Whether this worker is asked to end; the coordinator hears of it at once, whatever is waited for."""
        self._attached.waits()
        if self._attached.asked_to_end():
            self._say_leaving("asked to end")
            return True
        return False

    def leave(self, reason: str) -> None:
        """Hand over what this worker does and compute no more; wait a bounded time to be let go."""
        if self._in_unit:
            self.restore()
        self.task = WAIT
        self._say_leaving(reason)
        deadline = Deadline(self._clock, LEAVE_S)
        try:
            while not self._over() and not deadline.passed:
                self._listen()
                task = self._route.next()
                if task.kind in (Kind.LOAD, Kind.DEPOSIT, Kind.RELEASE, Kind.FLUSH):
                    self._manage(task)
                else:
                    self._wait()
        except SparsyncError as error:
            log.warning("while leaving: %s", error)
        self._parameters.show()

    def _come_back(self, error: StaleIncarnation) -> None:
        """This worker was given up: join anew, holding nothing; where the run is over meanwhile, that is the end.

        Raises: the last refusal, after `REJOINS` times without an accepted unit.
        """
        while self.end is None:
            self._futile = 1 if self._mailbox.accepted else self._futile + 1
            if self._futile > REJOINS:
                raise error
            if self._leaving or self._segment.leaves or self._attached.asked_to_end():
                self.end = End(str(error), "")
                return
            log.warning("%s; joining the run anew", error)
            self._origin = self._route.origin_now()
            try:
                self._attached.rejoin()
                self._enter()
            except RunOver as over:
                self.end = End(str(over), "")
            except StaleIncarnation as again:
                error = again
                continue
            self._evaluation.forget()
            self._attached.training = True
            return

    # --- evaluation ----------------------------------------------------------------------------------

    def _evaluate_if_due(self) -> None:
        step, final = self._due_step(), self._segment.final
        if step is None:
            return
        if self._evaluation.due(step, "published"):
            self._segment.show_first()
            self._parameters.show()
            self._evaluation.run(step, "published")
        if final and self._evaluation.due(step, "x"):
            with self._replica.holding_x():
                self._parameters.refresh()
                self._evaluation.run(step, "x")
            self._parameters.refresh()

    def _due_step(self) -> int | None:
        """The step under which x̂ is to be evaluated now; None: not here, or not now.

        In an elastic segment no worker stands at every step: the newest multiple passed since the last look. In an
        exact one: the first that reaches or passes a multiple, under its own name.
        """
        if not self._replica.held:
            return None
        rounds, round_ = self.rounds, self._segment.clock
        looked_at, self._looked_at = self._looked_at, round_
        if not self._segment.first:
            return None
        clock = rounds.first_step(round_)
        if self._segment.final:
            return clock
        if not self._segment.elastic:
            passed = self._evaluation.passed(rounds.first_step(round_ - 1), clock)
            return None if passed is None else clock
        if self.total_steps is not None and clock >= self.total_steps:
            return None  # the last delta is still to come
        return self._evaluation.passed(
            rounds.first_step(round_ - 1 if looked_at == NOWHERE else looked_at), clock
        )

    # --- after a unit ----------------------------------------------------------------------------------

    def send(self, *, samples: int, tokens: int, loss: float, norm_sq: float) -> None:
        """Compress what was collected shard by shard and push it; a replayed unit is compressed only."""
        inner = learning_rates(self._optimizer) if self._inner is not None else ()
        self._commit(Commit("", samples, tokens, loss, norm_sq, self._rates, inner))

    def send_empty(self, reason: str, *, samples: int = 0) -> None:
        """Commit the unit at hand as contributing nothing; the codec's state stays as it was."""
        self._commit(Commit(reason, samples, 0, 0.0, 0.0, self._rates))

    @property
    def _rates(self) -> tuple[float, ...]:
        """Learning rates of the servers' optimizer, one a parameter group."""
        if self._inner is None:
            return learning_rates(self._optimizer)
        return tuple(group["lr"] for group in self._specification.groups)

    def restore(self) -> None:
        """Model and state as they were before the unit at hand: what a bad attempt left in them is undone."""
        self._segment.restore(self.task)

    def _commit(self, commit: Commit) -> None:
        began = self._clock.now()
        with trace.span("compress", step=self.task.step, stream=self.task.stream, empty=commit.empty_reason):
            self._segment.commit(self.task, self.unit, commit)
        self._in_unit = False
        self._progress.encode_s += self._clock.now() - began
        seconds = self._clock.now() - self._began
        self._progress.computed(seconds, replayed=self.task.kind is Kind.REPLAY)
        self._report_progress(unit_s=seconds)

    def _samples(self) -> Iterator[Sample]:
        """For metrics; on another thread."""
        attached, replica = self._attached, self._replica
        return samples(
            self._progress,
            attached.transfer,
            clock=attached.clock(),
            incarnation=attached.incarnation,
            versions=replica.versions,
            pulls=replica.pulls,
        )

    def _report_progress(self, *, unit_s: float = 0.0) -> None:
        self._told = self._clock.now()
        self._attached.report(
            progress=self._progress.report(
                version=min(self._replica.versions) if self._replica.held else 0,
                pulls=self._replica.pulls,
                bytes_moved=self._attached.transfer.bytes_moved(),
                unit_s=unit_s,
                residual_norm=self._segment.residual_norm,
                dropped_norm=self._route.dropped_norm,
            )
        )
