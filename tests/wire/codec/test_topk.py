from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from wire.codec import kernels
from wire.codec.base import Blocks, DamagedFrame, Plane
from wire.codec.chain import delta_codec, push_codec
from wire.codec.frame import Kind, build, take_apart
from wire.codec.topk import BITMAP, Feedback, TopkDelta, TopkPush
from wire.layout import BLOCK

N = 64
BLOCKS = Blocks(np.arange(N, dtype=np.int64), np.full(N, BLOCK, np.int32))
LIMITS = [1 << 20] * 5


def gaussian(seed: int = 0, rows: int = N) -> Plane:
    return np.random.default_rng(seed).standard_normal((rows, BLOCK)).astype(np.float32)


def push(
    density: float, magnitude_bits: int, feedback: Feedback = Feedback.RESIDUAL, eta: float = 1.0
) -> TopkPush:
    return TopkPush(density=density, magnitude_bits=magnitude_bits, feedback=feedback, eta=eta)


def decoded(codec: TopkPush, frame: bytes, blocks: Blocks = BLOCKS) -> Plane:
    into = np.zeros((blocks.count, BLOCK), np.float32)
    codec.add(frame, into, blocks)
    return into


def test_momentum_rounds_each_product_and_the_sum() -> None:
    """v = fl(fl((1-eta) v) + fl(eta grad)): a fused multiply-add would differ in about a third of the bits."""
    codec = push(0.25, 1, Feedback.MOMENTUM, 0.3)
    state = {name: np.zeros((N, BLOCK), np.float32) for name in codec.state_planes}
    v, estimate = np.zeros((N, BLOCK), np.float32), np.zeros((N, BLOCK), np.float32)
    for step in range(3):
        gradient = gaussian(step)
        v = np.float32(1 - 0.3) * v + np.float32(0.3) * gradient
        estimate += decoded(codec, codec.encode(gradient, state, BLOCKS))
    np.testing.assert_array_equal(state["momentum"], v)
    np.testing.assert_array_equal(state["estimate"], estimate)


def test_warm_runs_each_kernel() -> None:
    kernels.warm()
    called_from_python = (
        kernels.first_not_finite,
        kernels.encode_blocks,
        kernels.bitmap_from_gaps,
        kernels.read_gaps,
        kernels.read_bitmap,
        kernels.read_values,
        kernels.scatter_add,
    )
    assert all(function.signatures for function in called_from_python)


def test_levels_are_near_lloyds_optimum() -> None:
    """Squared error of the kept values, against Lloyd's iteration run to the end from quantiles."""
    gradient = gaussian()
    for magnitude_bits, levels in ((0, 1), (1, 2), (2, 4)):
        codec = push(1 / 16, magnitude_bits)
        values = decoded(codec, codec.encode(gradient, {"residual": np.zeros_like(gradient)}, BLOCKS))
        error = ideal = power = 0.0
        for row, out in zip(gradient, values, strict=True):
            kept = np.abs(row[out != 0]).astype(np.float64)
            error += np.sum((np.abs(out[out != 0]) - kept) ** 2)
            ideal += lloyd_error(kept, levels)
            power += np.sum(kept**2)
        assert error < 1.1 * ideal + 1e-5 * power


def lloyd_error(values: np.ndarray, levels: int) -> float:
    centres = np.quantile(values, (np.arange(levels) + 0.5) / levels)
    for _ in range(200):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        centres = np.array(
            [values[nearest == i].mean() if (nearest == i).any() else centres[i] for i in range(levels)]
        )
    return float(np.sum((values - centres[nearest]) ** 2))


def test_levels_are_bfloat16() -> None:
    codec = push(0.25, 2)
    values = decoded(codec, codec.encode(gaussian(), {"residual": np.zeros((N, BLOCK), np.float32)}, BLOCKS))
    assert not (values.view(np.uint32) & 0xFFFF).any()
    assert all(np.unique(np.abs(row[row != 0])).size <= 4 for row in values)


