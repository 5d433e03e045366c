"""Random histories of one shard: all that its log may hold, with what is refused, repeated or damaged between.

Seeded. What comes next depends on the state, so that histories get somewhere: segments of every kind are filled,
settled and followed by others.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ps.holdings import Holdings, Identity, shard_codecs
from ps.ledger import ElasticLedger
from ps.records import (
    Accept,
    Advance,
    Bound,
    Close,
    Deposit,
    Fence,
    Flush,
    Mark,
    Publish,
    Record,
    Retire,
    Segment,
    ShardSpec,
)
from ps.shard import Shard
from ps.store import Store
from tests.ps.models import ADAMW, LAYOUT, STREAMS, WHOLE, commit, plane, spec_of
from wire.codec.base import DamagedFrame
from wire.codec.chain import FLUSH
from wire.codec.dense import pack
from wire.config import Config
from wire.errors import SparsyncError
from wire.ids import UnitId
from wire.layout import BLOCK
from wire.messages import OptimizerSpec

RATES = (3e-3, 1e-2)
EXACT, NAMED, ARRIVAL = (False, False), (True, False), (True, True)


def outcome(holdings: Holdings, record: Record) -> object:
    """The answer to a record, or what it raised."""
    try:
        return holdings.apply(record)
    except (SparsyncError, DamagedFrame) as error:
        return type(error), str(error)


class History:
    """Makes records, one after the other, for a shard of the whole model.

    Args:
        kind: (elastic, arrival) of the first segment.
        turns: whether segments follow one another.
    """

    def __init__(
        self,
        seed: int,
        config: Config,
        *,
        optimizer: OptimizerSpec = ADAMW,
        kind: tuple[bool, bool] = EXACT,
        turns: bool = True,
    ) -> None:
        self.random = random.Random(seed)
        self.config = config
        self.spec: ShardSpec = spec_of(0, WHOLE, optimizer, config.optimizer.aggregate, Segment(0, 0, *kind))
        self.codecs = shard_codecs(self.spec, config)
        self._turns = turns
        self._planned: list[Callable[[Shard], Record | None]] = []
        self._oldest = 1  # incarnation that is not retired
        self._states = {
            codec: {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in codec.state_planes}
            for codec in self.codecs[::2]
        }

    def holdings(self, directory: Path, *, incarnation: int = 1) -> Holdings:
        """Where the history begins."""
        push, pull, elastic_push = self.codecs
        shard = Shard(self.spec, push, pull, elastic_push=elastic_push)
        for name in ("x", "published"):
            shard.load(name, pack(plane(1), shard.blocks))
        identity = Identity("run", self.spec.timeline, incarnation, self.config.to_json())
        holdings = Holdings(shard, Store(directory), identity)
        holdings.begin()
        return holdings

    def next(self, shard: Shard) -> Record:
        """What comes next for a shard in this state."""
        while self._planned:
            record = self._planned.pop(0)(shard)
            if record is not None:
                return record
        makers = {
            self._push: 50,
            self._close: 12 if not shard.segment.arrival else 3,
            self._publish: 8,
            self._flush: 4,
            self._fence: 5,
            self._deposit: 8,
            self._advance: 4,
            self._retire: 2,
            self._mark: 2,
            self._bound: 1,
            self._stray_segment: 1,
            self._turn: 2 if self._turns else 0,
        }
        (make,) = self.random.choices(list(makers), list(makers.values()))
        return make(shard)

    # --- what workers send -----------------------------------------------------------------------

    def _push(self, shard: Shard) -> Record:
        return self._unit(shard, self._number(shard))

    def _number(self, shard: Shard) -> int:
        ledger, rnd = shard.ledger, self.random
        if isinstance(ledger, ElasticLedger):
            missing = ledger.low + (0 if rnd.random() < 0.5 else rnd.randrange(2 * STREAMS))
            return max(missing - (rnd.random() < 0.1), 0)
        step = max(ledger.step + rnd.choice([0] * 8 + [-1, 1]), 0)
        return step * STREAMS + rnd.randrange(STREAMS)

    def _unit(self, shard: Shard, number: int) -> Record:
        rnd, version = self.random, shard.deltas.version
        empty = rnd.random() < 0.15
        frame = b"" if empty else self._frame(shard)
        if frame and rnd.random() < 0.04:
            frame = frame[:-1]
        elif frame and rnd.random() < 0.3:
            return self._accept(shard, number, memoryview(bytearray(frame)), version)
        return self._accept(shard, number, frame, version, empty="bad: loss is nan" if empty else "")

    def _accept(
        self, shard: Shard, number: int, frame: bytes | memoryview, version: int, *, empty: str = ""
    ) -> Accept:
        rnd = self.random
        said = commit(RATES, empty=empty)
        said = replace(said, loss=float("nan") if empty else rnd.random(), push_norm=2 * rnd.random())
        base = rnd.choice(
            [version, version, max(version - rnd.randrange(6), 0), version + (rnd.random() < 0.05)]
        )
        unit = UnitId.of(1, number, STREAMS)
        whole = frame if isinstance(frame, bytes) else (frame,)
        return Accept(unit, rnd.randrange(4), self._incarnation(), said, whole, base)

    def _frame(self, shard: Shard) -> bytes:
        codec = self.codecs.elastic_push if shard.segment.elastic else self.codecs.push
        values = plane(self.random.randrange(1 << 30)) * np.float32(0.1)
        return b"".join(codec.encode(values, self._states[codec], shard.trainable))

    def _flush(self, shard: Shard) -> Record:
        segment = shard.segment.number - (self.random.random() < 0.1)
        frame = b"".join(FLUSH.encode(plane(self.random.randrange(1 << 30)), {}, shard.trainable))
        return Flush(self._incarnation(), segment, RATES, frame)

    def _deposit(self, shard: Shard) -> Record:
        rnd = self.random
        step = max(shard.ledger.step + rnd.choice([0, 0, 1, -1, -3]), 0)
        planes = {
            "residual": rnd.randbytes(rnd.randrange(1, 40)),
            "extra": b"" if rnd.random() < 0.5 else b"{}",
        }
        return Deposit(rnd.randrange(STREAMS + 1), step, rnd.randrange(4), planes)

    def _incarnation(self) -> int:
        return self._oldest + self.random.choice([-1, 0, 0, 1, 1, 2, 2])

    # --- what the coordinator and the owner say --------------------------------------------------

    def _close(self, shard: Shard) -> Record:
        rnd, step = self.random, shard.ledger.step
        retain_from = max(step - rnd.randrange(6), 0)
        if step and rnd.random() < 0.1:  # a repeat, or one that is long forgotten
            return Close(step - rnd.choice([1, 1, 2]), (), False, False, step)
        if shard.segment.arrival:
            held_up_to = max(shard.ledger.clock - 1, step)
            return Close(held_up_to, (), rnd.random() < 0.5, False, retain_from)
        held = sorted(shard.held)
        if shard.segment.elastic:
            held = [number for number in held if rnd.random() < 0.8]
        streams = tuple(number - step * STREAMS for number in held if number // STREAMS == step)
        late = tuple(number for number in held if number < step * STREAMS)
        bound = rnd.choice([0.0, 0.0, 1.0])
        return Close(step, streams, rnd.random() < 0.3, False, retain_from, late, bound=bound)

    def _publish(self, shard: Shard) -> Record:
        return Publish("it is time")

    def _fence(self, shard: Shard) -> Record:
        rnd = self.random
        return Fence(max(shard.ledger.step - rnd.randrange(2), 0), rnd.randrange(STREAMS), rnd.randrange(3))

    def _advance(self, shard: Shard) -> Record:
        return Advance(max(shard.clock * STREAMS - self.random.randrange(4), 0))

    def _retire(self, shard: Shard) -> Record:
        self._oldest += 1
        return Retire(self._oldest - 1)

    def _mark(self, shard: Shard) -> Record:
        return Mark()

    def _bound(self, shard: Shard) -> Record:
        return Bound(self.random.choice([0.0, 0.5, 1.0]))

    def _stray_segment(self, shard: Shard) -> Record:
        """A repeat, or one that is out of turn while units are missing or held."""
        if self.random.random() < 0.5:
            return shard.segment
        return Segment(shard.segment.number + 1, shard.ledger.step + 1)

    def _turn(self, shard: Shard) -> Record:
        """Everything that is missing comes and is settled; then another segment begins."""
        end = max([shard.ledger.step * STREAMS, *shard.held, shard.clock * STREAMS])
        if isinstance(shard.ledger, ElasticLedger):
            end = max([end, shard.ledger.low - 1, *shard.ledger.beyond])
        steps = range(shard.ledger.step, end // STREAMS + 1)
        first = 0 if shard.segment.elastic else steps.start * STREAMS
        self._planned += [lambda s, n=n: self._fill(s, n) for n in range(first, steps.stop * STREAMS)]  # type: ignore[misc]
        for step in steps[-1:] if shard.segment.arrival else steps:
            self._planned.append(lambda s, step=step: self._close_whole(s, step, last=step == steps[-1]))  # type: ignore[misc]
        kind = self.random.choice([EXACT, NAMED, ARRIVAL])
        self._planned.append(lambda s: Segment(s.segment.number + 1, s.ledger.step, *kind))
        return Mark()

    def _fill(self, shard: Shard, number: int) -> Record | None:
        ledger = shard.ledger
        if isinstance(ledger, ElasticLedger) and (number < ledger.low or number in ledger.beyond):
            return None
        unit = UnitId.of(1, number, STREAMS)
        if unit.step != ledger.step and not isinstance(ledger, ElasticLedger):
            return None
        said = commit(RATES)
        return Accept(unit, 99, self._oldest + 1, said, self._frame(shard), shard.deltas.version)

    def _close_whole(self, shard: Shard, step: int, *, last: bool) -> Close:
        held = [] if shard.segment.arrival else sorted(shard.held)
        streams = tuple(number - step * STREAMS for number in held if number // STREAMS == step)
        late = tuple(number for number in held if number < step * STREAMS)
        return Close(step, streams, True, False, max(step - 2, 0), late, pause=last)
