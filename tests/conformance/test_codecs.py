"""What every codec, in every combination of its options, must do: one suite for all of them.

Hostile bytes are in test_hostile.py, the bytes themselves in test_vectors.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.combinations import (
    ALL,
    LAYOUT,
    REAL,
    VALUES,
    bits,
    every_delta,
    every_push,
    fresh,
    heavy_tailed,
    hostile_planes,
    noise,
    parametrized,
    push,
    received,
    sent,
    some_deltas,
    some_pushes,
)
from wire.codec.base import Blocks, Plane
from wire.codec.delta import Delta
from wire.codec.feedback import Feedback
from wire.codec.push import Push
from wire.codec.values import Values
from wire.layout import BLOCK, BlockRange

FLOAT32 = 2.0**-24
"""Relative error of one rounding."""

each_push = parametrized(some_pushes(), every_push())
each_delta = parametrized(some_deltas(), every_delta())
each_stateless = parametrized(c for c in some_pushes() if c.feedback <= Feedback.CARRY)
each_biased = parametrized(
    (c for c in some_pushes() if c.feedback > Feedback.CARRY),
    (c for c in every_push() if c.feedback > Feedback.CARRY),
)
each_with_state = parametrized(c for c in some_pushes() if c.state_planes)


def zeros() -> Plane:
    return np.zeros(REAL.shape, np.float32)


def energy(plane: Plane | np.ndarray) -> np.ndarray:
    """Sum of squares of each block."""
    squares: np.ndarray = np.square(plane.astype(np.float64)).sum(axis=1)
    return squares


# ── a frame stands for what the state gave up ───────────────────────────────────────────────────


@each_push
def test_what_is_decoded_is_what_the_state_gave_up(codec: Push) -> None:
    gradient, state = noise(0), fresh(codec)
    values = received(codec, sent(codec, gradient, state))
    if codec.feedback is Feedback.RESIDUAL:
        np.testing.assert_array_equal(state["residual"], gradient - values)
    elif codec.estimates:
        np.testing.assert_array_equal(state["estimate"], values)
    elif codec.state_planes:
        assert not state["carry"].any()


@pytest.mark.parametrize("carries", [False, True])
def test_whole_blocks_in_fp32_are_exact(carries: bool) -> None:
    codec, gradient = push("dense", 1.0, "fp32", "none", carries=carries), noise(0)
    np.testing.assert_array_equal(received(codec, sent(codec, gradient, fresh(codec))), gradient)


@each_biased
def test_compression_contracts(codec: Push) -> None:
    """|c - C(c)|^2 <= |c|^2 in each block, of top-k in fp32 (1 - k/n) |c|^2; but for signs in each element as well."""
    gradient = noise(4)
    if codec.feedback is Feedback.MOMENTUM:
        gradient *= np.float32(codec.eta)  # what a momentum that begins at zero is after one unit
    values = received(codec, sent(codec, noise(4), fresh(codec)))
    lost = gradient.astype(np.float64) - values
    share = np.ones(ALL.count)
    if codec.chain.values is Values.FP32 and not codec.chain.whole and codec.classes is None:
        share -= codec.chain.kept(ALL) / ALL.lengths
    assert (energy(lost) <= energy(gradient) * share * (1 + 1e-6)).all()
    if not codec.chain.values.signed_apart:
        assert (np.abs(lost) <= np.abs(gradient) * (1 + 1e-6)).all()


@each_push
def test_codes_are_as_fine_as_they_are_said_to_be(codec: Push) -> None:
    """Relative to the element (floats), or to the largest of the block (integers, rounded at random by up to one)."""
    steps = {Values.FP32: 0.0, Values.FP16: 2.0**-11, Values.BF16: 2.0**-8, Values.INT8: 1.02 / 127}
    if codec.classes is not None or codec.chain.values not in steps or codec.feedback is Feedback.MOMENTUM:
        return
    gradient, step = noise(5), steps[codec.chain.values]
    values = received(codec, sent(codec, gradient, fresh(codec)))
    kept = values != 0 if not codec.chain.whole else REAL
    largest = np.abs(gradient).max(axis=1, keepdims=True)
    # Half-precision numbers are denormal where they are far below the largest of their block.
    scale = largest if codec.chain.values is Values.INT8 else np.maximum(np.abs(gradient), largest * 2.0**-13)
    assert (np.abs(values - gradient) <= scale * step)[kept].all()


def test_int8_without_feedback_is_right_in_the_mean() -> None:
    """Over units, each element on its own and all together; units do not repeat each other's errors."""
    codec, gradient, units = push("dense", 1.0, "int8", "none"), noise(6), 400
    state, total, squares = fresh(codec), np.zeros(REAL.shape), np.zeros(REAL.shape)
    for unit in range(units):
        error = received(codec, sent(codec, gradient, state, unit=unit)) - gradient.astype(np.float64)
        total += error
        squares += error**2
    step = 1.01 * np.abs(gradient).max(axis=1, keepdims=True) / 127
    deviation = step / 2 / np.sqrt(units)
    assert (np.abs(total / units) <= 5.5 * deviation + 1e-12).all()
    assert (np.abs((total / units).sum(axis=1)) <= 5.0 * deviation[:, 0] * np.sqrt(ALL.lengths) + 1e-12).all()
    assert (squares / units <= step**2 / 4 * 1.4).all()