@pytest.mark.parametrize("density", [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4])
def test_indices_are_within_four_percent_of_the_entropy(density: float) -> None:
    frame = push(density, 1).encode(gaussian(), {"residual": np.zeros((N, BLOCK), np.float32)}, BLOCKS)
    stored = int.from_bytes(frame[16 + 2 * 8 + 4 : 16 + 2 * 8 + 8], "little")
    k = int(BLOCK * density)
    floor = math.log2(math.comb(BLOCK, k)) * N / 8
    assert floor * 0.99 < stored < floor * 1.04


def test_a_bitmap_takes_over_where_it_is_shorter() -> None:
    """Gaps of random indices cost 3.3 bits each at density 1/4, 2 at 1/2; a bitmap 4 and 2."""
    gradient = gaussian()
    for density, bitmap in ((0.25, False), (0.5, True)):
        codec = push(density, 1)
        frame = codec.encode(gradient, {"residual": np.zeros_like(gradient)}, BLOCKS)
        option = take_apart(frame, Kind.TOPK_PUSH, N, LIMITS).option
        assert bool(option & BITMAP) is bitmap
        assert np.count_nonzero(decoded(codec, frame)) == N * BLOCK * density


def test_a_dead_block_costs_next_to_nothing() -> None:
    codec = push(0.25, 1)
    frame = codec.encode(
        np.zeros((N, BLOCK), np.float32), {"residual": np.zeros((N, BLOCK), np.float32)}, BLOCKS
    )
    assert len(frame) < 120
    assert not decoded(codec, frame).any()


def test_far_indices_escape() -> None:
    gradient = np.zeros((1, BLOCK), np.float32)
    where = [0, 255, 511, 767, 1278, 4095]
    gradient[0, where] = 1.0
    one = Blocks(np.zeros(1, np.int64), np.full(1, BLOCK, np.int32))
    codec = push(1 / 64, 0)
    frame = codec.encode(gradient, {"residual": np.zeros_like(gradient)}, one)
    assert np.flatnonzero(decoded(codec, frame, one)).tolist() == where
    gaps = bytes(take_apart(frame, Kind.TOPK_PUSH, 1, LIMITS).sections[2])
    assert gaps == bytes([0, 254, 255, 0, 255, 0, 255, 255, 0] + [255] * 11 + [11])


def test_the_frame_is_a_function_of_its_input_alone() -> None:
    """A golden digest of the raw sections, which no release of zstd can change."""
    gradient = (np.arange(N * BLOCK, dtype=np.int64) * 2654435761 % 65537 - 32768).astype(np.float32)
    state = {"residual": np.zeros((N, BLOCK), np.float32)}
    frame = push(1 / 16, 2).encode(gradient.reshape(N, BLOCK), state, BLOCKS)
    content = take_apart(frame, Kind.TOPK_PUSH, N, LIMITS)
    assert hashlib.sha256(b"".join(content.sections)).hexdigest() == (
        "a5d1079c992c90f591d2ab8e9047932d0d2970af31a6ec2c4db913d45c589dcc"
    )


def parts_of(frame: bytes) -> list[bytes]:
    return [bytes(section) for section in take_apart(frame, Kind.TOPK_PUSH, 1, LIMITS).sections]


def rebuilt(parts: list[bytes], option: int = 1) -> bytes:
    return build(Kind.TOPK_PUSH, option, 1, [(len(part), part) for part in parts])


# Three of twelve elements are kept: counts 3, two levels, gaps, three signs, three one-bit codes.
GOOD = [b"\3\0", b"\0\x3f\x80\x3f", b"\1\0\2", b"\5", b"\2"]
TWELVE = Blocks(np.zeros(1, np.int64), np.full(1, 12, np.int32))


