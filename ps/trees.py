"""A shard's values as trees of an image (ps/image.py), and back.

Each part of a shard has an `image`, which copies what may still change, and a way back from it. What can be derived
is left out; sets and tables are sorted, so that two shards with the same state have the same image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ps.records import Accepted, Segment, ShardSpec
from wire.ids import UnitId
from wire.layout import BlockRange, Layout, Parameter
from wire.messages import Commit, OptimizerSpec

State = dict[str, Any]
"""The image of one part: a tree as `ps.image.decode` gives it back, or one that was never written."""
Plane = NDArray[np.float32]


def fill(plane: Plane, values: Plane) -> None:
    """Set a plane in place, whatever looks into it. Raises: ValueError where `values` is no such plane."""
    if values.shape != plane.shape or values.dtype != plane.dtype:
        raise ValueError(f"{values.dtype}{list(values.shape)} for a plane {plane.dtype}{list(plane.shape)}")
    plane[:] = values


def pairs(table: Mapping[int, int]) -> list[list[int]]:
    """A table of numbers, sorted; `dict` of it is the table."""
    return [list(entry) for entry in sorted(table.items())]


def spec_to_tree(spec: ShardSpec) -> State:
    return {
        **vars(spec),
        "layout": [[p.name, list(p.shape), p.dtype, p.group] for p in spec.layout.parameters],
        "ranges": [list(r) for r in spec.ranges],
        "optimizer": {
            "kind": spec.optimizer.kind,
            "groups": [dict(group) for group in spec.optimizer.groups],
        },
        "segment": segment_to_tree(spec.segment),
    }


def spec_from_tree(tree: State) -> ShardSpec:
    parameters = (Parameter(name, tuple(shape), dtype, group) for name, shape, dtype, group in tree["layout"])
    optimizer = tree["optimizer"]
    return ShardSpec(
        **{
            **tree,
            "layout": Layout(tuple(parameters)),
            "ranges": tuple(BlockRange(*r) for r in tree["ranges"]),
            "optimizer": OptimizerSpec(optimizer["kind"], tuple(map(dict, optimizer["groups"]))),
            "segment": segment_from_tree(tree["segment"]),
        }
    )


def segment_to_tree(segment: Segment) -> State:
    return dict(vars(segment))


def segment_from_tree(tree: State) -> Segment:
    return Segment(**tree)


def accepted_to_tree(unit: Accepted) -> State:
    return {**vars(unit), "unit": list(unit.unit), "commit": dict(vars(unit.commit))}


def accepted_from_tree(tree: State) -> Accepted:
    commit = tree["commit"]
    rates = {name: tuple(commit.get(name, ())) for name in ("learning_rates", "inner_rates")}
    return Accepted(**{**tree, "unit": UnitId(*tree["unit"]), "commit": Commit(**{**commit, **rates})})


def copies(planes: Mapping[str, Plane]) -> dict[str, Plane]:
    """Planes as they are now."""
    return {name: plane.copy() for name, plane in planes.items()}


def fill_all(planes: Mapping[str, Plane], tree: Mapping[str, Plane]) -> None:
    """Set every plane. Raises: ValueError where the names differ, or a shape."""
    if planes.keys() != tree.keys():
        raise ValueError(f"planes {sorted(tree)} where there are {sorted(planes)}")
    for name, plane in planes.items():
        fill(plane, tree[name])


def rates_from_tree(tree: Iterable[Iterable[float]]) -> list[tuple[float, ...]]:
    return [tuple(rates) for rates in tree]