# ── mass ────────────────────────────────────────────────────────────────────────────────────────


@each_push
def test_mass_is_conserved(codec: Push) -> None:
    """EF: produced = sent + residual + forgotten. EF21: the estimate is the sum of the decoded frames, bit for bit."""
    state, produced, forgotten, total = fresh(codec), np.zeros(REAL.shape), np.zeros(REAL.shape), zeros()
    for step in range(6):
        gradient = noise(step)
        produced += gradient
        if codec.feedback is Feedback.RESIDUAL:
            forgotten += (1 - codec.decay) * state["residual"].astype(np.float64)
        frame = sent(codec, gradient, state, unit=step)
        codec.add(frame, total, ALL)
        assert len(frame) <= codec.max_frame_bytes(ALL)
    if codec.estimates:
        np.testing.assert_array_equal(total, state["estimate"])
    elif codec.feedback is Feedback.RESIDUAL:
        held = state["residual"].astype(np.float64)
        assert np.linalg.norm(total + held + forgotten - produced) < 1e-6 * np.linalg.norm(produced)
    elif codec.chain.exact and codec.classes is None:
        assert np.linalg.norm(total - produced) < 1e-6 * np.linalg.norm(produced)


@each_with_state
def test_what_is_given_back_and_what_is_applied_sum_to_the_frame(codec: Push) -> None:
    state, total = fresh(codec), zeros()
    for unit in range(2):
        codec.add(frame := sent(codec, noise(unit), state, unit=unit), total, ALL)
    before = {name: plane.astype(np.float64) for name, plane in state.items()}
    values = received(codec, frame).astype(np.float64)
    codec.give_back(frame, state, ALL, share=0.25)
    held = codec.state_planes[-1]
    moved = (state[held] - before[held]) * (-1 if codec.estimates else 1)
    np.testing.assert_allclose(
        moved, 0.25 * values, rtol=0, atol=4 * FLOAT32 * np.abs(before[held]).max() + 1e-30
    )
    for name in codec.state_planes[:-1]:
        np.testing.assert_array_equal(state[name], before[name])


@each_push
def test_hostile_values_stay_finite_and_conserved(codec: Push) -> None:
    for name, gradient in hostile_planes().items():
        state, total = fresh(codec), zeros()
        codec.add(sent(codec, gradient, state), total, ALL)
        assert np.isfinite(total).all(), name
        if codec.estimates:
            np.testing.assert_array_equal(total, state["estimate"], err_msg=name)
        elif codec.feedback is Feedback.RESIDUAL:
            scale = float(np.abs(gradient).max())
            together = total.astype(np.float64) + state["residual"]
            np.testing.assert_allclose(together, gradient, rtol=1e-6, atol=scale * 1e-7, err_msg=name)
        elif codec.chain.exact and codec.classes is None:
            np.testing.assert_array_equal(
                bits(total)[gradient != 0], bits(gradient)[gradient != 0], err_msg=name
            )


# ── where, and who ──────────────────────────────────────────────────────────────────────────────


