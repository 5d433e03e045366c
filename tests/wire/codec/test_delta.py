"""The delta codec: setting against adding, and what an overflow does."""

from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks, Plane
from wire.codec.chain import delta_codec
from wire.codec.cut import Classes
from wire.layout import BLOCK, BlockRange, Layout, Parameter

LAYOUT = Layout((Parameter("w", (2, BLOCK), "float32", 0), Parameter("b", (3,), "float32", 0)))
BLOCKS = Blocks.of(LAYOUT, [BlockRange(0, 3)])


def plane(seed: int) -> Plane:
    made = np.random.default_rng(seed).standard_normal((3, BLOCK)).astype(np.float32)
    made[2, 3:] = 0.0
    return made


def test_a_dense_delta_sets_what_adding_would_miss() -> None:
    """x̂ + (x - x̂) is not x in floating point."""
    x, published, reader = plane(0), 1e4 * plane(1), plane(2)
    assert (published + (x - published) != x).any()
    codec = delta_codec(codec="dense")
    codec.apply(codec.publish(x, published, BLOCKS), reader, BLOCKS)
    for copy in (published, reader):
        np.testing.assert_array_equal(copy.view(np.uint32), x.view(np.uint32))


def test_a_dense_delta_keeps_negative_zeros() -> None:
    x, published = np.full((3, BLOCK), -0.0, np.float32), plane(1)
    codec = delta_codec(codec="dense")
    codec.publish(x, published, BLOCKS)
    assert np.signbit(published[:2]).all()


def test_a_policy_sets_its_parameters_and_adds_to_the_others() -> None:
    codec = delta_codec(codec="topk", density=1 / 64, classes=Classes.by_policy(LAYOUT, ["1d=fp32"]))
    x, published, reader = plane(0), np.zeros((3, BLOCK), np.float32), np.zeros((3, BLOCK), np.float32)
    reader[2, :3] = 7.0  # a reader that was elsewhere: what is set is right again, what is added is not
    codec.apply(codec.publish(x, published, BLOCKS), reader, BLOCKS)
    np.testing.assert_array_equal(reader, published)
    np.testing.assert_array_equal(reader[2], x[2])
    assert (np.count_nonzero(published[:2], axis=1) == 64).all()


def test_differences_in_bf16_add_up() -> None:
    """In fp32 the rest shrinks to float32's own rounding; in fewer bits it comes nearer with each delta."""
    for values, left in (("bf16", 2e-7), ("fp16", 2e-7), ("int8", 1e-5)):
        codec, x, published = (
            delta_codec(codec="dense", values=values),
            plane(0),
            np.zeros((3, BLOCK), np.float32),
        )
        for _ in range(3):
            codec.publish(x, published, BLOCKS)
        assert np.abs(x - published).max() < left * np.abs(x).max()


def test_a_difference_that_overflows_is_refused() -> None:
    big = np.full((3, BLOCK), 3e38, np.float32)
    with pytest.raises(FloatingPointError, match="block 0 of"):
        delta_codec(codec="topk", density=0.5).publish(big, -big, BLOCKS)


def test_no_blocks_make_a_frame_of_nothing() -> None:
    none, codec = Blocks.of(LAYOUT, []), delta_codec(codec="dense")
    frame = codec.publish(plane(0), plane(1), none)
    assert [len(piece) for piece in frame] == [24]
    codec.apply(frame, plane(1), none)
