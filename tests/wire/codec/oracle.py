"""A slow oracle of the kernels in numpy, written from their docstrings, and blocks that are hard for them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from wire.codec import kernels as ks
from wire.codec.kernels.levels import LLOYD_ROUNDS, REACH

N = 4096
KINDS = {
    "fp32": 0,
    "fp16": 1,
    "bf16": 2,
    "int8": 3,
    "int4": 4,
    "sign": 5,
    "sign1": 6,
    "sign2": 7,
    "mxint4": 8,
}
CODE_BITS = (32, 16, 16, 8, 4, 0, 1, 2, 4)
SCALES = (0, 1, 0, 1, 1, 1, 2, 4, 64)
LARGEST = np.finfo(np.float32).max
DENORMAL = np.float32(2.0**-149)


class Sections(NamedTuple):
    counts: np.ndarray
    scales: np.ndarray
    gaps: np.ndarray
    signs: np.ndarray
    codes: np.ndarray
    bad: int


def encode(
    source: np.ndarray,
    values: int,
    kept: int | list[int] = -1,
    *,
    mode: int = ks.PLAIN,
    state: np.ndarray | None = None,
    momentum: np.ndarray | None = None,
    weights: tuple[float, float, float] = (1.0, 0.0, 1.0),
    lengths: list[int] | None = None,
    key: int = 0,
    first: int = 0,
    coarse: float = 1.0,
) -> Sections:
    """Sections of the rows of `source`, whole (kept < 0) or their top-k."""
    n = len(source)
    sizes = np.array(lengths or [N] * n, np.int32)
    counts, scales = np.empty(n, np.uint16), np.full((n, SCALES[values]), 0xAAAA, np.uint16)
    gaps, signs, codes = (np.full(size * n, 0xAA, np.uint8) for size in (N + 16, N // 8, 4 * N))
    state = np.zeros_like(source) if state is None else state
    gap_bytes, sign_bytes, code_bytes, bad = ks.encode_blocks(
        mode,
        np.array(weights, np.float32),
        source,
        state if momentum is None else momentum,
        state,
        np.arange(n),
        sizes,
        np.array(kept if isinstance(kept, list) else [kept] * n, np.int32),
        values,
        coarse,
        np.uint64(key),
        np.arange(first, first + n),
        counts,
        scales,
        gaps,
        signs,
        codes,
    )
    return Sections(counts, scales, gaps[:gap_bytes], signs[:sign_bytes], codes[:code_bytes], bad)


def wide(scales: np.ndarray, places: int = 16) -> np.ndarray:
    """float32 numbers of these upper bits."""
    return (scales.astype(np.uint32) << places).view(np.float32)


def read(values: int, s: Sections) -> np.ndarray:
    """The numbers that the codes stand for."""
    out = np.empty(int(s.counts.sum(dtype=np.int64)), np.float32)
    scales = wide(s.scales, 23 if values == ks.MXINT4 else 16)
    assert ks.read_values(values, scales, s.counts, s.signs, s.codes, out)
    return out


def indices(s: Sections, lengths: list[int]) -> np.ndarray:
    out = np.empty(int(s.counts.sum(dtype=np.int64)), np.uint16)
    assert ks.read_gaps(s.gaps, s.counts, np.array(lengths, np.int32), out)
    return out


def bits(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32).view(np.int32)


def exactly(found: np.ndarray, expected: np.ndarray) -> None:
    """Bit for bit, with the signs of zeros."""
    np.testing.assert_array_equal(bits(found), bits(expected))


# ── the oracle ──────────────────────────────────────────────────────────────────────────────────


def bfloat16(x: np.ndarray, *, up: bool = False) -> np.ndarray:
    """Nearest even (or up, of the not negative), at most the largest finite."""
    b = bits(np.abs(x)).astype(np.int64)
    b = (b + (0xFFFF if up else 0x7FFF + (b >> 16 & 1))) >> 16
    return np.copysign(wide(np.minimum(b, 0x7F7F).astype(np.uint16)), x)


def exponent(largest: float) -> int:
    return max(math.frexp(largest)[1] - 1, -126)


def integer_scale(largest: np.float32, steps: float) -> np.float32:
    most = bits(np.array([LARGEST / np.float32(steps)]))[0] & -0x10000
    scale = bfloat16(np.array([largest / np.float32(steps)]), up=True)[0]
    return min(max(scale, np.float32(2.0**-126)), np.array([most], np.int32).view(np.float32)[0])


def below_inverse(scale: np.float32) -> np.float32:
    inverse = np.float32(1 / np.float64(scale))
    return np.nextafter(inverse, np.float32(0)) if np.float64(inverse) * np.float64(scale) > 1 else inverse


def mixed(x: int) -> int:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    return x ^ x >> 16


def random_24(key: int, number: int, where: np.ndarray) -> np.ndarray:
    h = 0
    for half in (key & 0xFFFFFFFF, key >> 32, number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF):
        h = mixed(h ^ half)
    return np.array([mixed((h + 0x9E3779B9 * int(i)) & 0xFFFFFFFF) >> 8 for i in where])


def fixed_point(c: np.ndarray, digits: int) -> list[int]:
    """trunc(|c| 2^(digits-e)) as Python integers."""
    up = digits - exponent(float(np.abs(c).max()))
    return [int(math.ldexp(abs(float(value)), up)) for value in c]


def oracle_int4_scale(c: np.ndarray, coarse: float = 1.0) -> np.float32:
    h = fixed_point(c, 22)
    total, squares = sum(h), sum(m * m for m in h)
    most = min(integer_scale(np.abs(c).max(), max(7 / coarse, 1)), integer_scale(LARGEST, 7))
    if not total:
        return most
    s = (float(squares) / float(total) * 0.5 - float(total) / float(len(h)) * 0.3125) * coarse
    with np.errstate(over="ignore"):
        nearest = bfloat16(np.array([math.ldexp(s, exponent(float(np.abs(c).max())) - 22)], np.float32))[0]
    return min(max(nearest, np.float32(2.0**-126)), most)


def oracle_integers(
    c: np.ndarray, values: int, where: np.ndarray, key: int, number: int, coarse: float = 1.0
) -> np.ndarray:
    largest = np.abs(c).max()
    if not largest:
        return np.zeros_like(c)
    steps = 127 if values == ks.INT8 else 7
    scale = integer_scale(largest, 127) if values == ks.INT8 else oracle_int4_scale(c, coarse)
    y = np.abs(c) * below_inverse(scale)
    if values == ks.INT8 and key:
        up = (y - np.floor(y)).astype(np.float64) * 2**24 > random_24(key, number, where)
        q = np.floor(y) + up
    else:
        q = np.rint(y)
    q = np.minimum(q, steps).astype(np.int32)
    return np.where(c < 0, -q, q).astype(np.float32) * scale


def oracle_groups(c: np.ndarray, coarse: float = 1.0) -> np.ndarray:
    """mxint4, a group of 64 at a time."""
    return np.concatenate([oracle_group(c[at : at + 64], coarse) for at in range(0, c.size, 64)])


def oracle_group(c: np.ndarray, coarse: float) -> np.ndarray:
    largest = float(np.abs(c).max())
    if not largest:
        return np.zeros_like(c)
    h, e = fixed_point(c, 22), -126
    total, squares = sum(h), sum(m * m for m in h)
    if total:
        s = (squares / total / 2 - 5 / 16 * (total / len(h))) * coarse
        nearest = math.floor(math.log2(s * math.sqrt(2))) + exponent(largest) - 22
        fraction, above = math.frexp(largest)
        e = max(min(nearest, above - (fraction == 0.5), 125), -126)
    q = np.minimum(np.rint(np.abs(c).astype(np.float64) * 2.0**-e), 7)
    return np.where(c < 0, 0 - q, q).astype(np.float32) * np.float32(2.0**e)


def oracle_levels(c: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(class of each element, levels)."""
    m, e = fixed_point(c, 30), exponent(float(np.abs(c).max()))
    keys = [int(b) & 0x7FFFFFFF for b in bits(c)]
    base = max(min(keys), max(keys) - REACH)
    shift = max(0, (max(keys) - base).bit_length() - 9)
    bins = np.array([max(0, key - base) >> shift for key in keys])
    last = int(bins.max())

    held, number = np.zeros(513, np.int64), np.bincount(bins, minlength=513)
    np.add.at(held, bins, np.array(m))

    def mean(low: int, high: int, otherwise: int) -> int:
        inside = int(number[low:high].sum())
        return int(held[low:high].sum()) // inside if inside else otherwise

    def boundary(middle: int) -> int:
        pattern = int(bits(np.array([math.ldexp(middle, e - 30)], np.float32))[0])
        return max(min(pattern - base + (1 << shift >> 1) >> shift, last), 1)

    overall = mean(0, 513, 0)
    inner = [boundary(overall)] if classes > 1 else []
    if classes == 4:
        inner = [boundary(mean(0, inner[0], overall)), inner[0], boundary(mean(inner[0], 513, overall))]

    def means(inner: list[int]) -> list[int]:
        edges, found = [0, *inner, 513], [overall]
        for low, high in itertools.pairwise(edges):
            found.append(mean(low, high, found[-1]))
        return found[1:]

    for _ in range(LLOYD_ROUNDS):
        now = means(inner)
        inner = [boundary((a + b) >> 1) for a, b in itertools.pairwise(now)]
    levels = np.array([math.ldexp(value, e - 30) for value in means(inner)], np.float32)
    return np.searchsorted(np.array(inner), bins, side="right"), bfloat16(levels)