@each_push
def test_padding_stays_zero_and_rows_outside_are_untouched(codec: Push) -> None:
    state, total = fresh(codec), zeros()
    some = Blocks.of(LAYOUT, [BlockRange(2, 5), BlockRange(6, 8), BlockRange(10, 11)])
    codec.add(sent(codec, noise(3), state, some), total, some)
    for plane in (total, *state.values()):
        assert not bits(plane)[~REAL].any()
        assert not bits(plane)[np.setdiff1d(np.arange(LAYOUT.blocks), some.rows)].any()


@each_push
def test_one_shard_or_four_give_the_same_sums(codec: Push) -> None:
    parts = [[BlockRange(a, b)] for a, b in itertools.pairwise((0, 1, 4, 7, LAYOUT.blocks))]
    whole, split, one = fresh(codec), fresh(codec), zeros()
    four = [np.zeros((p[0].stop - p[0].start, BLOCK), np.float32) for p in parts]
    for step in range(3):
        gradient = noise(step)
        codec.add(sent(codec, gradient, whole, unit=step), one, ALL)
        for ranges, own in zip(parts, four, strict=True):
            frame = sent(codec, gradient, split, Blocks.of(LAYOUT, ranges), unit=step)
            codec.add(frame, own, Blocks.of(LAYOUT, ranges, local_to=ranges))
    np.testing.assert_array_equal(bits(one), bits(np.concatenate(four)))
    for name, plane in whole.items():
        np.testing.assert_array_equal(bits(plane), bits(split[name]))


@each_push
def test_saved_state_continues_as_if_never_stopped(codec: Push) -> None:
    state = fresh(codec)
    sent(codec, noise(0), state)
    restored = {name: plane.copy() for name, plane in state.items()}
    again = replace(codec)
    assert sent(codec, noise(1), state, unit=1) == sent(again, noise(1), restored, unit=1)
    for name, plane in state.items():
        np.testing.assert_array_equal(bits(plane), bits(restored[name]))


@each_push
def test_a_frame_of_no_blocks_is_its_header(codec: Push) -> None:
    none = Blocks.of(LAYOUT, [])
    frame = sent(codec, noise(0), fresh(codec), none)
    assert len(frame) == codec.max_frame_bytes(none) == 24
    assert not received(codec, frame, none).any()


@each_push
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_refused_and_changes_nothing(codec: Push, poison: float) -> None:
    state, gradient = fresh(codec), noise(0)
    gradient[LAYOUT.blocks - 2, BLOCK - 1] = poison
    with pytest.raises(FloatingPointError, match=f"block {LAYOUT.blocks - 2} "):
        codec.encode(gradient, state, ALL)
    assert not any(bits(plane).any() for plane in state.values())


MANY = 150
MANY_BLOCKS = Blocks(*(np.arange(MANY), np.full(MANY, BLOCK, np.int32), np.arange(MANY)))


def without_policy(codec: Push | Delta) -> bool:
    """Blocks of other numbers than those of the layout have no class."""
    return codec.classes is None


@parametrized(filter(without_policy, some_pushes()))
def test_one_thread_or_eight_make_the_same_frames(codec: Push) -> None:
    one, eight = fresh(codec, (MANY, BLOCK)), fresh(codec, (MANY, BLOCK))
    frames = [
        sent(replace(codec, threads=t), heavy_tailed(0, MANY), s, MANY_BLOCKS)
        for t, s in ((1, one), (8, eight))
    ]
    assert frames[0] == frames[1]
    sums = [np.zeros((MANY, BLOCK), np.float32) for _ in range(2)]
    for threads, into in zip((1, 8), sums, strict=True):
        replace(codec, threads=threads).add(frames[0], into, MANY_BLOCKS)
    np.testing.assert_array_equal(bits(sums[0]), bits(sums[1]))
    for name, plane in one.items():
        np.testing.assert_array_equal(bits(plane), bits(eight[name]))


# ── the published model ─────────────────────────────────────────────────────────────────────────


@each_delta
def test_apply_equals_publish_bit_for_bit(codec: Delta) -> None:
    server, reader, x = zeros(), zeros(), zeros()
    for step in range(6):
        x += noise(step)
        frame = b"".join(codec.publish(x, server, ALL))
        codec.apply(frame, reader, ALL)
        assert len(frame) <= codec.max_frame_bytes(ALL)
        np.testing.assert_array_equal(bits(server), bits(reader))
    assert not bits(reader)[~REAL].any()
    if codec.chain.exact and codec.classes is None:
        np.testing.assert_array_equal(bits(reader), bits(x))


