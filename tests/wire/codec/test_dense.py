from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks, DamagedFrame
from wire.codec.dense import DenseDelta, DensePush, pack, unpack
from wire.codec.frame import Kind, build
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


def test_frames_have_one_length() -> None:
    codec = DensePush()
    assert len(codec.encode(plane(), {}, BLOCKS)) == codec.max_frame_bytes(BLOCKS) == 24 + 4 * 5003


def test_add_is_a_plain_float32_add() -> None:
    codec, into = DensePush(), plane(1)
    expected = into + plane(0)
    codec.add(codec.encode(plane(0), {}, BLOCKS), into, BLOCKS)
    assert pack(into, BLOCKS) == pack(expected, BLOCKS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_the_decoder(value: float) -> None:
    raw = np.full(5003, value, "<f4").tobytes()
    with pytest.raises(DamagedFrame, match="NaN"):
        DensePush().validate(build(Kind.DENSE_PUSH, 0, 3, [(len(raw), raw)]), BLOCKS)
    with pytest.raises(DamagedFrame, match="NaN"):
        DenseDelta().apply(build(Kind.DENSE_DELTA, 0, 3, [(len(raw), raw)]), plane(), BLOCKS)


def test_an_unknown_option_is_refused() -> None:
    raw = bytes(4 * 5003)
    with pytest.raises(DamagedFrame, match="option 1"):
        DensePush().validate(build(Kind.DENSE_PUSH, 1, 3, [(len(raw), raw)]), BLOCKS)


def test_no_blocks_make_a_frame_of_nothing() -> None:
    none = Blocks.of(LAYOUT, [])
    assert len(DensePush().encode(plane(), {}, none)) == 24
    assert pack(plane(), none) == b""
