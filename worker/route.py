"""From segment to segment: which plan counts, which deltas belong to it, what x̂ the next segment begins with.

A delta that pauses ends its segment. What comes behind it is left in the mailbox until a plan of
the segment that it belongs to, or of a later one, is here.
"""

from __future__ import annotations

import logging
from typing import Any

from wire.codec.base import PushCodec
from wire.codec.chain import codecs_of
from wire.config import Config
from wire.errors import StaleIncarnation
from wire.messages import OptimizerSpec
from worker.elastic import ElasticSegment
from worker.exact import ExactSegment
from worker.foresight import Foresight, momentum_of
from worker.inner import Inner
from worker.mailbox import Plan
from worker.parameters import Parameters
from worker.planes import Plane, norm
from worker.replica import Replica
from worker.state import USER_STREAM, Extras
from worker.streams import WAIT, Task
from worker.transfer import Transfer

log = logging.getLogger(__name__)
NOWHERE = -1


class Route:
    """One incarnation's way through the segments of a run.

    Args:
        transfer: connected to the shards.
        origin: the extra that a stream without a deposit begins with, unless a plan names another one.
        inner: the optimizer that units step here; None: the servers do.
        fresh: nothing was computed with what the model holds: an elastic segment, too, begins with what a plan names.

    Attributes:
        segment: at hand; before the first plan one without any work.
        total_steps: of the run, once the coordinator knows it.
        dropped_norm: L2 norms of what segments held back whose successors have no place for it, added up.
    """

    def __init__(
        self,
        config: Config,
        transfer: Transfer,
        *,
        parameters: Parameters,
        specification: OptimizerSpec,
        extras: Extras,
        origin: bytes,
        fresh: bool,
        inner: Inner | None = None,
    ) -> None:
        self._config = config
        self._transfer = transfer
        self._parameters = parameters
        self._specification = specification
        self._extras = extras
        self.origin = origin
        self._inner = inner
        self._fresh = fresh
        self._named: int | None = None
        _, pull = codecs_of(config, parameters.layout, optimizer=self._specification.kind)
        self.replica = Replica(parameters.published, parameters.layout, transfer.placement, pull, transfer)
        self.segment = self._make(NOWHERE, Plan())
        self._reached = NOWHERE
        self._plan: Plan | None = None
        self.total_steps: int | None = None
        self.dropped_norm = 0.0

    def advance(self) -> None:
        """Take in what has arrived, a plan or deltas, as far as it belongs here."""
        plan = self._transfer.mailbox.take_plan()
        if plan is not None:
            self._plan = plan
            self.total_steps = plan.total_steps or None
        self._obey()
        while self.take_in():
            self._obey()

    def take_in(self) -> bool:
        """Enter the deltas that have arrived, up to the end of the segment at hand; whether that is reached."""
        while self.open and (deltas := self._transfer.mailbox.take_deltas()):
            self.segment.enter(deltas)
            if deltas[0].pause:
                self._reached += 1
                return True
        return False

    @property
    def open(self) -> bool:
        """Whether the deltas that come next may be entered: there is a plan for their segment, or for a later one."""
        return self._reached <= (self._plan.segment if self._plan is not None else self.segment.number)

    def next(self) -> Task:
        """What to do now. Nothing while the newest plan is of a segment that is not reached."""
        return WAIT if self._plan is not None else self.segment.next()

    def _obey(self) -> None:
        """Follow the newest plan once its segment is reached; one of a segment that is over says nothing any more."""
        plan = self._plan
        if plan is None or (plan.segment > self._reached and self._end_will_come(plan)):
            return
        self._plan = None
        if plan.segment > self.segment.number:
            self._begin(plan)
        if plan.segment == self.segment.number:
            self.segment.take(plan)

    def _end_will_come(self, plan: Plan) -> bool:
        """Whether the end of the segment before that of `plan` is among the deltas to come.

        It never comes where x̂ was first pulled as it was, and that was behind the end already.
        """
        return self.replica.held and self.replica.step < plan.begins

    def _begin(self, plan: Plan) -> None:
        """Enter the segment of `plan`, with all of the one before it in x̂."""
        self._reached = plan.segment
        if self.replica.held:
            self.replica.catch_up()
            self._parameters.refresh()
        self.origin, self._named = self.origin_now(), plan.handed
        self.dropped_norm += self.segment.finish()
        goes_on = not (self.segment.elastic or plan.elastic)  # streams are deposited, whoever carries them
        self.dropped_norm += self.segment.residual_norm if goes_on else 0.0
        held = None if goes_on else self._held(plan)
        self.segment = self._make(plan.segment, plan, held=held)
        if plan.elastic and self._fresh:
            self._begin_as_named()
        self._fresh = False
        if held is not None and not self.segment.holds_back:
            self.dropped_norm += norm(held, self.replica.trainable)

    def _held(self, plan: Plan) -> Plane | None:
        """What this worker holds back, where `plan` begins: its own, or what streams leave to it."""
        if isinstance(self.segment, ElasticSegment):
            return self.segment.held
        return self.segment.held_by(plan.inherits, step=plan.begins)

    def _begin_as_named(self) -> None:
        """In an elastic segment buffers and objects are this worker's own: it may begin with those that it made."""
        try:
            self._extras.load(USER_STREAM, self._beginning())
        except StaleIncarnation as error:
            log.warning("buffers and objects begin as this script made them: %s", error)

    def _beginning(self) -> bytes:
        """The extra that whatever has no deposit begins with: handed over where the segment began, or made here."""
        if self._named is not None:
            named, self._named = self._named, None
            self.origin = self._transfer.do_take_over(named)
        return self.origin

    def origin_now(self) -> bytes:
        """What a stream without a deposit would begin with: behind an elastic segment, as the model is.

        The inner optimizer keeps its own.
        """
        if not self.segment.elastic:
            return self.origin
        if self._inner is not None:
            self._inner.begin_here()
        return self._extras.save(USER_STREAM)

    def _make(self, number: int, plan: Plan, *, held: Plane | None = None) -> ExactSegment | ElasticSegment:
        codec, _ = codecs_of(
            self._config, self._parameters.layout, optimizer=self._specification.kind, elastic=plan.elastic
        )
        shared: dict[str, Any] = {
            "transfer": self._transfer,
            "parameters": self._parameters,
            "replica": self.replica,
            "codec": codec,
            "extras": self._extras,
            "streams": self._config.sync.units_per_step,
            "held": held,
            "inner": self._inner,
            "clips": self._config.push.clip > 0,
        }
        late = (plan.lag or plan.elastic) and self._inner is None
        look_ahead = self._config.sync.look_ahead if late else 0.0
        self.replica.remember(on=look_ahead > 0)
        if plan.elastic:
            return ElasticSegment(number, look_ahead=look_ahead, reach=reach(self._config), **shared)
        foresight = self._foresight(codec, look_ahead) if look_ahead else None
        return ExactSegment(
            number, begins=plan.begins, lag=plan.lag, origin=self._beginning, foresight=foresight, **shared
        )

    def _foresight(self, codec: PushCodec, weight: float) -> Foresight:
        momentum = momentum_of(self._specification, self._parameters.layout)
        return Foresight(codec, self.replica.trainable, momentum=momentum, weight=weight)


def reach(config: Config) -> float:
    """How far one push of local steps moves x̂, as a share of it: α R^γ / R, without staleness, weights and momentum."""
    optimizer, streams = config.optimizer, config.sync.units_per_step
    power = {"mean": 0.0, "count": optimizer.count_power, "sum": 1.0}[optimizer.aggregate]
    return float(optimizer.outer_lr * streams ** (power - 1.0))