def test_a_frame_made_by_hand_decodes_as_documented() -> None:
    out = decoded(push(0.25, 1), rebuilt(GOOD), TWELVE)[0, :12]
    assert out.tolist() == [0, -0.5, 1, 0, 0, -0.5, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "section, value",
    [
        pytest.param(0, b"\4\0", id="count above k"),
        pytest.param(0, b"\2\0", id="count below the gaps"),
        pytest.param(0, b"\3", id="half a count"),
        pytest.param(1, b"\0\xbf\x80\x3f", id="negative level"),
        pytest.param(1, b"\0\x80\x80\x3f", id="negative zero level"),
        pytest.param(1, b"\0\x3f\x80\x7f", id="infinite level"),
        pytest.param(1, b"\0\x3f\xc0\x7f", id="NaN level"),
        pytest.param(1, b"\0\x3f", id="a level too few"),
        pytest.param(2, b"\1\0\x09", id="index beyond the length"),
        pytest.param(2, b"\1\0\xff", id="escape beyond the length"),
        pytest.param(2, b"\1\0", id="a gap too few"),
        pytest.param(2, b"\1\0\2\0", id="a gap too many"),
        pytest.param(3, b"\x0d", id="sign bits behind the end"),
        pytest.param(3, b"", id="no signs"),
        pytest.param(3, b"\5\0", id="signs too long"),
        pytest.param(4, b"\x0a", id="code bits behind the end"),
        pytest.param(4, b"", id="no codes"),
    ],
)
def test_each_wrong_section_is_refused(section: int, value: bytes) -> None:
    parts = list(GOOD)
    parts[section] = value
    with pytest.raises(DamagedFrame):
        push(0.25, 1).validate(rebuilt(parts), TWELVE)


@pytest.mark.parametrize("bitmap", [b"\x26\x10", b"\x06\x00", b"\x2e\x00", b"\x26", b"\x26\0\0"])
def test_a_wrong_bitmap_is_refused(bitmap: bytes) -> None:
    codec = push(0.25, 1)
    good = [*GOOD[:2], b"\x26\x00", *GOOD[3:]]
    np.testing.assert_array_equal(
        decoded(codec, rebuilt(good, 1 | BITMAP), TWELVE), decoded(codec, rebuilt(GOOD), TWELVE)
    )
    with pytest.raises(DamagedFrame):
        codec.validate(rebuilt([*GOOD[:2], bitmap, *GOOD[3:]], 1 | BITMAP), TWELVE)


@pytest.mark.parametrize("option", [0, 2, 3, 65])
def test_other_magnitude_bits_are_refused(option: int) -> None:
    with pytest.raises(DamagedFrame):
        push(0.25, 1).validate(rebuilt(GOOD, option), TWELVE)


def test_an_overflow_of_gradient_and_state_is_refused() -> None:
    codec = push(0.25, 1)
    big = np.full((N, BLOCK), 3e38, np.float32)
    with pytest.raises(FloatingPointError, match="block row 0"):
        codec.encode(big, {"residual": big.copy()}, BLOCKS)


def test_the_factories_choose_feedback_and_refuse_nonsense() -> None:
    def planes(feedback: str, eta: float) -> tuple[str, ...]:
        codec = push_codec(codec="topk", density=0.5, feedback=feedback, momentum=eta, magnitude_bits=1)
        assert codec.estimates is (feedback == "ef21")
        return codec.state_planes

    assert planes("ef", 1.0) == ("residual",)
    assert planes("ef21", 1.0) == ("estimate",)
    assert planes("ef21", 0.5) == ("momentum", "estimate")
    good = {"codec": "topk", "density": 0.5, "feedback": "ef", "momentum": 1.0, "magnitude_bits": 1}
    bad = {"codec": "lz", "density": 0.0, "feedback": "none", "momentum": 0.0, "magnitude_bits": 3}
    for key, value in bad.items():
        with pytest.raises(ValueError, match=str(value)):
            push_codec(**{**good, "feedback": "ef21", key: value})
    with pytest.raises(ValueError, match="lz"):
        delta_codec(codec="lz", density=0.5, magnitude_bits=1)
    assert isinstance(delta_codec(codec="topk", density=0.5, magnitude_bits=1), TopkDelta)
