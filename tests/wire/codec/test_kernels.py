"""Each kernel against the oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.wire.codec.oracle import (
    CODE_BITS,
    HARD,
    KINDS,
    SCALES,
    N,
    encode,
    exactly,
    gaussian,
    indices,
    oracle,
    oracle_groups,
    oracle_integers,
    read,
    top,
    wide,
)
from wire.codec import kernels as ks


@pytest.mark.parametrize("name", KINDS)
def test_each_value_kind_decodes_to_the_oracle(name: str) -> None:
    values = KINDS[name]
    for label, block in HARD.items():
        for n in (N, 1, 7, 13):
            sections = encode(block[None], values, lengths=[n])
            assert sections.counts[0] == n and not sections.gaps.size, label
            found = read(values, sections)
            exactly(found, oracle(block[:n], values))
            assert np.isfinite(found).all(), label


@pytest.mark.parametrize("name", KINDS)
def test_each_value_kind_with_top_k(name: str) -> None:
    values = KINDS[name]
    for block in HARD.values():
        for n, k in ((N, 1), (N, 64), (N, 1024), (N, 4095), (N, N), (13, 4), (1, 1)):
            sections = encode(block[None], values, k, lengths=[n])
            where = top(block[:n], k)
            np.testing.assert_array_equal(indices(sections, [n]), where)
            if where.size:
                exactly(read(values, sections), oracle(block[where], values, where))
            else:
                assert not sections.codes.size and not sections.signs.size and not sections.scales.any()


@pytest.mark.parametrize("name", ["fp16", "bf16", "int8", "int4", "mxint4"])
def test_no_element_overshoots(name: str) -> None:
    """|c - C(c)| <= |c|: what is sent never adds to what is left."""
    for block in HARD.values():
        value = read(KINDS[name], encode(block[None], KINDS[name])).astype(np.float64)
        assert (np.abs(block - value) <= np.abs(block.astype(np.float64))).all()


@pytest.mark.parametrize("coarse", [1.5, 3.0, 4.0, 7.0, 16.0])
def test_coarse_steps_are_the_formulas(coarse: float) -> None:
    """And never so long that a block has nothing to send, which error feedback would wait for in vain."""
    for block in HARD.values():
        value = read(ks.INT4, encode(block[None], ks.INT4, coarse=coarse))
        exactly(value, oracle_integers(block, ks.INT4, np.arange(N), 0, 0, coarse))
        assert (np.abs(block - value.astype(np.float64)) <= np.abs(block.astype(np.float64))).all()
        assert value.any() == bool(np.abs(block).max() >= 2.0**-126)


@pytest.mark.parametrize("coarse", [1.5, 3.0, 16.0])
def test_coarse_steps_of_groups_are_the_formulas(coarse: float) -> None:
    """And each group that holds anything sends something, however small beside the others."""
    for label, block in HARD.items():
        value = read(ks.MXINT4, encode(block[None], ks.MXINT4, coarse=coarse))
        exactly(value, oracle_groups(block, coarse))
        assert (np.abs(block - value.astype(np.float64)) <= np.abs(block.astype(np.float64))).all()
        found, largest = (np.abs(x).reshape(-1, 64).max(1) for x in (value, block))
        assert (found > 0)[largest >= 2.0**-126].all(), label


@pytest.mark.parametrize("values", range(9))
def test_sections_are_joined_byte_by_byte(values: int) -> None:
    """Blocks of odd lengths one after the other are the sections of each alone."""
    blocks = np.stack([gaussian(seed=seed) for seed in range(4)])
    lengths, kept = [4096, 9, 1, 4095], [100, -1, 1, 33]
    together = encode(blocks, values, kept, lengths=lengths, key=5)
    alone = [
        encode(blocks[b : b + 1], values, kept[b], lengths=[lengths[b]], key=5, first=b) for b in range(4)
    ]
    for part in ("counts", "scales", "gaps", "signs", "codes"):
        expected = np.concatenate([getattr(one, part) for one in alone])
        np.testing.assert_array_equal(getattr(together, part), expected)
    assert together.codes.size == sum((int(k) * CODE_BITS[values] + 7) // 8 for k in together.counts)


# ── half precision ──────────────────────────────────────────────────────────────────────────────


def test_fp16_rounds_as_numpy_does_at_every_half() -> None:
    """Each half-precision number below 2^15, the midpoints between two, and their neighbours in float32."""
    halves = np.arange(0x7800, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[1:] + halves[:-1]) / 2
    numbers = np.concatenate(
        [f(x) for x in (halves, middles) for f in (np.array, lambda v: np.nextafter(v, np.float32(9e9)))]
        + [np.nextafter(middles, np.float32(0))]
    )
    for start in range(0, numbers.size, N - 1):
        block = np.append(numbers[start : start + N - 1], np.float32(16384.0)).astype(np.float32)
        if block.max() >= 32768:
            block = block[block < 32768]
        padded = np.zeros((1, N), np.float32)
        padded[0, : block.size] = block
        sections = encode(padded, ks.FP16, lengths=[block.size])
        assert sections.scales.tolist() == [[0x3F80]]
        np.testing.assert_array_equal(
            sections.codes.view(np.uint16), block.astype(np.float16).view(np.uint16)
        )


def test_fp16_at_all_scale_edges() -> None:
    """The largest of a block at and around each power of two that float32 has."""
    tail = np.linspace(-1, 1, 64)
    for e in range(-149, 128):
        for factor in (1.0, 1.0 + 2.0**-23, 1.5, 2.0 - 2.0**-11, 2.0 - 2.0**-12, 2.0 - 2.0**-23):
            block = np.ldexp(np.append(tail, 1.0) * factor, e).astype(np.float32)
            padded = np.zeros((1, N), np.float32)
            padded[0, :65] = block
            sections = encode(padded, ks.FP16, lengths=[65])
            exactly(read(ks.FP16, sections), oracle(block, ks.FP16))


# ── stochastic rounding ─────────────────────────────────────────────────────────────────────────


def test_stochastic_rounding_is_the_keyed_oracle() -> None:
    block = gaussian()[None]
    for key, number in ((1, 0), (2**64 - 1, 2**40 + 3), (0x123456789ABCDEF0, 7)):
        exactly(
            read(ks.INT8, encode(block, ks.INT8, key=key, first=number)),
            oracle(block[0], ks.INT8, None, key, number),
        )
        where = top(block[0], 100)
        exactly(
            read(ks.INT8, encode(block, ks.INT8, 100, key=key, first=number)),
            oracle(block[0, where], ks.INT8, where, key, number),
        )


def test_stochastic_rounding_is_unbiased() -> None:
    """The mean of 4,000 keys is within 5 standard errors of each element, and of their sum."""
    block, keys = np.zeros((1, N), np.float32), 4000
    block[0, :64] = np.append(gaussian(63), 10.0)
    total = np.zeros(64)
    for key in range(1, keys + 1):
        sections = encode(block, ks.INT8, lengths=[64], key=key)
        total += read(ks.INT8, sections)
    scale = float(wide(sections.scales)[0, 0])
    error = (total / keys - block[0, :64]) / scale
    assert np.abs(error).max() < 5 * 0.5 / math.sqrt(keys)
    assert abs(error.mean()) < 5 * 0.5 / math.sqrt(keys * 64)


def test_keys_and_blocks_draw_apart() -> None:
    block = gaussian()[None]
    drawn = [encode(block, ks.INT8, key=key, first=number).codes for key, number in ((1, 0), (2, 0), (1, 1))]
    again = encode(block, ks.INT8, key=1).codes
    np.testing.assert_array_equal(drawn[0], again)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.2 < np.mean(drawn[a] != drawn[b]) < 0.45  # 1/3 of independent draws


# ── feedback ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [ks.PLAIN, ks.CARRY, ks.RESIDUAL, ks.TRACK, ks.MOMENTUM])
@pytest.mark.parametrize("kept", [-1, 200])
@pytest.mark.parametrize("values", [ks.FP32, ks.INT4, ks.SIGN1])
def test_state_follows_the_equations(mode: int, kept: int, values: int) -> None:
    """Each product and each sum rounded to float32: a fused multiply-add would differ in a third of the bits."""
    source, state, momentum = (np.stack([gaussian(seed=s), gaussian(seed=s + 9)]) for s in range(3))
    decay, keep, take = (np.float32(w) for w in (0.95, 0.7, 0.3))
    expected, velocity = state.copy(), momentum.copy()
    if mode == ks.MOMENTUM:
        velocity = keep * momentum + take * source
    c = {
        ks.PLAIN: lambda: source,
        ks.CARRY: lambda: source + state,
        ks.RESIDUAL: lambda: decay * state + source,
        ks.TRACK: lambda: source - state,
        ks.MOMENTUM: lambda: velocity - state,
    }[mode]().copy()
    lengths = [N, 4001]
    sections = encode(
        source,
        values,
        kept,
        mode=mode,
        state=state,
        momentum=momentum,
        weights=(0.95, 0.7, 0.3),
        lengths=lengths,
    )
    found = read(values, sections)
    for b, n in enumerate(lengths):
        where = np.arange(n) if kept < 0 else top(c[b, :n], kept)
        value = oracle(c[b, where], values, where)
        exactly(found[: where.size], value)
        found = found[where.size :]
        if mode == ks.CARRY:
            expected[b, :n] = 0
        elif mode == ks.RESIDUAL:
            expected[b, :n] = c[b, :n]
            expected[b, where] -= value
        elif mode in (ks.TRACK, ks.MOMENTUM):
            expected[b, where] += value
        velocity[b, n:] = momentum[b, n:]
    exactly(state, expected)
    exactly(momentum, velocity)


def test_what_is_not_finite_is_refused() -> None:
    for wrong in (np.nan, np.inf, -np.inf):
        source = np.stack([gaussian(), gaussian(), gaussian()])
        source[1, 4000] = wrong
        assert ks.first_not_finite(source, np.array([2, 1, 0]), np.full(3, N, np.int32)) == 1
        assert ks.first_not_finite(source, np.array([2, 1, 0]), np.full(3, 4000, np.int32)) == -1
        assert encode(source, ks.SIGN1, 64).bad == 1
        assert encode(source, ks.FP32, lengths=[N, 4000, N]).bad == -1
    big = np.full((1, N), 3e38, np.float32)
    assert encode(big, ks.SIGN1, 64, mode=ks.RESIDUAL, state=big.copy()).bad == 0
    assert encode(big, ks.SIGN1, 64, mode=ks.TRACK, state=-big).bad == 0


# ── selection ───────────────────────────────────────────────────────────────────────────────────


def selected(block: np.ndarray, k: int, n: int = N) -> list[int]:
    return indices(encode(block[None], ks.SIGN, k, lengths=[n]), [n]).tolist()


def test_ties_go_to_the_lowest_index() -> None:
    for k in (1, 2, 100, 4095):
        assert selected(np.full(N, 0.5, np.float32), k) == list(range(k))
        assert selected(np.where(np.arange(N) % 2, -0.5, 0.5).astype(np.float32), k) == list(range(k))
    block = np.zeros(N, np.float32)
    block[[9, 90, 900, 4000]] = 1, -1, 1, 2
    assert [selected(block, k) for k in (1, 2, 3, 4, 5)] == [
        [4000],
        [9, 4000],
        [9, 90, 4000],
        [9, 90, 900, 4000],
        [9, 90, 900, 4000],
    ]


@pytest.mark.parametrize("low_bits", [0, 3, 16])
def test_selection_among_near_ties(low_bits: int) -> None:
    """Keys that share their upper bits, of which few or many are equal, at every k around them."""
    rng = np.random.default_rng(low_bits)
    keys = np.concatenate([np.full(3000, 0x3F800000), np.full(1096, 0x3F000000)])
    keys[:3000] += rng.integers(0, 1 << low_bits, 3000) if low_bits else 0
    block = rng.permutation(keys).astype(np.int32).view(np.float32)
    for k in (1, 2, 999, 2999, 3000, 3001, 4095):
        np.testing.assert_array_equal(selected(block, k), top(block, k))


def test_selection_does_not_depend_on_the_blocks_before() -> None:
    """The search starts at the threshold of the block before; blocks of any scale may follow each other."""
    blocks = np.stack(list(HARD.values()))
    order = np.random.default_rng(0).permutation(len(blocks) * 3) % len(blocks)
    for k in (3, 64, 1024):
        sections = encode(blocks[order], ks.SIGN, k)
        expected = np.concatenate([top(block, k) for block in blocks[order]])
        np.testing.assert_array_equal(indices(sections, [N] * order.size), expected)


# ── indices ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [1, 5, 64, 300, 1024, 4000])
def test_gaps_and_bitmap_hold_the_same_indices(k: int) -> None:
    blocks, lengths = np.stack([gaussian(seed=seed) for seed in range(3)]), [N, 4091, 3]
    sections = encode(blocks, ks.SIGN, k, lengths=lengths)
    sizes = np.array(lengths, np.int32)
    bitmap = np.zeros(512 + 512 + 1, np.uint8)
    ks.bitmap_from_gaps(sections.gaps, sections.counts, sizes, bitmap)
    out = np.empty(int(sections.counts.sum(dtype=np.int64)), np.uint16)
    assert ks.read_bitmap(bitmap, sections.counts, sizes, out)
    np.testing.assert_array_equal(out, indices(sections, lengths))
    assert not ks.read_gaps(sections.gaps[:-1], sections.counts, sizes, out)
    assert not ks.read_gaps(np.append(sections.gaps, np.uint8(0)), sections.counts, sizes, out)
    bitmap[-1] ^= 8
    assert not ks.read_bitmap(bitmap, sections.counts, sizes, out)


def test_gaps_of_255_and_more_escape() -> None:
    block, where = np.zeros(N, np.float32), [0, 255, 511, 767, 1278, 4095]
    block[where] = 1.0
    sections = encode(block[None], ks.SIGN, 6)
    assert sections.gaps.tolist() == [0, 254, 255, 0, 255, 0, 255, 255, 0] + [255] * 11 + [11]
    assert indices(sections, [N]).tolist() == where


# ── decoding ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "values, codes",
    [
        pytest.param(ks.FP32, np.float32([1, np.nan, 1]).tobytes(), id="NaN in fp32"),
        pytest.param(ks.FP32, np.float32([1, 1, -np.inf]).tobytes(), id="infinity in fp32"),
        pytest.param(ks.BF16, b"\x80\x3f\x80\xff\x80\x3f", id="infinity in bf16"),
        pytest.param(ks.BF16, b"\x80\x3f\xc0\x7f\x80\x3f", id="NaN in bf16"),
        pytest.param(ks.FP16, b"\0\x3c\0\x7c\0\x3c", id="infinity in fp16"),
        pytest.param(ks.FP16, b"\0\x3c\1\xfe\0\x3c", id="NaN in fp16"),
        pytest.param(ks.INT8, b"\x7f\x80\x81", id="-128 in int8"),
        pytest.param(ks.INT4, b"\x78\x01", id="-8 in int4"),
        pytest.param(ks.INT4, b"\x77\x11", id="half a byte behind the end of int4"),
        pytest.param(ks.MXINT4, b"\x87\x01", id="-8 in mxint4"),
        pytest.param(ks.MXINT4, b"\x77\x11", id="half a byte behind the end of mxint4"),
        pytest.param(ks.SIGN1, b"\x0a", id="bits behind the end of sign1"),
        pytest.param(ks.SIGN2, b"\x40", id="bits behind the end of sign2"),
        pytest.param(ks.INT8, b"\x7f\x7f", id="a code too few"),
        pytest.param(ks.INT8, b"\x7f\x7f\0\0", id="a code too many"),
    ],
)
def test_wrong_codes_are_refused(values: int, codes: bytes) -> None:
    scales = np.ones((1, SCALES[values]), np.float32)
    signs = np.zeros(1 if ks.SIGN <= values <= ks.SIGN2 else 0, np.uint8)
    out, counts = np.empty(3, np.float32), np.array([3], np.uint16)
    assert not ks.read_values(values, scales, counts, signs, np.frombuffer(codes, np.uint8), out)


@pytest.mark.parametrize("values", [ks.FP16, ks.INT8, ks.INT4, ks.MXINT4])
def test_an_overflow_after_scaling_is_refused(values: int) -> None:
    scales, out, counts = (
        np.full((1, 1), 2.0**127, np.float32),
        np.empty(2, np.float32),
        np.array([2], np.uint16),
    )
    codes = {ks.FP16: b"\0\0\0\x40", ks.INT8: b"\0\2", ks.INT4: b"\x20", ks.MXINT4: b"\x20"}[values]
    assert not ks.read_values(
        values, scales, counts, np.empty(0, np.uint8), np.frombuffer(codes, np.uint8), out
    )


def test_wrong_signs_are_refused() -> None:
    out, counts, scales = np.empty(3, np.float32), np.array([3], np.uint16), np.ones((1, 1), np.float32)
    for signs, fine in ((b"\7", True), (b"\x0f", False), (b"", False), (b"\7\0", False)):
        codes = np.empty(0, np.uint8)
        assert ks.read_values(ks.SIGN, scales, counts, np.frombuffer(signs, np.uint8), codes, out) is fine


def test_values_are_added_and_set_where_they_belong() -> None:
    lengths, rows = np.array([N, 7, 4000], np.int32), np.array([4, 0, 2])
    values, plane = gaussian(N + 7 + 4000), np.stack([gaussian(seed=seed) for seed in range(5)])
    added, set_, expected_sum, expected = plane.copy(), plane.copy(), plane.copy(), plane.copy()
    ks.add_all(values, lengths, rows, added)
    ks.set_all(values, lengths, rows, set_)
    at = 0
    for row, n in zip(rows, lengths, strict=True):
        expected_sum[row, :n] += values[at : at + n]
        expected[row, :n] = values[at : at + n]
        at += n
    exactly(added, expected_sum)
    exactly(set_, expected)
    counts, where = np.array([2, 1], np.uint16), np.array([3, 4095, 0], np.uint16)
    ks.scatter_add(where, np.float32([1, 2, 3]), counts, np.array([1, 3]), plane)
    expected_plane = np.stack([gaussian(seed=seed) for seed in range(5)])
    expected_plane[[1, 1, 3], [3, 4095, 0]] += np.float32([1, 2, 3])
    exactly(plane, expected_plane)


# ── quality ─────────────────────────────────────────────────────────────────────────────────────


def lloyd_error(values: np.ndarray, levels: int) -> float:
    centres = np.quantile(values, (np.arange(levels) + 0.5) / levels)
    for _ in range(200):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
        centres = np.array(
            [values[nearest == i].mean() if (nearest == i).any() else centres[i] for i in range(levels)]
        )
    return float(np.sum((values - centres[nearest]) ** 2))


@pytest.mark.parametrize("values", [ks.SIGN, ks.SIGN1, ks.SIGN2])
@pytest.mark.parametrize("k", [64, 1024])
def test_levels_are_near_lloyds_optimum(values: int, k: int) -> None:
    """Squared error of the kept values, against Lloyd's iteration run to the end from quantiles."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((16, N))
    for block in (normal, rng.laplace(size=(16, N)), normal**3):
        blocks = block.astype(np.float32)
        kept = np.concatenate([row[top(row, k)] for row in blocks]).astype(np.float64)
        error = np.sum((read(values, encode(blocks, values, k)) - kept) ** 2)
        ideal = sum(lloyd_error(np.abs(row), 1 << values - ks.SIGN) for row in kept.reshape(16, k))
        assert error < 1.05 * ideal + 1e-5 * np.sum(kept**2)


