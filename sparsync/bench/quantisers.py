"""Two quantisers of two bits on the same values, in plain NumPy: ours, and the published one that it is held against.

Ours: the sign and one of two magnitudes, the means of Lloyd's two classes of the block, as bfloat16. The published
one: four uniform bins over 6 σ, one σ a tensor, each bin standing for the mean of what fell into it. It rounds to
multiples of 1.5 σ (so the bins' centres are −3, −1.5, 0 and 1.5 σ); `even` bins, with edges at −1.5, 0 and 1.5 σ, are
the kinder reading. The values are those that error feedback sends: the largest of each block of a residual.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire.codec.base import Plane

SIGMAS, BINS = 6.0, 4
LLOYD_ROUNDS = 10
DECAY = 0.95
"""Of the residual, in each round."""

F64 = NDArray[np.float64]


def kept_of_residual(rounds: Sequence[Plane], *, kept: int) -> F64:
    """[blocks, kept]: what the last round sends, e ← DECAY e + Δ, the `kept` largest of each block taken out."""
    residual = np.zeros(rounds[0].shape)
    values = np.empty((len(residual), kept))
    for update in rounds:
        residual = DECAY * residual + update
        chosen = np.argpartition(np.abs(residual), -kept, axis=1)[:, -kept:]
        values = np.take_along_axis(residual, chosen, axis=1)
        np.put_along_axis(residual, chosen, 0.0, axis=1)
    return values


def sign_and_lloyd(values: F64) -> F64:
    """[blocks, kept] → what a decoder makes of them: ± one of two levels a block."""
    size = np.abs(values)
    bound = size.mean(axis=1, keepdims=True)
    for _ in range(LLOYD_ROUNDS):
        low, high = _class_means(size, size > bound)
        bound = (low + high) / 2
    levels = np.where(size > bound, _bfloat16(high), _bfloat16(low))
    return np.copysign(levels, values)


def _class_means(size: F64, above: NDArray[np.bool_]) -> tuple[F64, F64]:
    """Means of the two classes of each row; of the whole row where a class is empty."""
    every = size.mean(axis=1, keepdims=True)
    means = []
    for members in (~above, above):
        count = members.sum(axis=1, keepdims=True)
        sums = np.where(members, size, 0.0).sum(axis=1, keepdims=True)
        means.append(np.where(count > 0, sums / np.maximum(count, 1), every))
    return means[0], means[1]


def _bfloat16(values: F64) -> F64:
    """The nearest bfloat16 number, ties to even."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def uniform_bins(values: F64, *, even: bool) -> F64:
    """The values of one tensor, any shape → the mean of the bin that each fell into."""
    centred = values - values.mean()
    width = SIGMAS * np.sqrt(np.square(centred).sum() / max(values.size - 1, 1)) / BINS
    if width == 0:
        return values.copy()
    place = np.floor(centred / width) if even else np.round(centred / width)
    bins = np.clip(place + BINS // 2, 0, BINS - 1).astype(np.int64)
    counts = np.bincount(bins.reshape(-1), minlength=BINS)
    sums = np.bincount(bins.reshape(-1), weights=values.reshape(-1), minlength=BINS)
    decoded: F64 = (sums / np.maximum(counts, 1))[bins]
    return decoded


def relative_mse(values: F64, decoded: F64) -> float:
    """Σ (v − v̂)² / Σ v²."""
    return float(np.square(values - decoded).sum() / np.square(values).sum())


def compare(rounds: Sequence[Plane], first_blocks: Sequence[int], *, kept: int) -> dict[str, float]:
    """Relative MSE of each quantiser on the same values, and the ratios of ours to the others."""
    values = kept_of_residual(rounds, kept=kept)
    tensors = np.split(values, [*first_blocks][1:])
    ours = relative_mse(values, sign_and_lloyd(values))
    published, even = (
        relative_mse(values, np.concatenate([uniform_bins(t, even=kind) for t in tensors]))
        for kind in (False, True)
    )
    return {
        "kept": kept,
        "sign_and_lloyd": ours,
        "uniform_published": published,
        "uniform_even": even,
        "ratio_to_published": ours / published,
        "ratio_to_even": ours / even,
    }
