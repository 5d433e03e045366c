"""Planes as tensors against the same planes in numpy: every byte of frames and every bit of state.

Nothing in the code under test depends on the device, so that torch's CPU device shows the arithmetic everywhere;
marked `gpu` the same tests run on the first CUDA device.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wire.codec import cuda
from wire.codec.base import Blocks, Plane
from wire.codec.cuda import group
from wire.codec.cut import Chain, Classes
from wire.codec.delta import Delta
from wire.codec.dense import pack, unpack
from wire.codec.device import device_of
from wire.codec.feedback import Feedback
from wire.codec.push import Push
from wire.codec.values import Values
from wire.layout import BLOCK

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
ON_DEVICES = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda:0", marks=[pytest.mark.gpu, NO_CUDA])], scope="module"
)
LENGTHS = (4096, 1, 4096, 4095, 2, 255, 4096, 13)
DENSITIES = (None, 1 / 4096, 1 / 64, 0.25, 1.0)
LARGEST = np.finfo(np.float32).max
CHAINS = [
    *(Chain(*pair) for pair in itertools.product(DENSITIES, Values)),
    *(
        Chain(None, values, coarse=coarse)
        for values in (Values.INT4, Values.MXINT4)
        for coarse in (3.0, 16.0)
    ),
]


def blocks_of(lengths: tuple[int, ...] = LENGTHS, *, first: int = 0) -> Blocks:
    """Blocks in consecutive rows."""
    rows = np.arange(len(lengths))
    return Blocks(rows, np.array(lengths, np.int32), rows + first)


def octaves(rng: np.random.Generator) -> Plane:
    with np.errstate(under="ignore"):
        return np.ldexp(rng.uniform(0.5, 1, BLOCK), rng.integers(-149, 126, BLOCK)).astype(np.float32)


def gaussian(rng: np.random.Generator) -> Plane:
    return rng.standard_normal(BLOCK).astype(np.float32)


KINDS = {
    "gaussian": gaussian,
    "heavy": lambda rng: gaussian(rng) ** 3,
    "bfloat16": lambda rng: (gaussian(rng).view(np.uint32) & 0xFFFF0000).view(np.float32),
    "zero": lambda rng: np.zeros(BLOCK, np.float32),
    "negative zero": lambda rng: np.full(BLOCK, -0.0, np.float32),
    "some zeros": lambda rng: gaussian(rng) * (rng.random(BLOCK) < 0.02).astype(np.float32),
    "one": lambda rng: (np.arange(BLOCK) == rng.integers(BLOCK)).astype(np.float32),
    "denormal": lambda rng: rng.integers(-9, 10, BLOCK).astype(np.float32) * np.float32(2.0**-149),
    "small": lambda rng: gaussian(rng) * np.float32(2.0**-126),
    "equal": lambda rng: np.where(rng.random(BLOCK) < 0.5, -0.3, 0.3).astype(np.float32),
    "two": lambda rng: rng.choice(np.float32([-2, -1, 1, 2]), BLOCK),
    "octaves": octaves,
    "huge": lambda rng: rng.choice(np.float32([-1.6e38, 1.6e38, 1e38]), BLOCK),
    "largest": lambda rng: rng.choice(np.float32([-LARGEST, LARGEST, 1]), BLOCK),
}


def plane(kinds: list[str], seed: int) -> Plane:
    """A block of each kind."""
    rng = np.random.default_rng(seed)
    return np.stack([KINDS[kind](rng) for kind in kinds])


def mixed(seed: int, rows: int = len(LENGTHS)) -> Plane:
    """Kinds in turn, those apart whose sums overflow."""
    kinds = [kind for kind in KINDS if kind not in ("huge", "largest")]
    return plane([kinds[(seed + row) % len(kinds)] for row in range(rows)], seed)


def bits(x: Plane | torch.Tensor) -> np.ndarray:
    return (x.cpu().numpy() if isinstance(x, torch.Tensor) else x).view(np.int32)


class Twins(NamedTuple):
    """A stream whose state is kept twice."""

    codec: Push
    device: str
    state: dict[str, Plane]
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, codec: Push, state: list[Plane], device: str) -> Twins:
        named = dict(zip(codec.state_planes, state, strict=False))
        tensors = {name: torch.tensor(x, device=device) for name, x in named.items()}
        return cls(codec, device, {name: x.copy() for name, x in named.items()}, tensors)

    def send(self, gradient: Plane, blocks: Blocks, *, unit: int = 0) -> bytes | None:
        """The frame, the same on both sides with the same state behind it; None where both refuse."""
        tensor = torch.tensor(gradient, device=self.device)
        try:
            expected = b"".join(self.codec.encode(gradient, self.state, blocks, unit=unit))
        except FloatingPointError as refused:
            with pytest.raises(FloatingPointError, match=str(refused)):
                b"".join(self.codec.encode(tensor, self.tensors, blocks, unit=unit))
            return None
        assert b"".join(self.codec.encode(tensor, self.tensors, blocks, unit=unit)) == expected
        for name, x in self.state.items():
            np.testing.assert_array_equal(bits(self.tensors[name]), bits(x), name)
        np.testing.assert_array_equal(bits(tensor), bits(gradient))
        return expected


def described(chain: Chain) -> str:
    return f"{chain.values.name.lower()}-{'whole' if chain.density is None else f'{chain.density:.4g}'}"


MATRIX = [
    pytest.param(
        chain,
        feedback,
        id=f"{described(chain)}-{feedback.name.lower()}",
        marks=[] if chain.density in (None, 0.25) and feedback is not Feedback.TRACK else [pytest.mark.slow],
    )
    for chain, feedback in itertools.product(CHAINS, Feedback)
]


@ON_DEVICES
@pytest.mark.parametrize("chain, feedback", MATRIX)
def test_frames_and_state_are_the_kernels(chain: Chain, feedback: Feedback, device: str) -> None:
    """Three units in a row of blocks of all kinds and lengths; padding holds numbers that must not show."""
    stream = Twins.of(Push(chain, feedback, 0.9, 0.3), [mixed(7), mixed(8)], device)
    for unit in range(3):
        assert stream.send(mixed(unit), blocks_of(), unit=unit) is not None


@ON_DEVICES
@pytest.mark.parametrize("chain", CHAINS, ids=described)
def test_at_the_upper_end_of_float32(chain: Chain, device: str) -> None:
    gradient = plane(["largest", "huge", "octaves", "largest"], 0)
    gradient[3] *= np.linspace(0.5, 1, BLOCK, dtype=np.float32)
    blocks = blocks_of((4096, 4096, 4096, 100))
    assert Twins.of(Push(chain, Feedback.PLAIN), [], device).send(gradient, blocks) is not None


@ON_DEVICES
@pytest.mark.parametrize("density", [None, 0.1])
def test_random_rounding_by_all_bits_of_unit_and_block(density: float | None, device: str) -> None:
    codec, sent = Push(Chain(density, Values.INT8), Feedback.PLAIN), set()
    for unit, first in itertools.product((0, 2**32, 2**64 - 2), (0, 2**32, 2**62)):
        sent.add(Twins.of(codec, [], device).send(mixed(1), blocks_of(first=first), unit=unit))
    assert len(sent) == 9 and None not in sent


@st.composite
def cases(draw: st.DrawFn) -> tuple[Push, Blocks, list[Plane]]:
    """(codec, blocks in any rows, planes: two of state, then gradients)."""
    codec = Push(
        Chain(draw(st.sampled_from([None, 1e-4, 0.02, 0.3, 0.9, 1.0])), draw(st.sampled_from(Values))),
        draw(st.sampled_from(Feedback)),
        draw(st.sampled_from([1.0, 0.95])),
        draw(st.sampled_from([1.0, 0.1])),
        threads=draw(st.sampled_from([1, 2])),
    )
    lengths = draw(st.lists(st.sampled_from([1, 7, 8, 65, 4000, 4096]), min_size=1, max_size=4))
    rows = np.array(draw(st.permutations(range(len(lengths)))), np.int64)
    numbers = rows + draw(st.sampled_from([0, 2**32 - 1, 2**40]))
    kinds = st.lists(st.sampled_from(sorted(KINDS)), min_size=len(lengths), max_size=len(lengths))
    seeds = st.integers(0, 2**32 - 1)
    planes = [plane(draw(kinds), draw(seeds)) for _ in range(draw(st.integers(3, 5)))]
    return codec, Blocks(rows, np.array(lengths, np.int32), numbers), planes


@ON_DEVICES
@given(cases(), st.integers(0, 2**64 - 4))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_frame_and_any_state(device: str, case: tuple[Push, Blocks, list[Plane]], unit: int) -> None:
    codec, blocks, (first, second, *gradients) = case
    stream = Twins.of(codec, [first, second], device)
    for later, gradient in enumerate(gradients):
        if stream.send(gradient, blocks, unit=unit + later) is None:
            break


@ON_DEVICES
@pytest.mark.parametrize("chain", [Chain(0.01, Values.SIGN1), Chain(None, Values.INT8)], ids=described)
def test_parts_and_classes_and_groups(chain: Chain, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts in a group, several groups, classes of other values, rows in any order, more threads."""
    monkeypatch.setattr(group, "GROUP_BLOCKS", 128)
    monkeypatch.setattr("wire.codec.cut.PART_VALUES", 2048)
    count, rng = 300, np.random.default_rng(0)
    classes = Classes((np.arange(count) % 7 == 3).astype(np.uint8), (Chain(None, Values.FP16),))
    lengths = np.where(rng.random(count) < 0.1, rng.integers(1, BLOCK, count), BLOCK).astype(np.int32)
    gradient, state = (np.tile(mixed(seed, 25), (12, 1)) for seed in (1, 2))
    for rows, threads in ((np.arange(count), 1), (rng.permutation(count), 3)):
        codec = Push(chain, Feedback.RESIDUAL, classes=classes, threads=threads)
        stream = Twins.of(codec, [state], device)
        assert stream.send(gradient, Blocks(rows, lengths, np.arange(count))) is not None