def test_int4_beats_the_scale_of_the_largest() -> None:
    """Squared error of whole blocks against max |c| / 7."""
    for label, gain in (("gaussian", 0.65), ("laplace", 0.5), ("cubed", 0.75)):
        c = HARD[label].astype(np.float64)
        found = read(ks.INT4, encode(HARD[label][None], ks.INT4))
        scale = np.abs(c).max() / 7
        assert np.sum((c - found) ** 2) < gain * np.sum((c - np.rint(c / scale) * scale) ** 2)


def test_groups_have_a_fraction_of_the_error_where_they_differ() -> None:
    """Squared error beside each group's own size, with a scale a group and with one a block."""
    scale = np.repeat(np.exp2(np.random.default_rng(0).uniform(-6, 0, 64)), 64)
    c = (gaussian() * scale).astype(np.float32)

    def error(values: int) -> float:
        left = ((c - read(values, encode(c[None], values)).astype(np.float64)) / scale) ** 2
        return float(left.sum())

    assert error(ks.MXINT4) < 0.1 * error(ks.INT4)


def test_warm_loads_each_kernel() -> None:
    ks.warm()
    entries = (
        ks.first_not_finite, ks.encode_blocks, ks.bitmap_from_gaps, ks.read_gaps, ks.read_bitmap, ks.read_values,
        ks.scatter_add, ks.add_all, ks.set_all, ks.products, ks.go_on,
    )  # fmt: skip
    assert all(function.signatures for function in entries)
