"""Frames of the first steps are denser: by the step alone, within one bound, and as ever where that ends."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch

from wire.codec.base import Blocks, DamagedFrame, Plane, buffers_of
from wire.codec.chain import codecs_of, delta_codec, push_codec
from wire.codec.cut import Classes
from wire.codec.delta import Delta
from wire.codec.push import DecodedPush, Push
from wire.codec.warmup import Warmup
from wire.config import load
from wire.errors import ConfigError
from wire.layout import BLOCK, BlockRange, Layout, Parameter

STREAMS, FIRST, LAST, STEPS = 4, 0.25, 1 / 64, 10
WARMUP = Warmup(FIRST, LAST, STEPS)
LAYOUT = Layout(
    (Parameter("w", (150, BLOCK), "float32", 0), Parameter("odd", (3, 17), "float32", 0),
     Parameter("b", (100,), "float32", 0))
)  # fmt: skip
BLOCKS = Blocks.of(LAYOUT, [BlockRange(0, LAYOUT.blocks)])
LENGTHS = BLOCKS.lengths.astype(np.int64)


def gaussian(seed: int) -> Plane:
    made = np.random.default_rng(seed).standard_normal((LAYOUT.blocks, BLOCK)).astype(np.float32)
    return np.where(np.arange(BLOCK) < LENGTHS[:, None], made, np.float32(0))


def push_of(warmup: Warmup | None = WARMUP, *, feedback: str = "ef", classes: Classes | None = None) -> Push:
    codec = push_codec(
        codec="topk", density=LAST, feedback=feedback, classes=classes, warmup=warmup, streams=STREAMS
    )
    assert isinstance(codec, Push)
    return codec


def zeros(codec: Push) -> dict[str, Plane]:
    return {name: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for name in codec.state_planes}


def frame_of(codec: Push, unit: int, seed: int = 0) -> bytes:
    return b"".join(codec.encode(gaussian(seed), zeros(codec), BLOCKS, unit=unit))


def counts(decoded: DecodedPush) -> list[int]:
    return np.concatenate([part.counts for part in decoded.parts]).tolist()


def expected_counts(density: float) -> list[int]:
    return np.maximum(np.ceil(LENGTHS * density), 1).astype(int).tolist()


def entropy_bits(density: float) -> float:
    """Of a block: the places of k elements, and two bits each for sign and level."""
    kept = round(density * BLOCK)
    return math.log2(math.comb(BLOCK, kept)) + 2 * kept


# --- the density of a step -------------------------------------------------------------------------


def test_it_falls_by_the_same_factor_a_step() -> None:
    densities = [WARMUP.density(step) for step in range(STEPS + 3)]
    assert densities[0] == FIRST and densities[STEPS:] == [LAST] * 3
    assert densities == sorted(densities, reverse=True)
    factor = (LAST / FIRST) ** (1 / STEPS)
    for one, following in itertools.pairwise(densities[: STEPS + 1]):
        assert following / one == pytest.approx(factor, rel=0.01)
    assert all(d * BLOCK == int(d * BLOCK) for d in densities), "whole elements of a block"


@pytest.mark.parametrize(
    "first, last, steps", [(1.0, 1e-5, 7), (0.3, 0.3, 5), (0.1001, 0.1, 3), (1e-5, 1e-6, 4)]
)
def test_it_stays_between_its_ends(first: float, last: float, steps: int) -> None:
    warmup = Warmup(first, last, steps)
    assert warmup.density(steps) == last
    assert all(last <= warmup.density(step) <= first for step in range(steps))


# --- frames ----------------------------------------------------------------------------------------


def test_a_unit_keeps_what_its_step_says_in_whatever_order_units_come() -> None:
    codec = push_of()
    units = list(range(0, STREAMS * (STEPS + 2), 3))
    frames = {unit: frame_of(codec, unit) for unit in random.Random(1).sample(units, len(units))}
    for unit, frame in frames.items():
        density = WARMUP.density(unit // STREAMS)
        assert counts(codec.decode(frame, BLOCKS)) == expected_counts(density), unit
        assert frame == frame_of(codec, unit)
        assert len(frame) <= codec.max_frame_bytes(BLOCKS)
    sizes = [len(frames[unit]) for unit in units]
    assert sizes == sorted(sizes, reverse=True)
    computed = [entropy_bits(WARMUP.density(unit // STREAMS)) for unit in units]
    for size, bits in zip(sizes, computed, strict=True):
        assert size / sizes[0] == pytest.approx(bits / computed[0], rel=0.12)


@pytest.mark.parametrize("feedback", ["ef", "ef21"])
def test_mass_is_conserved_and_what_is_sent_is_what_the_state_gave_up(feedback: str) -> None:
    codec = push_of(feedback=feedback)
    state, applied, produced = (
        zeros(codec),
        np.zeros((LAYOUT.blocks, BLOCK)),
        np.zeros((LAYOUT.blocks, BLOCK)),
    )
    for step in range(STEPS + 2):
        produced += gaussian(step)
        frame = b"".join(codec.encode(gaussian(step), state, BLOCKS, unit=step * STREAMS))
        into = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        codec.add(frame, into, BLOCKS)
        applied += into
    if feedback == "ef":
        np.testing.assert_allclose(applied + state["residual"], produced, atol=1e-4)
    else:
        np.testing.assert_allclose(state["estimate"], applied, atol=1e-4)


def test_behind_the_warm_up_frames_are_those_of_a_codec_without_one() -> None:
    classes = Classes.by_policy(LAYOUT, ["1d=fp16"])
    warm, plain = push_of(classes=classes), push_of(None, classes=classes)
    assert frame_of(warm, STEPS * STREAMS) == frame_of(plain, STEPS * STREAMS)
    assert frame_of(warm, 0) != frame_of(plain, 0)
    assert plain.max_frame_bytes(BLOCKS) < warm.max_frame_bytes(BLOCKS)


def test_a_frame_denser_than_the_first_is_refused() -> None:
    codec, denser = push_of(), push_of(Warmup(0.3, LAST, STEPS))
    with pytest.raises(DamagedFrame):
        codec.decode(frame_of(denser, 0), BLOCKS)
    codec.decode(frame_of(denser, STREAMS * STEPS), BLOCKS)
    with pytest.raises(DamagedFrame):
        push_of(None).decode(frame_of(codec, 0), BLOCKS)


def test_tensors_give_the_same_bytes() -> None:
    codec = push_of()
    for unit in (0, 5 * STREAMS, STEPS * STREAMS):
        planes = {name: torch.zeros(LAYOUT.blocks, BLOCK) for name in codec.state_planes}
        made = b"".join(codec.encode(torch.from_numpy(gaussian(0)), planes, BLOCKS, unit=unit))
        assert made == frame_of(codec, unit)


def test_a_delta_publishes_what_its_step_says() -> None:
    codec = delta_codec(codec="topk", density=LAST, warmup=WARMUP)
    assert isinstance(codec, Delta)
    x, sizes = gaussian(0), []
    published, reader = np.zeros_like(x), np.zeros_like(x)
    for step in range(STEPS + 2):
        x += gaussian(step)
        frame = codec.publish(x, published, BLOCKS, step=step)
        sizes.append(sum(map(len, buffers_of(frame))))
        codec.apply(frame, reader, BLOCKS)
        np.testing.assert_array_equal(published.view(np.uint32), reader.view(np.uint32))
    assert sizes[: STEPS + 1] == sorted(sizes[: STEPS + 1], reverse=True)
    assert sizes[0] <= codec.max_frame_bytes(BLOCKS)


# --- the configuration -------------------------------------------------------------------------------


def test_the_configurations_numbers_arrive() -> None:
    settings = ["push.warmup_density=0.5", "push.warmup_steps=9", "sync.units_per_step=3", "push.density=0.125",
                "pull.warmup_density=1", "pull.warmup_steps=7"]  # fmt: skip
    for elastic in (False, True):
        push, pull = codecs_of(load(None, settings, {}).config, LAYOUT, optimizer="adamw", elastic=elastic)
        assert isinstance(push, Push) and isinstance(pull, Delta)
        assert (push.warmup, push.streams, push.chain.densest) == (Warmup(0.5, 0.125, 9), 3, 0.5)
        assert (pull.warmup, pull.chain.densest) == (Warmup(1.0, 0.25, 7), 1.0)
    push, pull = codecs_of(load(None, [], {}).config, LAYOUT, optimizer="adamw")
    assert isinstance(push, Push) and isinstance(pull, Delta)
    assert push.warmup is pull.warmup is push.chain.densest is pull.chain.densest is None


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["warmup_steps=5"], "set both, or neither"),
        (["warmup_density=0.5"], "set both, or neither"),
        (["warmup_density=0.1", "warmup_steps=5"], "is below"),
        (["warmup_density=0.5", "warmup_steps=5", "codec=dense"], 'only "topk" leaves'),
    ],
)
def test_keys_that_do_not_fit_each_other_are_refused(way: str, settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(None, [f"{way}.{setting}" for setting in settings], {})
