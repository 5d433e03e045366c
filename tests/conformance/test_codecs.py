"""What every codec, in every combination of its options, must do: one suite for all of them."""

from __future__ import annotations

import itertools
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.codec.base import Blocks, DamagedFrame, DeltaCodec, Plane, PushCodec
from wire.codec.chain import delta_codec, push_codec
from wire.codec.frame import CHECKSUM_AT
from wire.layout import BLOCK, BlockRange, Layout, Parameter

SIZES = (1, 2, 255, 4095, 4096, 4097, 12289)
LAYOUT = Layout(tuple(Parameter(f"p{n}", (n,), "float32", 0) for n in SIZES))
WHOLE = [BlockRange(0, LAYOUT.blocks)]
ALL = Blocks.of(LAYOUT, WHOLE)
REAL = np.arange(BLOCK) < ALL.lengths[:, None]


def pushes() -> Iterator[PushCodec]:
    yield push_codec(codec="dense", density=1.0, feedback="ef", momentum=1.0, magnitude_bits=0)
    options = itertools.product((1 / 64, 0.25, 1.0), (0, 1, 2), (("ef", 1.0), ("ef21", 1.0), ("ef21", 0.2)))
    for density, bits, (feedback, eta) in options:
        yield push_codec(codec="topk", density=density, feedback=feedback, momentum=eta, magnitude_bits=bits)


def deltas() -> Iterator[DeltaCodec]:
    yield delta_codec(codec="dense", density=1.0, magnitude_bits=0)
    for density, bits in itertools.product((1 / 64, 0.25, 1.0), (0, 1, 2)):
        yield delta_codec(codec="topk", density=density, magnitude_bits=bits)


def describe(codec: PushCodec | DeltaCodec) -> str:
    return "-".join(f"{v}" for k, v in sorted(vars(codec).items())) if codec.name != "dense" else "dense"


each_push = pytest.mark.parametrize("codec", list(pushes()), ids=describe)
each_delta = pytest.mark.parametrize("codec", list(deltas()), ids=describe)


def noise(seed: int) -> Plane:
    """Heavy-tailed values with exact zeros, negative zeros and a dead block; zero padding."""
    rng = np.random.default_rng(seed)
    plane = rng.standard_normal(REAL.shape).astype(np.float32) ** 3
    plane[rng.random(REAL.shape) < 0.1] = 0.0
    plane[rng.random(REAL.shape) < 0.1] = -0.0
    plane[-2] = 0.0
    return np.where(REAL, plane, np.float32(0))


def hostile_planes() -> dict[str, Plane]:
    """Planes at the edges of float32 and of selection."""
    rng = np.random.default_rng(7)

    def of(values: np.ndarray) -> Plane:
        return np.where(REAL, np.broadcast_to(values, REAL.shape), 0).astype(np.float32)

    return {
        "zero": of(np.zeros(1)),
        "negative zero": of(np.full(1, -0.0)),
        "equal": of(np.full(1, -3.25)),
        "denormal": of(rng.standard_normal(REAL.shape) * 1e-41),
        "least": of(np.full(1, 1e-45)),
        "huge": of(np.sign(rng.standard_normal(REAL.shape)) * 1.7e38),
        "wide": of(10.0 ** rng.uniform(-44, 37, REAL.shape)),
        "one": of((np.arange(BLOCK) == 3) * 2.0),
    }


def fresh(codec: PushCodec) -> dict[str, Plane]:
    return {name: np.zeros(REAL.shape, np.float32) for name in codec.state_planes}


def bits(plane: Plane) -> np.ndarray:
    return plane.view(np.uint32)


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────


@each_push
def test_mass_is_conserved(codec: PushCodec) -> None:
    """EF: produced = sent + residual. EF21: the worker's estimate is the sum of the decoded frames."""
    state, produced, total = fresh(codec), np.zeros(REAL.shape), np.zeros(REAL.shape, np.float32)
    for step in range(6):
        gradient = noise(step)
        produced += gradient
        frame = codec.encode(gradient, state, ALL)
        codec.add(frame, total, ALL)
        assert len(frame) <= codec.max_frame_bytes(ALL)
    if codec.estimates:
        np.testing.assert_array_equal(total, state["estimate"])
    else:
        kept = state["residual"].astype(np.float64) if codec.state_planes else 0.0
        error = np.linalg.norm(total + kept - produced) / np.linalg.norm(produced)
        assert error < 1e-6


@each_push
def test_hostile_values_stay_finite_and_conserved(codec: PushCodec) -> None:
    for name, gradient in hostile_planes().items():
        state, total = fresh(codec), np.zeros(REAL.shape, np.float32)
        codec.add(codec.encode(gradient, state, ALL), total, ALL)
        assert np.isfinite(total).all(), name
        if codec.estimates:
            np.testing.assert_array_equal(total, state["estimate"], err_msg=name)
        elif codec.state_planes:
            scale = np.abs(gradient).max()
            np.testing.assert_allclose(
                total.astype(np.float64) + state["residual"],
                gradient,
                rtol=1e-6,
                atol=scale * 1e-7,
                err_msg=name,
            )
        else:
            np.testing.assert_array_equal(total, gradient, err_msg=name)