@each_delta
def test_each_delta_comes_nearer(codec: Delta) -> None:
    x, published = noise(11), zeros()
    for _ in range(5):
        before = energy(x - published)
        codec.publish(x, published, ALL)
        assert (energy(x - published) <= before * (1 + 1e-6)).all()


@parametrized(some_deltas())
def test_the_published_model_reaches_a_model_that_stands_still(codec: Delta) -> None:
    x, published = noise(11), zeros()
    for _ in range(200):
        codec.publish(x, published, ALL)
    # 200 steps at density 1/64 visit each element some three times; with signs alone the approach is slower.
    assert np.linalg.norm(x - published) < 0.25 * np.linalg.norm(x)


@each_delta
def test_hostile_values_publish_as_they_apply(codec: Delta) -> None:
    for name, x in hostile_planes().items():
        server, reader = zeros(), zeros()
        codec.apply(codec.publish(x, server, ALL), reader, ALL)
        np.testing.assert_array_equal(bits(server), bits(reader), err_msg=name)
        assert np.isfinite(server).all(), name


@each_delta
def test_one_shard_or_four_publish_the_same(codec: Delta) -> None:
    one, four = zeros(), zeros()
    for step in range(3):
        codec.publish(noise(step), one, ALL)
        for a, b in itertools.pairwise((0, 1, 4, 7, LAYOUT.blocks)):
            codec.publish(noise(step), four, Blocks.of(LAYOUT, [BlockRange(a, b)]))
    np.testing.assert_array_equal(bits(one), bits(four))


@each_delta
def test_a_delta_leaves_other_rows_alone(codec: Delta) -> None:
    server, reader = zeros(), zeros()
    some = Blocks.of(LAYOUT, [BlockRange(2, 5), BlockRange(10, 11)])
    codec.apply(codec.publish(noise(3), server, some), reader, some)
    for plane in (server, reader):
        assert not bits(plane)[~REAL].any()
        assert not bits(plane)[np.setdiff1d(np.arange(LAYOUT.blocks), some.rows)].any()


@each_delta
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_model_that_is_not_finite_is_refused(codec: Delta, poison: float) -> None:
    x, published = noise(0), zeros()
    x[0, 0] = poison
    with pytest.raises(FloatingPointError, match="block 0 "):
        codec.publish(x, published, ALL)
    assert not bits(published).any()


@parametrized(filter(without_policy, some_deltas()))
def test_one_thread_or_eight_publish_the_same(codec: Delta) -> None:
    one, eight = (np.zeros((MANY, BLOCK), np.float32) for _ in range(2))
    frames = [
        replace(codec, threads=t).publish(heavy_tailed(0, MANY), x, MANY_BLOCKS)
        for t, x in ((1, one), (8, eight))
    ]
    assert frames[0] == frames[1]
    np.testing.assert_array_equal(bits(one), bits(eight))


# ── selection ───────────────────────────────────────────────────────────────────────────────────


@given(
    length=st.integers(1, BLOCK),
    density=st.floats(0.001, 1.0),
    values=st.sampled_from(VALUES),
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 50),
)
@settings(max_examples=100, deadline=None)
def test_selection_is_exact(length: int, density: float, values: str, seed: int, distinct: int) -> None:
    """Against a stable sort: the same elements, ties to the lowest index, zeros never; sums conserve mass."""
    zero = np.zeros(1, np.int64)
    blocks = Blocks(zero, np.full(1, length, np.int32), zero)
    gradient = np.zeros((1, BLOCK), np.float32)
    rng = np.random.default_rng(seed)
    gradient[0, :length] = rng.integers(-distinct, distinct + 1, length) * np.float32(0.37)
    codec = push("topk", density, values, "ef")
    state, total = {"residual": np.zeros_like(gradient)}, np.zeros_like(gradient)
    frame = sent(codec, gradient, state, blocks)
    codec.add(frame, total, blocks)
    order = np.argsort(-np.abs(gradient[0, :length]), kind="stable")[: int(np.ceil(density * length))]
    expected = np.sort(order[gradient[0, order] != 0])
    (part,) = codec.decode(frame, blocks).parts
    np.testing.assert_array_equal(part.indices, expected)
    np.testing.assert_allclose(total + state["residual"], gradient, rtol=0, atol=1e-5)
