"""The push codec: arithmetic of its state, pieces on demand, and what is refused before or on the way."""

from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks, DamagedFrame, Plane
from wire.codec.chain import push_codec
from wire.codec.push import Push
from wire.layout import BLOCK

N = 130
BLOCKS = Blocks(*(np.arange(N), np.full(N, BLOCK, np.int32), np.arange(N)))
"""Three parts at density 1/4: 64, 64 and 2 blocks."""


def gaussian(seed: int = 0) -> Plane:
    return np.random.default_rng(seed).standard_normal((N, BLOCK)).astype(np.float32)


def codec_of(**more: object) -> Push:
    codec = push_codec(**({"codec": "topk", "density": 0.25, "feedback": "ef"} | more))  # type: ignore[arg-type]
    assert isinstance(codec, Push)
    return codec


def zeros(codec: Push) -> dict[str, Plane]:
    return {name: np.zeros((N, BLOCK), np.float32) for name in codec.state_planes}


def decoded(codec: Push, frame: bytes) -> Plane:
    into = np.zeros((N, BLOCK), np.float32)
    codec.add(frame, into, BLOCKS)
    return into


def test_momentum_rounds_each_product_and_the_sum() -> None:
    """v = fl(fl((1-eta) v) + fl(eta grad)): a fused multiply-add would differ in about a third of the bits."""
    codec = codec_of(feedback="ef21", momentum=0.3)
    state, v, estimate = zeros(codec), np.zeros((N, BLOCK), np.float32), np.zeros((N, BLOCK), np.float32)
    for step in range(3):
        gradient = gaussian(step)
        v = np.float32(1 - 0.3) * v + np.float32(0.3) * gradient
        estimate += decoded(codec, b"".join(codec.encode(gradient, state, BLOCKS)))
    np.testing.assert_array_equal(state["momentum"], v)
    np.testing.assert_array_equal(state["estimate"], estimate)


def test_decay_rounds_the_product_and_the_sum() -> None:
    codec = codec_of(decay=0.9)
    state, residual = zeros(codec), np.zeros((N, BLOCK), np.float32)
    for step in range(3):
        gradient = gaussian(step)
        residual = np.float32(0.9) * residual + gradient
        residual -= decoded(codec, b"".join(codec.encode(gradient, state, BLOCKS)))
    np.testing.assert_array_equal(state["residual"], residual)


def test_carry_goes_out_with_the_next_unit() -> None:
    codec = push_codec(codec="dense", carries=True)
    assert isinstance(codec, Push)
    state = zeros(codec)
    frame = b"".join(codec.encode(gaussian(0), state, BLOCKS))
    codec.give_back(frame, state, BLOCKS, share=0.5)
    np.testing.assert_array_equal(state["carry"], np.float32(0.5) * gaussian(0))
    second = decoded(codec, b"".join(codec.encode(gaussian(1), state, BLOCKS)))
    np.testing.assert_array_equal(second, gaussian(1) + np.float32(0.5) * gaussian(0))
    assert not state["carry"].any()


def test_a_dense_push_is_a_plain_float32_add() -> None:
    codec, into = push_codec(codec="dense"), gaussian(1)
    codec.add(b"".join(codec.encode(gaussian(0), {}, BLOCKS)), into, BLOCKS)
    np.testing.assert_array_equal(into, gaussian(1) + gaussian(0))


def test_a_factor_rounds_the_product_and_the_sum() -> None:
    codec = codec_of(values="int8")
    frame, into = b"".join(codec.encode(gaussian(0), zeros(codec), BLOCKS)), gaussian(1)
    expected = into + np.float32(0.3) * decoded(codec, frame)
    codec.add(frame, into, BLOCKS, factor=0.3)
    np.testing.assert_array_equal(into, expected)


def test_each_piece_is_made_when_it_is_asked_for() -> None:
    codec = codec_of()
    state = zeros(codec)
    pieces = codec.encode(gaussian(), state, BLOCKS)
    sizes = [len(next(pieces))]
    assert sizes == [24], "the header"
    assert not state["residual"].any()
    sizes.append(len(next(pieces)))
    assert state["residual"][:64].any(axis=1).all()
    assert not state["residual"][64:].any()
    sizes += map(len, pieces)
    assert len(sizes) == 4
    assert sum(sizes) <= codec.max_frame_bytes(BLOCKS)


def test_the_unit_matters_only_where_rounding_is_random() -> None:
    for codec, random in ((push_codec(codec="dense", values="int8"), True), (codec_of(values="int8"), False)):
        assert isinstance(codec, Push)
        frames = {
            b"".join(codec.encode(gaussian(), zeros(codec), BLOCKS, unit=unit)) for unit in (0, 1, 0, 1 << 40)
        }
        assert len(frames) == (3 if random else 1)


@pytest.mark.parametrize("threads", [1, 4])
def test_an_overflow_of_gradient_and_state_is_refused(threads: int) -> None:
    codec = codec_of(threads=threads)
    big = np.full((N, BLOCK), 3e38, np.float32)
    with pytest.raises(FloatingPointError, match="block 0 of"):
        b"".join(codec.encode(big, {"residual": big.copy()}, BLOCKS))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_at_once(value: float) -> None:
    """With the block's number in the layout, not its row."""
    gradient = gaussian()
    gradient[129, 4095] = value
    blocks = Blocks(BLOCKS.rows, BLOCKS.lengths, BLOCKS.numbers + 1000)
    with pytest.raises(FloatingPointError, match="block 1129 of"):
        codec_of().encode(gradient, {"residual": np.zeros_like(gradient)}, blocks)


def test_planes_of_another_shape_are_refused() -> None:
    codec = codec_of()
    with pytest.raises(ValueError, match="plane of 129 rows"):
        codec.encode(gaussian(), {"residual": np.zeros((129, BLOCK), np.float32)}, BLOCKS)
    frame = b"".join(codec.encode(gaussian(), zeros(codec), BLOCKS))
    with pytest.raises(ValueError, match="float64"):
        codec.add(frame, np.zeros((N, BLOCK)), BLOCKS)  # type: ignore[arg-type]


def test_a_damaged_last_part_leaves_all_rows_as_they_were() -> None:
    codec, into = codec_of(), np.zeros((N, BLOCK), np.float32)
    frame = bytearray(b"".join(codec.encode(gaussian(), zeros(codec), BLOCKS)))
    frame[-1] ^= 1
    with pytest.raises(DamagedFrame, match="checksum"):
        codec.add(bytes(frame), into, BLOCKS)
    assert not into.any()
