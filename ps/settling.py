"""How the units of a segment are settled: three disciplines behind one signature, chosen by the segment.

| discipline | segment          | a frame is            | settled by                            | makes           |
|------------|------------------|-----------------------|---------------------------------------|-----------------|
| Exact      | exact, lag       | held                  | the close of its step, stream order   | a step          |
| Named      | elastic          | held                  | the close that names it               | a step          |
| Arrival    | elastic, arrival | added when it arrives | the next publication, in log order    | k / R of a step |

So R units move the model as far as one step, however publications group them (with the rule "sum" each
unit counts whole, so there a publication is a step). What a leaver flushes (elastic only) is added when it arrives, to
whatever is settled next; alone it makes 1 / R of a step, as one unit would. Deterministic, as the shard is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ps.aggregate import Aggregate, LaneAggregate
from ps.ledger import ArrivalLedger, ElasticLedger, Ledger
from ps.merge import Merge
from ps.publish import DeltaLog
from ps.records import Accept, Accepted, Close, Flush, Segment, ShardSpec
from ps.staleness import Staleness
from ps.trees import State, accepted_from_tree, accepted_to_tree, rates_from_tree
from wire.clipping import share_below
from wire.codec.base import Blocks, Decoded, Frame, PushCodec, buffers_of
from wire.errors import ProtocolMismatch
from wire.layout import BLOCK

Plane = NDArray[np.float32]


DECODED_BYTES = 256 << 20
"""Of pushes that are kept decoded until their step is closed; what goes beyond is decoded again then."""


@dataclass(frozen=True)
class Workshop:
    """What every discipline works with: the shard's spec and codec, its trainable blocks and the rows of its planes."""

    spec: ShardSpec
    codec: PushCodec
    trainable: Blocks
    rows: int


class Held(NamedTuple):
    """An accepted unit whose frame waits to be settled (empty where it is added already)."""

    unit: Accepted
    frame: Frame
    decoded: Decoded | None = None


class Move(NamedTuple):
    """One step of the optimizer: gradient [n, 4096], one learning rate a parameter group.

    share: of a whole step, in units. averaged: units that the gradient is a mean of, as a share of a step's.
    """

    gradient: Plane
    learning_rates: Sequence[float]
    share: float = 1.0
    averaged: float = 1.0


class Discipline(Protocol):
    """State of one segment.

    Attributes:
        held: accepted and not settled, by unit number, in the order of the log.
        flushes: accepted and not settled.
    """

    held: dict[int, Held]

    @property
    def flushes(self) -> int: ...

    @property
    def ledger(self) -> Ledger | ElasticLedger: ...

    @property
    def lanes(self) -> int:
        """Workers that sent units in this segment and are not retired."""
        ...

    def weigh(self, record: Accept, version: int) -> tuple[int, float]:
        """(behind, factor) of a unit that is accepted while the published model is at `version`.

        Raises: ProtocolMismatch where it was computed from a version that does not exist.
        """
        ...

    def take(self, record: Accept, unit: Accepted, version: int) -> None:
        """Keep an admitted unit. Raises: DamagedFrame, before anything has changed."""
        ...

    def flush(self, record: Flush) -> None:
        """Add what a leaver held back to what is settled next.

        Raises: ProtocolMismatch where nothing is held back; DamagedFrame. Nothing has changed then.
        """
        ...

    def due(self, record: Close) -> list[Accepted]:
        """What this close settles, in order, each with the factor that it then has; changes nothing.

        Raises: ProtocolMismatch where it contradicts the state.
        """
        ...

    def hold_to(self, bound: float) -> None:
        """Where units settle on arrival: of those accepted from now on counts what this bound on their norms lets."""
        ...

    def pending(self) -> list[Accepted]:
        """What a publication settles, in order."""
        ...

    def move(self, units: Sequence[Accepted]) -> Move | None:
        """The step that `units` and all flushes make; None where nothing contributes. Valid until the next call."""
        ...

    def settled(self, units: Iterable[Accepted]) -> None:
        """These units are in the model now, and all that was flushed."""
        ...

    def retire(self, incarnation: int) -> None:
        """Take this worker's estimate out of the sum."""
        ...

    def trim(self, deltas: DeltaLog, retain_from: int) -> None:
        """Forget deltas that nobody needs; those from step `retain_from` on are needed for replays."""
        ...

    def planes(self) -> dict[str, Plane]:
        """What a checkpoint holds of it."""
        ...

    def image(self) -> State: ...

    def restore(self, tree: State) -> None:
        """Become what `image` showed, from a discipline of the same segment that has taken nothing."""
        ...


class Exact:
    """Today's sync: held until the step is closed, summed in stream order."""

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
        decoded = _opened(self._shop, record)
        if decoded is not None:
            if self._decoded_bytes + decoded.memory_bytes > DECODED_BYTES:
                decoded = None
            else:
                self._decoded_bytes += decoded.memory_bytes
        _hold(self._shop, self.held, record, unit, decoded)

    def _opened(self, held: Held) -> Decoded:
        return held.decoded or self._shop.codec.decode(held.frame, self._shop.trainable)

    def flush(self, record: Flush) -> None:
        raise ProtocolMismatch(
            f"a flush of worker {record.incarnation} in exact segment {record.segment}: streams are handed over there, "
            "nobody holds anything back"
        )

    def due(self, record: Close) -> list[Accepted]:
        return _named(record, self.held, self.ledger.step, self._shop.spec.streams)

    def pending(self) -> list[Accepted]:
        return []

    def move(self, units: Sequence[Accepted]) -> Move | None:
        filled = _contributing(units, self.held, self._shop.spec.streams)
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
            "held": _held_to_tree(self.held),
            "aggregate": self._aggregate.image(),
        }

    def restore(self, tree: State) -> None:
        self.ledger.restore(tree["ledger"])
        self.held = _held_from_tree(tree["held"], self._shop.spec.streams)
        self._aggregate.restore(tree["aggregate"])


