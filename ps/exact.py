"""Exact segments: a unit is held until its step is closed, and summed in the order of streams."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ps.aggregate import Aggregate
from ps.held import (
    Held,
    Move,
    Plane,
    Workshop,
    contributing,
    held_from_tree,
    held_to_tree,
    hold,
    named,
    opened,
)
from ps.ledger import Ledger
from ps.merge import Merge
from ps.publish import DeltaLog
from ps.records import Accept, Accepted, Close, Flush, Segment
from ps.trees import State
from wire.codec.base import Decoded
from wire.errors import ProtocolMismatch

DECODED_BYTES = 256 << 20
"""Of pushes that are kept decoded until their step is closed; what goes beyond is decoded again then."""


class Exact:
    """Held until the step is closed, summed in stream order."""

    lanes = 0
    flushes = 0

    def __init__(self, shop: Workshop, segment: Segment, fences: dict[int, int], version: int) -> None:
        spec = shop.spec
        self._shop = shop
        merge = Merge.of(spec)
        self._aggregate = Aggregate(shop.codec, rows=shop.rows, streams=spec.streams, merge=merge)
        self.ledger = Ledger(spec.timeline, spec.streams, segment.step, fences=fences, lag=segment.lag)
        self.held: dict[int, Held] = {}
        self._decoded_bytes = 0

    def go_on(self, segment: Segment) -> None:
        """Another exact segment begins: streams go on with their state, and so do the sums of their estimates."""
        self.ledger.lag = segment.lag

    def weigh(self, record: Accept, version: int) -> tuple[int, float]:
        return 0, 1.0

    def take(self, record: Accept, unit: Accepted, version: int) -> None:
        """Decode at once, while others still compute: at the close there is only to add."""
        decoded = opened(self._shop, record)
        if decoded is not None:
            if self._decoded_bytes + decoded.memory_bytes > DECODED_BYTES:
                decoded = None
            else:
                self._decoded_bytes += decoded.memory_bytes
        hold(self._shop, self.held, record, unit, decoded)

    def _opened(self, held: Held) -> Decoded:
        return held.decoded or self._shop.codec.decode(held.frame, self._shop.trainable)

    def flush(self, record: Flush) -> None:
        raise ProtocolMismatch(
            f"a flush of worker {record.incarnation} in exact segment {record.segment}: streams are handed over there, "
            "nobody holds anything back"
        )

    def due(self, record: Close) -> list[Accepted]:
        return named(record, self.held, self.ledger.step, self._shop.spec.streams)

    def pending(self) -> list[Accepted]:
        return []

    def move(self, units: Sequence[Accepted]) -> Move | None:
        filled = contributing(units, self.held, self._shop.spec.streams)
        if not filled:
            return None
        tokens = [held.unit.commit.tokens for held in filled]
        pushes = ((self._opened(held), held.unit.factor) for held in filled)
        gradient = self._aggregate.gradient(pushes, tokens)
        # the coordinator closes no step whose commits disagree on the learning rates
        return Move(gradient, filled[0].unit.commit.learning_rates)

    def settled(self, units: Iterable[Accepted]) -> None:
        for unit in units:
            held = self.held.pop(unit.unit.number(self._shop.spec.streams))
            self._decoded_bytes -= held.decoded.memory_bytes if held.decoded is not None else 0

    def hold_to(self, bound: float) -> None:
        """Closes say it here."""

    def retire(self, incarnation: int) -> None:
        """Estimates are the streams', whoever carries them."""

    def trim(self, deltas: DeltaLog, retain_from: int) -> None:
        deltas.trim_steps(retain_from)

    def planes(self) -> dict[str, Plane]:
        return self._aggregate.planes()

    def image(self) -> State:
        """Without what was decoded: that is done again at the close."""
        return {
            "ledger": self.ledger.image(),
            "held": held_to_tree(self.held),
            "aggregate": self._aggregate.image(),
        }

    def restore(self, tree: State) -> None:
        self.ledger.restore(tree["ledger"])
        self.held = held_from_tree(tree["held"], self._shop.spec.streams)
        self._aggregate.restore(tree["aggregate"])