def oracle(
    c: np.ndarray, values: int, where: np.ndarray | None = None, key: int = 0, number: int = 0
) -> np.ndarray:
    """What a block is decoded to."""
    where = np.arange(c.size) if where is None else where
    largest = np.abs(c).max()
    if values == ks.FP32:
        return c
    if values == ks.BF16:
        return bfloat16(c)
    if values == ks.FP16:
        if not largest:
            return c
        e = max(exponent(float(largest)) - 14, -126)
        half = (c * np.float32(2.0**-e)).astype(np.float16)
        most = np.float16(32752 if e == 113 else 32768)
        return np.clip(half, -most, most).astype(np.float32) * np.float32(2.0**e)
    if values in (ks.INT8, ks.INT4):
        return oracle_integers(c, values, where, key, number)
    if values == ks.MXINT4:
        return oracle_groups(c)
    if not largest:
        return np.copysign(np.float32(0), c)
    classes, levels = oracle_levels(c, 1 << values - ks.SIGN)
    return np.copysign(levels[classes], c)


def top(c: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest magnitudes, ties to the lowest index, no zeros; ascending."""
    order = np.argsort(-np.abs(c.astype(np.float64)), kind="stable")[:k]
    return np.sort(order[c[order] != 0])


# ── data ────────────────────────────────────────────────────────────────────────────────────────


def gaussian(n: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def hard_blocks() -> dict[str, np.ndarray]:
    g = gaussian()
    sparse = np.where(np.arange(N) % 97, np.float32(0), g)
    outlier = g.copy()
    outlier[77] = 1e30
    mixed_zeros = g.copy()
    mixed_zeros[::3], mixed_zeros[1::3] = 0.0, -0.0
    return {
        "gaussian": g,
        "laplace": np.random.default_rng(1).laplace(size=N).astype(np.float32),
        "cubed": g**3,
        "small": g * np.float32(2.0**-120),
        "denormal": np.random.default_rng(2).integers(-9, 10, N).astype(np.float32) * DENORMAL,
        "one denormal": np.eye(1, N, 5, dtype=np.float32)[0] * DENORMAL,
        "at the edge of normal": np.linspace(-(2.0**-125), 2.0**-125, N).astype(np.float32),
        "all equal": np.full(N, -0.3, np.float32),
        "two magnitudes": np.where(np.arange(N) % 5 < 2, 1.0, -2.0).astype(np.float32),
        "largest finite": np.where(np.arange(N) % 2, LARGEST, -LARGEST),
        "up to the largest": np.linspace(-1, 1, N).astype(np.float32) * LARGEST,
        "zeros": np.zeros(N, np.float32),
        "negative zeros": np.full(N, -0.0, np.float32),
        "mixed zeros": mixed_zeros,
        "sparse": sparse,
        "outlier": outlier,
        "whole numbers": np.random.default_rng(3).integers(-127, 128, N).astype(np.float32),
        "all octaves": (
            np.ldexp(np.random.default_rng(4).uniform(0.5, 1, N), np.arange(N) % 277 - 148)
        ).astype(np.float32),
    }


HARD = hard_blocks()