@ON_DEVICES
def test_what_is_not_finite_is_refused_by_the_same_block(device: str) -> None:
    for wrong, at in itertools.product((np.nan, np.inf, -np.inf), (0, 4094)):
        gradient = mixed(3)
        gradient[3, at] = wrong
        stream = Twins.of(Push(CHAINS[0], Feedback.RESIDUAL), [mixed(4)], device)
        assert stream.send(gradient, blocks_of(first=40)) is None
        np.testing.assert_array_equal(bits(stream.tensors["residual"]), bits(mixed(4)))
        gradient[3, at], gradient[3, 4095] = 1.0, wrong
        assert stream.send(gradient, blocks_of()) is not None
    big = np.full((len(LENGTHS), BLOCK), LARGEST)
    for chain, feedback in itertools.product(CHAINS, (Feedback.RESIDUAL, Feedback.CARRY)):
        assert Twins.of(Push(chain, feedback), [big], device).send(big, blocks_of()) is None


@ON_DEVICES
def test_frames_of_nothing(device: str) -> None:
    none = blocks_of(())
    assert Twins.of(Push(CHAINS[0], Feedback.CARRY), [mixed(1)], device).send(mixed(2), none) is not None
    assert pack(torch.zeros(1, BLOCK, device=device), none) == b""


