"""What a shard is made from, what its log holds, and what it knows of a unit that stands here.

Records are values: the same ones in the same order make the same shard, bit for bit (ps/shard.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wire.codec.base import Buffer, Frame
from wire.ids import UnitId
from wire.layout import BlockRange, Layout
from wire.messages import Commit, OptimizerSpec


@dataclass(frozen=True)
class Segment:
    """How units are settled from `step` on; every unit of earlier steps is settled, and no other.

    Attributes:
        elastic: units of any step are accepted, in any order; estimates begin at zero, one a worker.
        arrival: elastic: units are settled in log order, at publications; else at closes.
        lag: exact: units of so many steps beyond the open one are accepted.
        owed: elastic, settled at closes: units of closed steps that may be missing at once.
    """

    number: int
    step: int
    elastic: bool = False
    arrival: bool = False
    lag: int = 0
    owed: int = 0


@dataclass(frozen=True)
class ShardSpec:
    """All that a shard is made from; equal specs and equal records give equal shards."""

    shard: int
    timeline: int
    plan: int
    layout: Layout
    ranges: tuple[BlockRange, ...]
    optimizer: OptimizerSpec
    streams: int
    aggregate: str
    segment: Segment
    """The first one; its step is the run's first."""
    damping: float = 0.5
    max_staleness: float = 8.0
    count_power: float = 0.0
    """γ, where `aggregate` is "count"."""
    weights: str = "uniform"


@dataclass(frozen=True)
class Accept:
    """A committed push that the ledger admitted. `frame` is empty for an empty unit.

    base_version: of this shard, that the unit was computed from; without meaning in an exact segment.
    """

    unit: UnitId
    attempt: int
    incarnation: int
    commit: Commit
    frame: Frame
    base_version: int = 0


@dataclass(frozen=True)
class Flush:
    """What a worker that leaves an elastic segment held back for later pushes, all of it: no unit, no samples.

    Attributes:
        learning_rates: one a parameter group, for a step that settles no unit beside it.
        frame: dense float32, whatever the codec of pushes.
    """

    incarnation: int
    segment: int
    learning_rates: tuple[float, ...]
    frame: Frame


@dataclass(frozen=True)
class Fence:
    """Refuse attempts of `stream` below `attempt`."""

    step: int
    stream: int
    attempt: int


@dataclass(frozen=True)
class Close:
    """Settle `late` and then exactly `streams` of `step`, in that order, and publish.

    Where units settle on arrival it names none: all that is accepted is settled, which is every unit up to `step`.
    `drain` is only handed on to those who compute.
    """

    step: int
    streams: tuple[int, ...]
    deposit: bool
    final: bool
    retain_from: int
    late: tuple[int, ...] = ()
    pause: bool = False
    drain: bool = False
    bound: float = 0.0
    """Of each unit counts what `wire.clipping` says; 0: all."""


@dataclass(frozen=True)
class Bound:
    """Where units settle on arrival: the bound on the norms of those that are accepted from now on; 0: none."""

    norm: float


@dataclass(frozen=True)
class Retire:
    """Refuse every later push of this worker, and take its estimate out of the sum."""

    incarnation: int


@dataclass(frozen=True)
class Publish:
    """Settle what is pending where units settle on arrival; no change where nothing is.

    Behind a close a flush alone is not published: the model stays as a checkpoint of that boundary has it.
    """

    reason: str


@dataclass(frozen=True)
class Advance:
    """Units below `low` are counted: those that are settled need not be told again."""

    low: int


@dataclass(frozen=True)
class Deposit:
    """The state of `stream` before the unit of `step`, by plane; a repeat replaces the same bytes."""

    stream: int
    step: int
    attempt: int
    planes: Mapping[str, Buffer]


@dataclass(frozen=True)
class Mark:
    """No change: primary and standby save and compare their states here."""


Record = Accept | Flush | Fence | Close | Segment | Retire | Publish | Advance | Bound | Deposit | Mark


@dataclass(frozen=True)
class Fenced:
    """Answer to a fence: whether the unit stands here all the same."""

    record: Fence
    accepted: bool


@dataclass(frozen=True)
class Accepted:
    """A unit that stands here: all that the coordinator is told of it.

    Attributes:
        factor: of it that is, or will be, in the model.
        behind: units by other workers that were accepted here since the version it was computed from.
    """

    unit: UnitId
    attempt: int
    incarnation: int
    commit: Commit
    frame_bytes: int
    factor: float
    behind: int

    @property
    def contributes(self) -> bool:
        """It moves the model: it is not empty, and not returned whole."""
        return self.commit.contributes and self.factor > 0
