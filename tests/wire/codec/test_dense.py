from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks, DamagedFrame
from wire.codec.dense import pack, unpack
from wire.layout import BLOCK, BlockRange, Layout, Parameter

LAYOUT = Layout((Parameter("a", (5000,), "float32", 0), Parameter("b", (3,), "float32", 0)))
BLOCKS = Blocks.of(LAYOUT, [BlockRange(0, 3)])


def plane(seed: int = 0) -> np.ndarray:
    """Random values, in the padding too, which must not travel."""
    return np.random.default_rng(seed).standard_normal((3, BLOCK)).astype(np.float32)


def test_pack_is_little_endian_float32_without_padding() -> None:
    p = plane()
    expected = np.concatenate([p[0], p[1][:904], p[2][:3]])
    assert pack(p, BLOCKS) == expected.astype("<f4").tobytes()


def test_unpack_sets_the_real_elements_only() -> None:
    p, into = plane(), np.zeros((3, BLOCK), np.float32)
    unpack(pack(p, BLOCKS), into, BLOCKS)
    assert pack(into, BLOCKS) == pack(p, BLOCKS)
    assert not into[1, 904:].any()
    assert not into[2, 3:].any()


@pytest.mark.parametrize("cut", [0, 1, 4, 20011])
def test_unpack_refuses_another_length(cut: int) -> None:
    into = np.zeros((3, BLOCK), np.float32)
    with pytest.raises(DamagedFrame, match="expected 20012"):
        unpack(bytes(cut), into, BLOCKS)
    assert not into.any()


def test_no_blocks_are_packed_into_nothing() -> None:
    assert pack(plane(), Blocks.of(LAYOUT, [])) == b""


def test_rows_of_a_shard_are_packed_in_the_order_of_its_blocks() -> None:
    p, swapped = plane(), Blocks.of(LAYOUT, [BlockRange(2, 3), BlockRange(0, 1)])
    assert pack(p, swapped) == np.concatenate([p[2][:3], p[0]]).tobytes()


def test_planes_that_do_not_hold_the_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="block row 2 of a plane of 2 rows"):
        pack(plane()[:2], BLOCKS)
    with pytest.raises(ValueError, match="block row 2 of a plane of 2 rows"):
        unpack(bytes(20012), plane()[:2], BLOCKS)