@each_push
def test_padding_stays_zero(codec: PushCodec) -> None:
    state, total = fresh(codec), np.zeros(REAL.shape, np.float32)
    codec.add(codec.encode(noise(1), state, ALL), total, ALL)
    for plane in (total, *state.values()):
        assert not bits(plane)[~REAL].any()


@each_push
def test_one_shard_or_four_give_the_same_sums(codec: PushCodec) -> None:
    cuts = (0, 1, 4, 7, LAYOUT.blocks)
    parts = [[BlockRange(a, b)] for a, b in itertools.pairwise(cuts)]
    whole, split = fresh(codec), fresh(codec)
    one, four = (
        np.zeros(REAL.shape, np.float32),
        [np.zeros((p[0].stop - p[0].start, BLOCK), np.float32) for p in parts],
    )
    for step in range(3):
        gradient = noise(step)
        codec.add(codec.encode(gradient, whole, ALL), one, ALL)
        for ranges, own in zip(parts, four, strict=True):
            frame = codec.encode(gradient, split, Blocks.of(LAYOUT, ranges))
            codec.add(frame, own, Blocks.of(LAYOUT, ranges, local_to=ranges))
    np.testing.assert_array_equal(bits(one), bits(np.concatenate(four)))
    for name, plane in whole.items():
        np.testing.assert_array_equal(bits(plane), bits(split[name]))


@each_push
def test_saved_state_continues_as_if_never_stopped(codec: PushCodec) -> None:
    state = fresh(codec)
    codec.encode(noise(0), state, ALL)
    restored = {name: plane.copy() for name, plane in state.items()}
    assert codec.encode(noise(1), state, ALL) == codec.encode(noise(1), restored, ALL)


@each_push
def test_only_the_rows_of_the_blocks_change(codec: PushCodec) -> None:
    state, total = fresh(codec), np.zeros(REAL.shape, np.float32)
    some = Blocks.of(LAYOUT, [BlockRange(2, 4), BlockRange(6, 7)])
    codec.add(codec.encode(noise(3), state, some), total, some)
    others = np.setdiff1d(np.arange(LAYOUT.blocks), some.rows)
    for plane in (total, *state.values()):
        assert not bits(plane)[others].any()


@each_push
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(
    codec: PushCodec, poison: float
) -> None:
    state, gradient = fresh(codec), noise(0)
    gradient[LAYOUT.blocks - 2, BLOCK - 1] = poison
    with pytest.raises(FloatingPointError):
        codec.encode(gradient, state, ALL)
    assert not any(bits(plane).any() for plane in state.values())


@each_delta
def test_apply_equals_publish_bit_for_bit(codec: DeltaCodec) -> None:
    server, reader, x = (np.zeros(REAL.shape, np.float32) for _ in range(3))
    for step in range(6):
        x += noise(step)
        frame = codec.publish(x, server, ALL)
        codec.apply(frame, reader, ALL)
        assert len(frame) <= codec.max_frame_bytes(ALL)
        np.testing.assert_array_equal(bits(server), bits(reader))
    assert not bits(reader)[~REAL].any()
    if codec.name == "dense":
        np.testing.assert_array_equal(bits(reader), bits(x))


@each_delta
def test_the_published_model_reaches_a_model_that_stands_still(codec: DeltaCodec) -> None:
    x, published = noise(11), np.zeros(REAL.shape, np.float32)
    start = np.linalg.norm(x)
    for _ in range(200):
        codec.publish(x, published, ALL)
    # 200 steps at density 1/64 visit each element some three times; with signs alone the approach is slower.
    assert np.linalg.norm(x - published) < 0.25 * start


@each_delta
def test_hostile_values_publish_as_they_apply(codec: DeltaCodec) -> None:
    for name, x in hostile_planes().items():
        server, reader = np.zeros(REAL.shape, np.float32), np.zeros(REAL.shape, np.float32)
        codec.apply(codec.publish(x, server, ALL), reader, ALL)
        np.testing.assert_array_equal(bits(server), bits(reader), err_msg=name)
        assert np.isfinite(server).all(), name


@each_delta
def test_a_model_that_is_not_finite_is_refused(codec: DeltaCodec) -> None:
    x, published = noise(0), np.zeros(REAL.shape, np.float32)
    x[0, 0] = np.nan
    with pytest.raises(FloatingPointError):
        codec.publish(x, published, ALL)
    assert not published.any()


# ── hostile frames ──────────────────────────────────────────────────────────────────────────────

SMALL = Blocks.of(LAYOUT, [BlockRange(0, 3)])


