from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from wire.codec.base import Blocks, DamagedFrame, check_density, check_plane
from wire.errors import by_name
from wire.layout import BLOCK, BlockRange, Layout, Parameter

LAYOUT = Layout((Parameter("a", (10000,), "float32", 0), Parameter("b", (3,), "float32", 0)))


def test_rows_are_block_numbers_and_lengths_leave_padding_out() -> None:
    blocks = Blocks.of(LAYOUT, [BlockRange(1, 4)])
    assert blocks.rows.tolist() == [1, 2, 3]
    assert blocks.lengths.tolist() == [4096, 1808, 3]
    assert (blocks.count, blocks.elements) == (3, 5907)


def test_local_rows_are_positions_in_the_shards_own_planes() -> None:
    owned = [BlockRange(0, 1), BlockRange(2, 4)]
    blocks = Blocks.of(LAYOUT, [BlockRange(2, 3), BlockRange(0, 1)], local_to=owned)
    assert blocks.rows.tolist() == [1, 0]
    assert blocks.lengths.tolist() == [1808, 4096]


def test_blocks_of_nothing() -> None:
    blocks = Blocks.of(LAYOUT, [], local_to=[])
    assert (blocks.count, blocks.elements, blocks.segments) == (0, 0, ())


@pytest.mark.parametrize(
    "ranges, owned", [([BlockRange(0, 5)], None), ([BlockRange(0, 2)], [BlockRange(1, 4)])]
)
def test_blocks_that_are_not_there_are_refused(
    ranges: list[BlockRange], owned: list[BlockRange] | None
) -> None:
    with pytest.raises(ValueError):
        Blocks.of(LAYOUT, ranges, local_to=owned)
    with pytest.raises(ValueError, match="own"):
        Blocks.of(LAYOUT, [BlockRange(0, 1)], local_to=[])


def test_segments_end_at_padding_and_at_jumps() -> None:
    assert Blocks.of(LAYOUT, [BlockRange(0, 4)]).segments == ((0, 10000), (3 * BLOCK, 3))
    assert Blocks.of(LAYOUT, [BlockRange(1, 2), BlockRange(0, 1)]).segments == ((BLOCK, BLOCK), (0, BLOCK))


def test_kept_is_the_ceiling_and_never_nothing() -> None:
    blocks = Blocks(np.arange(3), np.array([1, 65, 4096], np.int32), np.arange(3))
    assert blocks.kept(1 / 64).tolist() == [1, 2, 64]
    assert blocks.kept(1.0).tolist() == [1, 65, 4096]


@pytest.mark.parametrize("rows, lengths", [([-1], [1]), ([0], [0]), ([0], [4097]), ([0, 1], [1])])
def test_impossible_blocks_are_refused(rows: list[int], lengths: list[int]) -> None:
    with pytest.raises(ValueError):
        Blocks(np.array(rows, np.int64), np.array(lengths, np.int32), np.array(rows, np.int64))


def test_planes_of_another_shape_type_or_order_are_refused() -> None:
    blocks = Blocks.of(LAYOUT, [BlockRange(0, 4)])
    check_plane(np.zeros((4, BLOCK), np.float32), blocks)
    wrong = (
        np.zeros((3, BLOCK), np.float32),
        np.zeros((4, BLOCK)),
        np.zeros((4, 1), np.float32),
        np.zeros((4, 2 * BLOCK), np.float32)[:, ::2],
    )
    for plane in wrong:
        with pytest.raises(ValueError):
            check_plane(plane, blocks)


@pytest.mark.parametrize("density", [0.0, -1.0, 1.1, float("nan"), float("inf")])
def test_density_is_a_share(density: float) -> None:
    with pytest.raises(ValueError, match="density"):
        check_density(density)


def test_a_damaged_frame_is_a_protocol_error_with_an_exit_code() -> None:
    assert DamagedFrame.exit_code == by_name("ProtocolMismatch").exit_code


def test_import_stays_light() -> None:
    code = "import sys, wire.codec.base, wire.layout; sys.exit(any(m in sys.modules for m in ('numba', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