# ── the way back ────────────────────────────────────────────────────────────────────────────────


@ON_DEVICES
@pytest.mark.parametrize("chain", [c for c in CHAINS if c.density in (None, 0.25)], ids=described)
def test_decoded_pushes_are_added_with_the_same_bits(chain: Chain, device: str) -> None:
    codec, blocks = Push(chain, Feedback.RESIDUAL), blocks_of()
    frame = b"".join(codec.encode(mixed(1), {"residual": mixed(2)}, blocks))
    for factor in (1.0, -0.3):
        expected, found = mixed(5), torch.tensor(mixed(5), device=device)
        codec.add(frame, expected, blocks, factor=factor)
        codec.add(frame, found, blocks, factor=factor)
        np.testing.assert_array_equal(bits(found), bits(expected))
    held, state = {"residual": mixed(6)}, {"residual": torch.tensor(mixed(6), device=device)}
    codec.give_back(frame, held, blocks, share=0.7)
    codec.give_back(frame, state, blocks, share=0.7)
    np.testing.assert_array_equal(bits(state["residual"]), bits(held["residual"]))


@ON_DEVICES
@pytest.mark.parametrize("chain", [CHAINS[0], Chain(0.25, Values.SIGN1)], ids=described)
def test_deltas_are_applied_with_the_same_bits(chain: Chain, device: str) -> None:
    """Padding stays as it was; parts in fp32 are set, others added."""
    classes = Classes((np.arange(len(LENGTHS)) % 2).astype(np.uint8), (Chain(None, Values.FP32),))
    codec, rows = Delta(chain, classes), np.random.default_rng(0).permutation(len(LENGTHS))
    blocks = Blocks(rows, np.array(LENGTHS, np.int32), rows)
    published = mixed(2)
    x_hat, replica = published.copy(), torch.tensor(published, device=device)
    frame = codec.publish(mixed(1), published, blocks)
    codec.apply(frame, x_hat, blocks)
    codec.apply(frame, replica, blocks)
    np.testing.assert_array_equal(bits(replica), bits(x_hat))


@ON_DEVICES
def test_snapshots_of_planes_on_a_device(device: str) -> None:
    x, blocks = mixed(1), blocks_of()
    packed = pack(torch.tensor(x, device=device), blocks)
    assert packed == pack(x, blocks)
    expected, found = mixed(2), torch.tensor(mixed(2), device=device)
    unpack(packed, expected, blocks)
    unpack(memoryview(packed), found, blocks)
    np.testing.assert_array_equal(bits(found), bits(expected))


# ── the rest ────────────────────────────────────────────────────────────────────────────────────


def test_planes_are_worked_on_where_they_lie() -> None:
    assert device_of(torch.zeros(1, BLOCK)) is cuda
    wrong = (torch.zeros(8, BLOCK, dtype=torch.float64), torch.zeros(8, 1), torch.zeros(8, 2 * BLOCK)[:, ::2])
    for plane_ in (*wrong, torch.zeros(7, BLOCK), torch.zeros(BLOCK)):
        with pytest.raises(ValueError, match=r"expected|rows"):
            Push(CHAINS[0], Feedback.PLAIN).encode(plane_, {}, blocks_of())


def test_torch_is_imported_where_the_first_tensor_comes_in() -> None:
    code = "import sys, wire.codec.chain, wire.codec.dense; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.gpu
@NO_CUDA
@pytest.mark.parametrize("chain", [Chain(1 / 64, Values.SIGN1), Chain(None, Values.INT8)], ids=described)
def test_temporary_memory_is_bounded(chain: Chain) -> None:
    rows = 4096
    state, gradient = (torch.randn(rows, BLOCK, device="cuda:0") for _ in range(2))
    blocks = blocks_of((BLOCK,) * rows)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in Push(chain, Feedback.RESIDUAL).encode(gradient, {"residual": state}, blocks):
        pass
    assert torch.cuda.max_memory_allocated() - before < 128 << 20