def small_frame(codec: PushCodec | DeltaCodec) -> bytes:
    """A frame of blocks of 1, 2 and 255 elements."""
    if hasattr(codec, "publish"):
        return codec.publish(noise(0), np.zeros(REAL.shape, np.float32), SMALL)
    return codec.encode(noise(0), fresh(codec), SMALL)


def refused(codec: PushCodec | DeltaCodec, frame: bytes, blocks: Blocks = SMALL) -> bool:
    """Whether the decoder refuses; asserts that it raises nothing else and that a refusal changes nothing."""
    into = np.ones(REAL.shape, np.float32)
    try:
        codec.apply(frame, into, blocks) if hasattr(codec, "apply") else codec.add(frame, into, blocks)
    except DamagedFrame:
        assert (into == 1).all()
        return True
    assert np.isfinite(into).all()
    return False


def signed(frame: bytes) -> bytes:
    """The frame with a checksum that fits: what an attacker sends."""
    body = frame[:CHECKSUM_AT] + frame[CHECKSUM_AT + 4 :]
    return frame[:CHECKSUM_AT] + struct.pack("<I", zlib.crc32(body)) + frame[CHECKSUM_AT + 4 :]


each_codec = pytest.mark.parametrize(
    "codec", [*pushes(), *deltas()], ids=lambda c: type(c).__name__ + describe(c)
)


@each_codec
def test_truncated_at_any_byte_or_with_one_more_is_refused(codec: PushCodec | DeltaCodec) -> None:
    frame = small_frame(codec)
    assert not refused(codec, frame)
    for end in range(len(frame)):
        assert refused(codec, frame[:end])
    assert refused(codec, frame + b"\0")


@each_codec
def test_each_changed_byte_is_refused(codec: PushCodec | DeltaCodec) -> None:
    frame = small_frame(codec)
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 1 << (at % 8)
        assert refused(codec, bytes(changed))


@each_codec
def test_signed_mutations_are_refused_or_harmless(codec: PushCodec | DeltaCodec) -> None:
    """With a right checksum every decoder check is on its own: DamagedFrame or finite values, nothing else."""
    rng = random.Random(describe(codec))
    frame = small_frame(codec)
    for _ in range(150):
        changed = bytearray(frame)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
        refused(codec, signed(bytes(changed)))


@each_codec
def test_a_frame_of_other_blocks_is_refused(codec: PushCodec | DeltaCodec) -> None:
    frame = small_frame(codec)
    assert refused(codec, frame, Blocks.of(LAYOUT, [BlockRange(0, 4)]))
    assert refused(codec, frame, Blocks.of(LAYOUT, [BlockRange(0, 2)]))
    shorter = Blocks(SMALL.rows, np.array([1, 2, 3], np.int32))
    assert refused(codec, frame, shorter)


@each_push
def test_a_delta_is_no_push(codec: PushCodec) -> None:
    for delta in deltas():
        assert refused(codec, small_frame(delta))


@each_codec
def test_a_zstd_bomb_takes_no_memory(codec: PushCodec | DeltaCodec) -> None:
    """A section that tells a raw length beyond what its blocks can need, or another than its zstd header."""
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 24))
    frame = small_frame(codec)
    sections = frame[7]
    for raw in (1 << 24, len(bomb) + 1):
        table = b"".join(struct.pack("<II", raw, len(bomb)) for _ in range(sections))
        assert refused(codec, signed(frame[:16] + table + bomb * sections))


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    for codec in (
        next(pushes()),
        push_codec(codec="topk", density=0.25, feedback="ef", momentum=1, magnitude_bits=1),
    ):
        with pytest.raises(DamagedFrame):
            codec.validate(data, SMALL)


@given(
    length=st.integers(1, BLOCK),
    density=st.floats(0.001, 1.0),
    magnitude_bits=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 50),
)
@settings(max_examples=80, deadline=None)
def test_selection_is_exact(
    length: int, density: float, magnitude_bits: int, seed: int, distinct: int
) -> None:
    """Against a stable sort: the same elements, ties to the lowest index, zeros never; sums conserve mass."""
    blocks = Blocks(np.zeros(1, np.int64), np.full(1, length, np.int32))
    gradient = np.zeros((1, BLOCK), np.float32)
    rng = np.random.default_rng(seed)
    gradient[0, :length] = rng.integers(-distinct, distinct + 1, length) * np.float32(0.37)
    codec = push_codec(
        codec="topk", density=density, feedback="ef", momentum=1, magnitude_bits=magnitude_bits
    )
    state, total = {"residual": np.zeros_like(gradient)}, np.zeros_like(gradient)
    codec.add(codec.encode(gradient, state, blocks), total, blocks)
    order = np.argsort(-np.abs(gradient[0, :length]), kind="stable")[: int(np.ceil(density * length))]
    expected = np.sort(order[gradient[0, order] != 0])
    np.testing.assert_array_equal(np.flatnonzero(total[0]), expected)
    np.testing.assert_allclose(total + state["residual"], gradient, rtol=0, atol=1e-5)
