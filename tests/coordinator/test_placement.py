"""Placement: every block on one server, as many trainable and as many frozen bytes on each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.placement import place
from wire.layout import BLOCK, FROZEN, Layout, Parameter, intersect, merge

parameters = st.lists(
    st.tuples(st.integers(1, 12 * BLOCK), st.sampled_from([0, 1, FROZEN])), min_size=1, max_size=12
)


def layout_of(sizes: list[tuple[int, int]]) -> Layout:
    return Layout(tuple(Parameter(f"p{i}", (n,), "float32", g) for i, (n, g) in enumerate(sizes)))


@given(parameters, st.integers(1, 7))
def test_the_shards_part_the_blocks(sizes: list[tuple[int, int]], servers: int) -> None:
    layout = layout_of(sizes)
    parts = place(layout, servers)
    owned = [block for ranges in parts for r in ranges for block in range(r.start, r.stop)]
    assert len(parts) == servers and sorted(owned) == list(range(layout.blocks))
    assert all(list(ranges) == merge(ranges) for ranges in parts)


@given(parameters, st.integers(1, 7))
def test_trainable_and_frozen_blocks_are_each_spread(sizes: list[tuple[int, int]], servers: int) -> None:
    layout = layout_of(sizes)
    for trainable in (True, False):
        chosen = layout.select(trainable=trainable)
        counts = [sum(r.blocks for r in intersect(ranges, chosen)) for ranges in place(layout, servers)]
        assert max(counts) - min(counts) <= 1


def test_bytes_are_balanced_for_an_ordinary_model() -> None:
    layout = layout_of([(256 * 256, 0), (1 << 20, 0), (256, 1), (300_000, FROZEN)])
    bytes_ = [4 * layout.elements(ranges) for ranges in place(layout, 3)]
    assert max(bytes_) - min(bytes_) <= 2 * 4 * BLOCK


def test_placement_is_a_function_of_the_layout() -> None:
    layout = layout_of([(50_000, 0), (9, FROZEN), (9, 1)])
    assert place(layout, 4) == place(layout, 4)