class _Elastic:
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
        gradient, rates = self._aggregate.gradient(0), _mean(self._flushed)
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
            "held": _held_to_tree(self.held),
            "aggregate": self._aggregate.image(),
            "staleness": self._staleness.image(),
            "lanes": sorted(self._lanes),
            "flushed": [list(rates) for rates in self._flushed],
            "bound": self._bound,
        }

    def restore(self, tree: State) -> None:
        self.ledger.restore(tree["ledger"])
        self.held = _held_from_tree(tree["held"], self._shop.spec.streams)
        self._aggregate.restore(tree["aggregate"])
        self._staleness.restore(tree["staleness"])
        self._lanes = set(tree["lanes"])
        self._flushed = rates_from_tree(tree["flushed"])
        self._bound = tree["bound"]


class Named(_Elastic):
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
        _opened(self._shop, record)
        _hold(self._shop, self.held, record, unit)
        self._note(record, version)

    def due(self, record: Close) -> list[Accepted]:
        return _named(record, self.held, self.ledger.step, self._shop.spec.streams)

    def pending(self) -> list[Accepted]:
        return []

    def move(self, units: Sequence[Accepted]) -> Move | None:
        filled = _contributing(units, self.held, self._shop.spec.streams)
        if not filled:
            return self._flushed_alone()
        shares = self._merge.shares([held.unit.commit.tokens for held in filled])
        for held, share in zip(filled, shares, strict=True):
            self._aggregate.add(held.unit.incarnation, held.frame, held.unit.factor * share)
        return Move(self._aggregate.gradient(len(filled)), _rates([h.unit for h in filled]))


class Arrival(_Elastic):
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
            return Move(gradient, _rates(filled))
        streams = self._shop.spec.streams
        return Move(gradient, _rates(filled), len(filled) / streams, min(averaged / streams, 1.0))


def discipline(shop: Workshop, segment: Segment, fences: dict[int, int], version: int) -> Discipline:
    """The discipline of a segment that begins while the published model is at `version`."""
    if not segment.elastic:
        return Exact(shop, segment, fences, version)
    kind = Arrival if segment.arrival else Named
    return kind(shop, segment, fences, version)


def _opened(shop: Workshop, record: Accept) -> Decoded | None:
    """The frame of a unit that contributes, checked. Raises: DamagedFrame."""
    return shop.codec.decode(record.frame, shop.trainable) if record.commit.contributes else None


def _hold(
    shop: Workshop, held: dict[int, Held], record: Accept, unit: Accepted, decoded: Decoded | None = None
) -> None:
    held[record.unit.number(shop.spec.streams)] = Held(unit, record.frame, decoded)


def _held_to_tree(held: dict[int, Held]) -> list[State]:
    """In the order of the log. Each frame in one piece: those that it came in are the sender's."""
    return [
        {"unit": accepted_to_tree(held.unit), "frame": b"".join(buffers_of(held.frame))}
        for held in held.values()
    ]


def _held_from_tree(tree: list[State], streams: int) -> dict[int, Held]:
    units = [Held(accepted_from_tree(held["unit"]), held["frame"]) for held in tree]
    return {held.unit.unit.number(streams): held for held in units}


def _named(record: Close, held: dict[int, Held], step: int, streams: int) -> list[Accepted]:
    """The units that a close names, from those that are held while `step` is open."""
    numbers = [*record.late, *(record.step * streams + stream for stream in record.streams)]
    missing = [number for number in numbers if number not in held]
    early = [number for number in record.late if number >= record.step * streams]
    if record.step != step or missing or early or len(set(numbers)) != len(numbers):
        raise ProtocolMismatch(
            f"close of step {record.step} with streams {list(record.streams)}, late {list(record.late)}: this shard "
            f"is at step {step} and holds the units {sorted(held)}, {streams} a step"
        )
    return [_clipped(held[number].unit, record.bound) for number in numbers]


def _clipped(unit: Accepted, bound: float) -> Accepted:
    share = share_below(bound, unit.commit.push_norm) if unit.commit.contributes else 1.0
    return unit if share == 1.0 else replace(unit, factor=unit.factor * share)


def _contributing(units: Sequence[Accepted], held: dict[int, Held], streams: int) -> list[Held]:
    """What is held of these units, with the factors that they have here."""
    return [held[unit.unit.number(streams)]._replace(unit=unit) for unit in units if unit.contributes]


def _rates(units: Sequence[Accepted]) -> tuple[float, ...]:
    """The mean of the units' learning rates, by parameter group."""
    return _mean([unit.commit.learning_rates for unit in units])


def _mean(rates: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(group) / len(rates) for group in zip(*rates, strict=True))
