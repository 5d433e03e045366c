"""One shard of the model as a deterministic state machine: `apply(record)` is all that changes it.

A record is what the log holds: a push that was admitted, a fence, a close, a publication, the
beginning of a segment. Applying the same records in the same order gives the same state, bit for
bit; nothing here reads a clock, draws a random number or depends on the order in which pushes
arrived at the socket. Composes the discipline of the segment (what counts, and how it becomes a
gradient), the optimizer and the delta log.

Legend: n = blocks of the shard; planes are float32 [n, 4096].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ps.exact import Exact
from ps.flushes import Flushes
from ps.held import Held, Workshop
from ps.ledger import ElasticLedger, Ledger, Verdict
from ps.optimizer import Optimizer, local_runs
from ps.publication import Backlog
from ps.publish import Delta, DeltaLog, Outcome
from ps.records import (
    Accept,
    Accepted,
    Advance,
    Bound,
    Close,
    Fence,
    Fenced,
    Flush,
    Publish,
    Record,
    Retire,
    Segment,
    ShardSpec,
)
from ps.settling import discipline
from ps.trees import (
    State,
    accepted_from_tree,
    accepted_to_tree,
    fill,
    segment_from_tree,
    segment_to_tree,
    spec_to_tree,
)
from wire.codec.base import Blocks, DeltaCodec, PushCodec, frame_bytes
from wire.codec.chain import FLUSH
from wire.codec.dense import unpack
from wire.errors import BadUnit, ProtocolMismatch
from wire.ids import UnitId
from wire.layout import BLOCK, intersect
from wire.trace import span

Plane = NDArray[np.float32]
Answer = Verdict | Fenced | Delta | None


class Shard:
    """State of one shard. Not thread-safe: one owner applies records."""

    def __init__(
        self, spec: ShardSpec, push: PushCodec, pull: DeltaCodec, *, elastic_push: PushCodec | None = None
    ) -> None:
        """`elastic_push`: decodes the pushes of elastic segments; by default `push`, as those of exact ones."""
        self.spec = spec
        rows = sum(r.blocks for r in spec.ranges)
        trainable = intersect(spec.ranges, spec.layout.select(trainable=True))
        self.blocks = Blocks.of(spec.layout, spec.ranges, local_to=spec.ranges)
        self.trainable = Blocks.of(spec.layout, trainable, local_to=spec.ranges)
        self._push, self._elastic_push, self._pull = push, elastic_push or push, pull
        self._x: Plane = np.zeros((rows, BLOCK), np.float32)
        self._published: Plane = np.zeros_like(self._x)
        self._optimizer = Optimizer(spec.optimizer, local_runs(spec), self._x)
        self.segment = spec.segment
        self.deltas = DeltaLog(spec.segment.step)
        self._rows = rows
        self._discipline = discipline(self._workshop(spec.segment), spec.segment, {}, self.deltas.version)
        self.accepted: dict[int, Accepted] = {}
        """What the coordinator may be told again, by unit number: of steps not closed; elastic: what is not counted."""
        self._retired: set[int] = set()
        self._flushes = Flushes()
        self._begun = False
        self._segment_over = False

    @property
    def ledger(self) -> Ledger | ElasticLedger:
        """What counts, in this segment."""
        return self._discipline.ledger

    @property
    def held(self) -> Mapping[int, Held]:
        """Accepted units that are not settled, by number."""
        return self._discipline.held

    @property
    def held_bytes(self) -> int:
        """Of frames that wait to be settled."""
        return sum(frame_bytes(held.frame) for held in self._discipline.held.values())

    @property
    def clock(self) -> int:
        """Every unit of earlier steps stands here."""
        return self.ledger.clock

    def accepted_from(self, low: int) -> list[Accepted]:
        """What a coordinator that has counted all below `low` must be told."""
        return [unit for number, unit in self.accepted.items() if self._untold(number, low)]

    @property
    def backlog(self) -> Backlog:
        """What a publication would settle, and who waits for it."""
        units = len(self._discipline.pending())
        flushed = self._discipline.flushes > 0 and not self.deltas.between
        waited_for = self.clock > self.deltas.clock
        return Backlog(units, self._discipline.lanes, self.spec.streams, waited_for, flushed)

    @property
    def stream_planes(self) -> tuple[str, ...]:
        """Names of the planes of a stream's state, which this shard keeps as deposits in exact segments."""
        return () if self.segment.elastic else self._push.state_planes

    @property
    def restorable_planes(self) -> frozenset[str]:
        """Names of the planes that a checkpoint may bring; an elastic segment has no use for a sum of estimates."""
        return frozenset(self.planes()) | ({"aggregate"} if self.segment.elastic else set())

    @property
    def restorable_stream_planes(self) -> tuple[str, ...]:
        """Names of the planes of streams that a checkpoint may bring."""
        return self._push.state_planes

    @property
    def max_frame_bytes(self) -> int:
        """Most bytes that a push to this shard can have."""
        return self._push.max_frame_bytes(self.trainable)

    @property
    def room_bytes(self) -> int:
        """Of all pushes that may have to be held at once: with so much room none waits for another one's."""
        steps = 1 + self.segment.lag
        return (steps * self.spec.streams + self.segment.owed) * self.max_frame_bytes

    def bytes_before(self, unit: UnitId) -> int:
        """Most bytes that are still to come of the open step, where `unit` is of a later one and must not crowd it out.

        Of an elastic segment none: nothing is closed before all of it fits.
        """
        if self.segment.elastic or unit.step <= self.ledger.step:
            return 0
        first = self.ledger.step * self.spec.streams
        here = sum(number < first + self.spec.streams for number in self._discipline.held)
        return (self.spec.streams - here) * self.max_frame_bytes

    @property
    def flush_bytes(self) -> int:
        """Of the frame of a flush, to the byte."""
        return FLUSH.max_frame_bytes(self.trainable)

    def planes(self) -> Mapping[str, Plane]:
        """Every plane that a checkpoint holds, by name."""
        return {
            "x": self._x,
            "published": self._published,
            **self._optimizer.planes(),
            **self._discipline.planes(),
        }

    @property
    def state_bytes(self) -> int:
        """Of all planes."""
        return sum(plane.nbytes for plane in self.planes().values())

    def scalars(self) -> dict[str, float]:
        return self._optimizer.scalars()

    def load_scalars(self, scalars: dict[str, float]) -> None:
        self._optimizer.load_scalars(scalars)

    def judge(self, unit: UnitId, attempt: int, incarnation: int) -> Verdict:
        """What to do with a push; changes nothing. Nothing of a retired worker counts any more, whatever it is."""
        verdict = self.ledger.judge(unit, attempt)
        if verdict is not Verdict.FOREIGN and incarnation in self._retired:
            return Verdict.FENCED
        return verdict

    def is_retired(self, incarnation: int) -> bool:
        """Whether a worker is out of the run: nothing of it counts any more."""
        return incarnation in self._retired

    def judge_flush(self, incarnation: int, segment: int) -> Verdict:
        """What to do with a flush; changes nothing. None is taken once a close has ended the segment."""
        open_segment = None if self._segment_over else self.segment.number
        verdict = self._flushes.judge(incarnation, segment, open_segment=open_segment)
        fenced = verdict is Verdict.ADMIT and incarnation in self._retired
        return Verdict.FENCED if fenced else verdict

    def apply(self, record: Record) -> Answer:
        """Change the state by one record.

        Returns:
            Of an accept or flush its verdict (ADMIT: it stands here now; anything else changed nothing), of
            a fence whether the unit stands here, of a close or publication the delta that it published
            (of a publication None where nothing was pending).

        Raises:
            DamagedFrame: the frame does not decode; nothing has changed.
            ProtocolMismatch: the record contradicts the state; nothing has changed.
            BadUnit: the model became infinite or NaN: the shard is of no use any more.
        """
        match record:
            case Accept():
                return self._accept(record)
            case Flush():
                return self._flush(record)
            case Fence():
                return Fenced(record, self.ledger.fence(record.step, record.stream, record.attempt))
            case Close():
                return self._close(record)
            case Publish():
                return self._publish_pending()
            case Segment():
                self._begin(record)
            case Retire():
                self._retire(record.incarnation)
            case Advance():
                self._advance(record.low)
            case Bound():
                self._discipline.hold_to(record.norm)
        return None

    def _accept(self, record: Accept) -> Verdict:
        verdict = self.judge(record.unit, record.attempt, record.incarnation)
        if verdict is not Verdict.ADMIT:
            return verdict
        self._check_rates(str(record.unit), record.commit.learning_rates)
        version = self.deltas.version
        behind, factor = self._discipline.weigh(record, version)
        unit = Accepted(
            record.unit,
            record.attempt,
            record.incarnation,
            record.commit,
            frame_bytes(record.frame),
            factor,
            behind,
        )
        self._discipline.take(record, unit, version)
        self.ledger.accept(record.unit, record.attempt)
        self.accepted[self._number(record.unit)] = unit
        self._begun = True
        return verdict

    def _flush(self, record: Flush) -> Verdict:
        verdict = self.judge_flush(record.incarnation, record.segment)
        if verdict is Verdict.ADMIT:
            self._check_rates(f"flush of worker {record.incarnation}", record.learning_rates)
            self._discipline.flush(record)
            self._flushes.accept(record.incarnation, record.segment)
        return verdict

    def _check_rates(self, what: str, rates: Sequence[float]) -> None:
        if len(rates) != len(self.spec.optimizer.groups):
            raise ProtocolMismatch(
                f"{what}: the commit carries {len(rates)} learning rates, "
                f"the optimizer has {len(self.spec.optimizer.groups)} parameter groups"
            )

    def _close(self, record: Close) -> Delta:
        if record.step < self.ledger.step:
            return self._closed(record.step)
        units = self._discipline.due(record)
        delta = self._settle(
            units,
            record.step,
            clock=record.step + 1,
            closes=True,
            deposit=record.deposit,
            final=record.final,
            pause=record.pause,
            drain=record.drain,
        )
        self._discipline.trim(self.deltas, record.retain_from)
        self.ledger.close(record.step)
        self._segment_over = record.pause or record.final
        if not self.segment.elastic:
            self._advance(self.ledger.step * self.spec.streams)
        return delta

    def _publish_pending(self) -> Delta | None:
        units = self._discipline.pending()
        if not units and not self.backlog.flushed:
            return None
        delta = self._settle(units, self.ledger.step, clock=self.clock, closes=False)
        self._discipline.trim(self.deltas, self.ledger.step)
        return delta

    def _settle(
        self,
        units: Sequence[Accepted],
        step: int,
        *,
        clock: int,
        closes: bool,
        deposit: bool = False,
        final: bool = False,
        pause: bool = False,
        drain: bool = False,
    ) -> Delta:
        """Take the optimizer's step that `units` make, and publish."""
        told = (
            step if closes else clock
        )  # of an elastic segment all deltas but the last are of its first step
        with span("aggregate", step=told, units=len(units)):
            move = self._discipline.move(units)
        if move is not None:
            with span("optimize", step=told):
                self._optimizer.step(
                    move.gradient, move.learning_rates, share=move.share, averaged=move.averaged
                )
        with span("publish", step=told, version=self.deltas.version, shard=self.spec.shard) as publishing:
            frame = self._publish(step)
            publishing.know(bytes=frame_bytes(frame), units=[unit.unit[1:] for unit in units])
        delta = Delta(
            version=self.deltas.version,
            step=step,
            outcomes=tuple(Outcome(unit.unit, unit.factor) for unit in units),
            frame=frame,
            deposit=deposit,
            final=final,
            closes=closes,
            clock=clock,
            pause=pause,
            drain=drain,
        )
        self.deltas.append(delta)
        self._discipline.settled(units)
        return delta

    def _begin(self, record: Segment) -> None:
        if record == self.segment:
            return
        if record.number <= self.segment.number or not self.ledger.stands_at(record.step):
            raise ProtocolMismatch(
                f"segment {record.number} from step {record.step} on: this shard is in segment {self.segment.number} "
                f"at step {self.ledger.step} and holds {len(self.held)} unsettled units; a segment follows where every "
                "unit of earlier steps is settled, and no other"
            )
        if isinstance(self._discipline, Exact) and not record.elastic:
            self._discipline.go_on(record)
        else:
            fences = self.ledger.fences
            self._discipline = discipline(self._workshop(record), record, fences, self.deltas.version)
        self.segment = record
        self._segment_over = False
        self.accepted.clear()

    def _workshop(self, segment: Segment) -> Workshop:
        codec = self._elastic_push if segment.elastic else self._push
        return Workshop(self.spec, codec, self.trainable, self._rows)

    def _retire(self, incarnation: int) -> None:
        if incarnation not in self._retired:
            self._retired.add(incarnation)
            self._discipline.retire(incarnation)

    def _advance(self, low: int) -> None:
        self.accepted = {number: unit for number, unit in self.accepted.items() if self._untold(number, low)}

    def _untold(self, number: int, low: int) -> bool:
        """The coordinator may need to hear of it again: it is not counted, or waits for a close to name it."""
        return number >= low or number in self._discipline.held

    def _number(self, unit: UnitId) -> int:
        return unit.number(self.spec.streams)

    def _publish(self, step: int) -> tuple[bytes, ...]:
        try:
            return self._pull.publish(self._x, self._published, self.trainable, step=step)
        except FloatingPointError:
            raise BadUnit(
                f"step {step} made the model infinite or NaN on shard {self.spec.shard}, though every unit was finite; "
                "lower the learning rate or clip the gradients, and resume the newest checkpoint"
            ) from None

    def _closed(self, step: int) -> Delta:
        """The first answer to a close that is repeated."""
        delta = self.deltas.closing(step)
        if delta is None:
            raise ProtocolMismatch(f"close of step {step}: it is closed, and its delta is no longer retained")
        return delta

    def load(self, name: str, data: bytes) -> None:
        """Fill a plane from packed float32 (padding left out), before the first record.

        Raises: ProtocolMismatch once records have been applied, as by the late upload of a worker given up.
        """
        if self._begun or self.deltas.version != self.spec.segment.step:
            raise ProtocolMismatch(f"plane {name!r}: the run has begun, its initial planes are fixed")
        unpack(data, self.planes()[name], self.blocks)

    def image(self) -> State:
        """All of the state as it is between two records; nothing in it changes any more."""
        return {
            "spec": spec_to_tree(self.spec),
            "x": self._x.copy(),
            "published": self._published.copy(),
            "optimizer": self._optimizer.image(),
            "segment": segment_to_tree(self.segment),
            "segment_over": self._segment_over,
            "begun": self._begun,
            "deltas": self.deltas.image(),
            "discipline": self._discipline.image(),
            "accepted": [accepted_to_tree(unit) for unit in self.accepted.values()],
            "retired": sorted(self._retired),
            "flushes": self._flushes.image(),
        }

    def restore(self, tree: State) -> None:
        """Become what `image` showed, from a shard of the same spec and codecs that has applied nothing.

        Raises: KeyError, TypeError, ValueError where it is the image of something else; this shard is of no use then.
        """
        fill(self._x, tree["x"])
        fill(self._published, tree["published"])
        self._optimizer.restore(tree["optimizer"])
        self.segment = segment_from_tree(tree["segment"])
        self._segment_over, self._begun = tree["segment_over"], tree["begun"]
        self.deltas.restore(tree["deltas"])
        self._discipline = discipline(self._workshop(self.segment), self.segment, {}, self.deltas.version)
        self._discipline.restore(tree["discipline"])
        self.accepted = {self._number(unit.unit): unit for unit in map(accepted_from_tree, tree["accepted"])}
        self._retired = set(tree["retired"])
        self._flushes.restore(tree["flushes"])
