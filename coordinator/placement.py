"""Which server owns which blocks: as many bytes on each, the trainable ones spread for themselves."""

from __future__ import annotations

from collections.abc import Sequence

from wire.layout import BlockRange, Layout, merge


def place(layout: Layout, servers: int) -> list[tuple[BlockRange, ...]]:
    """The block ranges of each of `servers` shards.

    Trainable blocks (that travel every step) and frozen ones (that only take memory) are each
    cut into `servers` contiguous parts of equal size, give or take a block.
    """
    return [
        tuple(
            merge(
                part
                for trainable in (True, False)
                for part in _part(layout.select(trainable=trainable), shard, servers)
            )
        )
        for shard in range(servers)
    ]


def _part(ranges: Sequence[BlockRange], index: int, parts: int) -> list[BlockRange]:
    """Part `index` of the blocks of `ranges`, cut into `parts` runs."""
    total = sum(r.blocks for r in ranges)
    first, last = total * index // parts, total * (index + 1) // parts
    cut, offset = [], 0
    for r in ranges:
        start, stop = max(first - offset, 0), min(last - offset, r.blocks)
        if start < stop:
            cut.append(BlockRange(r.start + start, r.start + stop))
        offset += r.blocks
    return cut
