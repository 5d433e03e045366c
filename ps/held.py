"""Accepted units that wait to be settled, and what every discipline does with them. Deterministic, as the shard is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ps.records import Accept, Accepted, Close, ShardSpec
from ps.trees import State, accepted_from_tree, accepted_to_tree
from wire.clipping import share_below
from wire.codec.base import Blocks, Decoded, Frame, PushCodec, buffers_of
from wire.errors import ProtocolMismatch

Plane = NDArray[np.float32]


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


def opened(shop: Workshop, record: Accept) -> Decoded | None:
    """The frame of a unit that contributes, checked. Raises: DamagedFrame."""
    return shop.codec.decode(record.frame, shop.trainable) if record.commit.contributes else None


def hold(
    shop: Workshop, held: dict[int, Held], record: Accept, unit: Accepted, decoded: Decoded | None = None
) -> None:
    held[record.unit.number(shop.spec.streams)] = Held(unit, record.frame, decoded)


def held_to_tree(held: dict[int, Held]) -> list[State]:
    """In the order of the log. Each frame in one piece: those that it came in are the sender's."""
    return [
        {"unit": accepted_to_tree(held.unit), "frame": b"".join(buffers_of(held.frame))}
        for held in held.values()
    ]


def held_from_tree(tree: list[State], streams: int) -> dict[int, Held]:
    units = [Held(accepted_from_tree(held["unit"]), held["frame"]) for held in tree]
    return {held.unit.unit.number(streams): held for held in units}


def named(record: Close, held: dict[int, Held], step: int, streams: int) -> list[Accepted]:
    """The units that a close names, from those that are held while `step` is open."""
    numbers = [*record.late, *(record.step * streams + stream for stream in record.streams)]
    missing = [number for number in numbers if number not in held]
    early = [number for number in record.late if number >= record.step * streams]
    if record.step != step or missing or early or len(set(numbers)) != len(numbers):
        raise ProtocolMismatch(
            f"close of step {record.step} with streams {list(record.streams)}, late {list(record.late)}: this shard "
            f"is at step {step} and holds the units {sorted(held)}, {streams} a step"
        )
    return [clipped(held[number].unit, record.bound) for number in numbers]


def clipped(unit: Accepted, bound: float) -> Accepted:
    share = share_below(bound, unit.commit.push_norm) if unit.commit.contributes else 1.0
    return unit if share == 1.0 else replace(unit, factor=unit.factor * share)


def contributing(units: Sequence[Accepted], held: dict[int, Held], streams: int) -> list[Held]:
    """What is held of these units, with the factors that they have here."""
    return [held[unit.unit.number(streams)]._replace(unit=unit) for unit in units if unit.contributes]


def mean_rates(units: Sequence[Accepted]) -> tuple[float, ...]:
    """The mean of the units' learning rates, by parameter group."""
    return mean([unit.commit.learning_rates for unit in units])


def mean(rates: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(math.fsum(group) / len(rates) for group in zip(*rates, strict=True))
