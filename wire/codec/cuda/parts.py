"""A frame's parts from planes on a device: group by group there, part by part on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from wire.codec.base import refuse_not_finite
from wire.codec.cuda.encode import encode_group
from wire.codec.cuda.group import Group, groups
from wire.codec.cuda.transfer import start_copy
from wire.codec.cut import Part
from wire.codec.parallel import in_order
from wire.codec.part import U8, U16, Planes, Raw, Update, part_bytes


def encode_parts(
    parts: Sequence[Part], update: Update, planes: Planes[torch.Tensor], *, threads: int
) -> Iterator[bytes]:
    """The bytes of each part, in order; moves the state in its rows.

    While a group's are made on the host, the device is at work on the next.
    """
    ahead: tuple[Group, Callable[[], list[U8]]] | None = None
    for group in groups(parts, planes.source.device, update.density):
        copy = start_copy(encode_group(group, update, planes))
        if ahead:
            yield from _finish(*ahead, threads)
        ahead = group, copy
    if ahead:
        yield from _finish(*ahead, threads)


def _finish(group: Group, copy: Callable[[], list[U8]], threads: int) -> Iterator[bytes]:
    """The bytes of the parts of a group whose sections are on their way."""
    sections = _Sections.of(copy(), group)
    ends = np.cumsum([part.blocks.count for part in group.parts]).tolist()
    spans = zip(group.parts, [0, *ends], ends, strict=False)
    return in_order(lambda span: sections.part_bytes(*span), spans, threads=threads)


class _Sections(NamedTuple):
    """`wire.codec.cuda.encode.Made` in host memory."""

    counts: U16
    gap_ends: np.ndarray[tuple[int], np.dtype[np.int64]]
    scales: U16
    gaps: U8
    signs: U8
    codes: U8
    bad: U8

    @classmethod
    def of(cls, copied: Sequence[U8], group: Group) -> _Sections:
        counts, gap_sizes, scales, gaps, signs, codes, bad = copied
        blocks = bad.size
        ends = np.concatenate([[0], np.cumsum(gap_sizes.view(np.uint16), dtype=np.int64)])
        wide = scales.view(np.uint16).reshape(blocks, -1)
        signs, codes = signs.reshape(blocks, -1), codes.reshape(blocks, -1)
        return cls(counts.view(np.uint16), ends, wide, gaps, signs, codes, bad)

    def part_bytes(self, part: Part, start: int, stop: int) -> bytes:
        """Of the blocks start .. stop - 1. Raises: FloatingPointError where one of them is not finite."""
        bad = np.flatnonzero(self.bad[start:stop])
        refuse_not_finite(int(bad[0]) if bad.size else -1, part.blocks)
        values, counts = part.chain.values, self.counts[start:stop]
        kept = counts.astype(np.int64)
        return part_bytes(
            part,
            Raw(
                counts,
                self.scales[start:stop],
                self.gaps[self.gap_ends[start] : self.gap_ends[stop]],
                _joined(self.signs[start:stop], (kept + 7) >> 3),
                _joined(self.codes[start:stop], (kept * values.code_bits + 7) >> 3),
            ),
        )


def _joined(rows: U8, sizes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> U8:
    """The first sizes[b] bytes of each row, one behind the other."""
    width = rows.shape[1]
    return rows.reshape(-1) if (sizes >= width).all() else rows[np.arange(width) < sizes[:, None]]
