"""Elastic segments: units count by staleness, late ones too; a leaver's rest is added beside them.

`Named` holds a unit until a close names it, `Arrival` adds it when it arrives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ps.aggregate import LaneAggregate
from ps.held import (
    Held,
    Move,
    Plane,
    Workshop,
    contributing,
    held_from_tree,
    held_to_tree,
    hold,
    mean,
    mean_rates,
    named,
    opened,
)
from ps.ledger import ArrivalLedger, ElasticLedger
from ps.merge import Merge
from ps.publish import DeltaLog
from ps.records import Accept, Accepted, Close, Flush, Segment
from ps.staleness import Staleness
from ps.trees import State, rates_from_tree
from wire.clipping import share_below
from wire.errors import ProtocolMismatch
from wire.layout import BLOCK


class Elastic:
    """What the two elastic disciplines share: lanes, staleness, bounded retention; no planes for checkpoints."""

    def __init__(self, shop: Workshop, ledger: ElasticLedger, version: int, *, arrival: bool) -> None:
        spec = shop.spec
        self._shop = shop
        self._merge = Merge.of(spec)
        self._aggregate = LaneAggregate(
            shop.codec,
            shop.trainable,
            rows=shop.rows,
            merge=self._merge,
            counting=not arrival,
            gain=self._merge.gain(spec.streams) if arrival else 1.0,
        )
        self._staleness = Staleness(
            version,
            streams=spec.streams,
            aggregate=spec.aggregate,
            damping=spec.damping,
            max_staleness=spec.max_staleness,
        )
        self._lanes: set[int] = set()
        self._flushed: list[tuple[float, ...]] = []
        self._bound = 0.0
        self.ledger = ledger
        self.held: dict[int, Held] = {}

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def flushes(self) -> int:
        return len(self._flushed)

    def flush(self, record: Flush) -> None:
        if self._shop.codec.estimates:
            raise ProtocolMismatch(
                f"a flush of worker {record.incarnation}: with estimates (EF21) nothing is held back, nothing is added"
            )
        self._aggregate.flush(record.frame)
        self._flushed.append(record.learning_rates)

    def _flushed_alone(self) -> Move | None:
        """What was flushed, as if it were one unit."""
        if not self._flushed:
            return None
        gradient, rates = self._aggregate.gradient(0), mean(self._flushed)
        if self._shop.spec.aggregate == "sum":
            return Move(gradient, rates)
        share = 1 / self._shop.spec.streams
        return Move(gradient, rates, share, share)

    def weigh(self, record: Accept, version: int) -> tuple[int, float]:
        if record.base_version > version:
            raise ProtocolMismatch(
                f"{record.unit} was computed from version {record.base_version}, this shard is at {version}; "
                "send the version of this shard that the worker held"
            )
        behind, factor = self._staleness.weigh(record.base_version, record.incarnation)
        if not record.commit.contributes:
            return behind, 1.0
        return behind, factor * share_below(self._bound, record.commit.push_norm)

    def hold_to(self, bound: float) -> None:
        """Closes say it here, unless units settle on arrival."""

    def _note(self, record: Accept, version: int) -> None:
        self._lanes.add(record.incarnation)
        self._staleness.note(version, record.incarnation)

    def settled(self, units: Iterable[Accepted]) -> None:
        numbers = [unit.unit.number(self._shop.spec.streams) for unit in units]
        for number in numbers:
            del self.held[number]
        self.ledger.settle(numbers)
        self._flushed.clear()

    def retire(self, incarnation: int) -> None:
        self._lanes.discard(incarnation)
        self._aggregate.retire(incarnation)

    def trim(self, deltas: DeltaLog, retain_from: int) -> None:
        deltas.bound(4 * BLOCK * self._shop.rows)

    def planes(self) -> dict[str, Plane]:
        return {}

    def image(self) -> State:
        return {
            "ledger": self.ledger.image(),
            "held": held_to_tree(self.held),
            "aggregate": self._aggregate.image(),
            "staleness": self._staleness.image(),
            "lanes": sorted(self._lanes),
            "flushed": [list(rates) for rates in self._flushed],
            "bound": self._bound,
        }

    def restore(self, tree: State) -> None:
        self.ledger.restore(tree["ledger"])
        self.held = held_from_tree(tree["held"], self._shop.spec.streams)
        self._aggregate.restore(tree["aggregate"])
        self._staleness.restore(tree["staleness"])
        self._lanes = set(tree["lanes"])
        self._flushed = rates_from_tree(tree["flushed"])
        self._bound = tree["bound"]


class Named(Elastic):
    """Held until a close names them: steps that are closed short, and settled late."""

    def __init__(self, shop: Workshop, segment: Segment, fences: dict[int, int], version: int) -> None:
        spec = shop.spec
        super().__init__(
            shop,
            ElasticLedger(spec.timeline, spec.streams, segment.step, fences=fences),
            version,
            arrival=False,
        )

    def take(self, record: Accept, unit: Accepted, version: int) -> None:
        opened(self._shop, record)
        hold(self._shop, self.held, record, unit)
        self._note(record, version)

    def due(self, record: Close) -> list[Accepted]:
        return named(record, self.held, self.ledger.step, self._shop.spec.streams)

    def pending(self) -> list[Accepted]:
        return []

    def move(self, units: Sequence[Accepted]) -> Move | None:
        filled = contributing(units, self.held, self._shop.spec.streams)
        if not filled:
            return self._flushed_alone()
        shares = self._merge.shares([held.unit.commit.tokens for held in filled])
        for held, share in zip(filled, shares, strict=True):
            self._aggregate.add(held.unit.incarnation, held.frame, held.unit.factor * share)
        return Move(self._aggregate.gradient(len(filled)), mean_rates([h.unit for h in filled]))


class Arrival(Elastic):
    """Added when they arrive, settled together at the next publication."""

    def __init__(self, shop: Workshop, segment: Segment, fences: dict[int, int], version: int) -> None:
        spec = shop.spec
        super().__init__(
            shop,
            ArrivalLedger(spec.timeline, spec.streams, segment.step, fences=fences),
            version,
            arrival=True,
        )
        self._seen = (0, 0)
        """Units that moved the model, and their tokens."""

    def take(self, record: Accept, unit: Accepted, version: int) -> None:
        if unit.contributes:
            seen = self._seen[0] + 1, self._seen[1] + record.commit.tokens
            self._aggregate.add(record.incarnation, record.frame, unit.factor * self._share(record, *seen))
            self._seen = seen
        elif unit.commit.contributes:
            self._shop.codec.validate(record.frame, self._shop.trainable)
        self.held[record.unit.number(self._shop.spec.streams)] = Held(unit, b"")
        self._note(record, version)

    def hold_to(self, bound: float) -> None:
        self._bound = bound

    def _share(self, record: Accept, units: int, tokens: int) -> float:
        """n / n̄: its tokens, as a share of those of the mean unit so far, itself included."""
        return record.commit.tokens * units / tokens if self._merge.by_tokens and tokens else 1.0

    def image(self) -> State:
        return {**super().image(), "seen": list(self._seen)}

    def restore(self, tree: State) -> None:
        super().restore(tree)
        units, tokens = tree["seen"]
        self._seen = units, tokens

    def due(self, record: Close) -> list[Accepted]:
        if record.streams or record.late or not self.ledger.holds_all_before(record.step + 1):
            raise ProtocolMismatch(
                f"close of step {record.step} with streams {list(record.streams)}, late {list(record.late)}: units "
                f"settle on arrival here, so a close names none and finds every unit up to its step and no other; "
                f"the lowest missing one is {self.ledger.low}, {len(self.ledger.beyond)} beyond it are here, "
                f"R = {self._shop.spec.streams}"
            )
        return self.pending()

    def pending(self) -> list[Accepted]:
        return [held.unit for held in self.held.values()]

    def move(self, units: Sequence[Accepted]) -> Move | None:
        filled = [unit for unit in units if unit.contributes]
        if not filled:
            return self._flushed_alone()
        gradient, averaged = self._aggregate.gradient(len(filled)), self._aggregate.averaged(len(filled))
        if self._shop.spec.aggregate == "sum":
            return Move(gradient, mean_rates(filled))
        streams = self._shop.spec.streams
        return Move(gradient, mean_rates(filled), len(filled) / streams, min(averaged / streams, 1.0))
