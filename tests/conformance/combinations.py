"""The closed list of codecs: every combination that a configuration allows, a quick selection of it, and what to feed.

The layout has blocks of 1, 2, 255, 4,095, 4,096 and 4,097 elements among others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wire.codec.base import Blocks, Plane
from wire.codec.chain import delta_codec, push_codec
from wire.codec.cut import Classes
from wire.codec.delta import Delta
from wire.codec.push import Push
from wire.codec.values import Values
from wire.layout import BLOCK, BlockRange, Layout, Parameter

SIZES = (1, 2, 255, 4095, 4096, 4097, 12289)
LAYOUT = Layout(tuple(Parameter(f"p{n}", (n,), "float32", 0) for n in SIZES))
ALL = Blocks.of(LAYOUT, [BlockRange(0, LAYOUT.blocks)])
REAL = np.arange(BLOCK) < ALL.lengths[:, None]
"""bool[11, 4096]: False in padding."""

VALUES = tuple(v.name.lower() for v in Values)
UNBIASED = tuple(v.name.lower() for v in Values if v.unbiased)
BY_POLICY = Classes.by_policy(LAYOUT, ["p1=fp32", "p255=int8", "p40*=fp16"])
FEEDBACK = (("ef", 1.0, 1.0), ("ef", 1.0, 0.9), ("ef21", 1.0, 1.0), ("ef21", 0.2, 1.0))
"""(feedback, momentum, decay)."""
SELECTIONS = (("dense", 1.0), *(("topk", density) for density in (1 / 4096, 1 / 64, 0.25, 1.0)))


def push(
    codec: str,
    density: float,
    values: str,
    feedback: str,
    momentum: float = 1.0,
    decay: float = 1.0,
    **more: Any,
) -> Push:
    made = push_codec(
        codec=codec, density=density, values=values, feedback=feedback, momentum=momentum, decay=decay, **more
    )
    assert isinstance(made, Push)
    return made


def delta(codec: str, density: float, values: str, **more: Any) -> Delta:
    made = delta_codec(codec=codec, density=density, values=values, **more)
    assert isinstance(made, Delta)
    return made


def some_pushes() -> Iterator[Push]:
    """Each option at least once beside each other kind of option."""
    for values, carries in itertools.product(UNBIASED, (False, True)):
        yield push("dense", 1.0, values, "none", carries=carries)
    for values, feedback in itertools.product(VALUES, ("ef", "ef21")):
        yield push("dense", 1.0, values, feedback)
        yield push("topk", 0.25, values, feedback)
    for density in (1 / 4096, 1 / 64, 1.0):
        yield push("topk", density, "sign1", "ef")
    yield push("topk", 0.25, "int4", "ef", decay=0.9)
    yield push("topk", 0.25, "sign2", "ef21", 0.2)
    yield push("topk", 1 / 64, "sign1", "ef21", classes=BY_POLICY, threads=4)


def every_push() -> Iterator[Push]:
    """The whole closed list."""
    for values, carries in itertools.product(UNBIASED, (False, True)):
        for classes in (None, BY_POLICY):
            yield push("dense", 1.0, values, "none", carries=carries, classes=classes)
    for (codec, density), values, feedback in itertools.product(SELECTIONS, VALUES, FEEDBACK):
        for classes in (None, BY_POLICY):
            yield push(codec, density, values, *feedback, classes=classes)


def some_deltas() -> Iterator[Delta]:
    """As `some_pushes`."""
    for values in VALUES:
        yield delta("dense", 1.0, values)
        yield delta("topk", 0.25, values)
    for density in (1 / 64, 1.0):
        yield delta("topk", density, "sign1")
    yield delta("topk", 0.25, "sign1", classes=BY_POLICY, threads=4)


def every_delta() -> Iterator[Delta]:
    """The whole closed list."""
    for (codec, density), values in itertools.product(SELECTIONS, VALUES):
        for classes in (None, BY_POLICY):
            yield delta(codec, density, values, classes=classes)


def describe(codec: Push | Delta) -> str:
    """A short name, the same for equal codecs."""
    words = [type(codec).__name__.lower(), codec.name, codec.chain.values.name.lower()]
    if codec.chain.density is not None:
        words.append(f"{codec.chain.density:.4g}")
    if isinstance(codec, Push):
        words += [codec.feedback.name.lower(), *(f"{w:g}" for w in (codec.eta, codec.decay) if w < 1)]
    return "-".join([*words, *(["policy"] if codec.classes else [])])


def parametrized(quick: Iterable[Any], every: Iterable[Any] = ()) -> pytest.MarkDecorator:
    """The tests of `codec` over the quick selection, and marked `slow` over the rest of the closed list."""
    first = {describe(codec): codec for codec in quick}
    rest = {name: codec for codec in every if (name := describe(codec)) not in first}
    cases = [pytest.param(codec, id=name) for name, codec in first.items()]
    slow = [pytest.param(codec, id=name, marks=pytest.mark.slow) for name, codec in rest.items()]
    return pytest.mark.parametrize("codec", cases + slow)


def noise(seed: int) -> Plane:
    """Heavy-tailed values with exact zeros, negative zeros and a dead block; zero padding."""
    return np.where(REAL, heavy_tailed(seed, REAL.shape[0]), np.float32(0))


@lru_cache(maxsize=16)
def heavy_tailed(seed: int, rows: int) -> Plane:
    """The same without padding; not to be written to."""
    rng = np.random.default_rng(seed)
    plane: Plane = rng.standard_normal((rows, BLOCK)).astype(np.float32) ** 3
    plane[rng.random(plane.shape) < 0.1] = 0.0
    plane[rng.random(plane.shape) < 0.1] = -0.0
    plane[-2] = 0.0
    return plane


def hostile_planes() -> dict[str, Plane]:
    """Planes at the edges of float32 and of selection."""
    rng = np.random.default_rng(7)
    largest = float(np.finfo(np.float32).max)

    def of(values: NDArray[Any]) -> Plane:
        with np.errstate(under="ignore"):
            return np.where(REAL, np.broadcast_to(values, REAL.shape), 0).astype(np.float32)

    signs = np.sign(rng.standard_normal(REAL.shape))
    return {
        "zero": of(np.zeros(1)),
        "negative zero": of(np.full(1, -0.0)),
        "equal": of(np.full(1, -3.25)),
        "denormal": of(rng.standard_normal(REAL.shape) * 1e-41),
        "least": of(np.full(1, 1e-45)),
        "huge": of(signs * 1.7e38),
        "largest": of(signs * largest),
        "wide": of(signs * 10.0 ** rng.uniform(-44, 37, REAL.shape)),
        "one": of((np.arange(BLOCK) == 3) * 2.0),
    }


def fresh(codec: Push, shape: tuple[int, ...] = REAL.shape) -> dict[str, Plane]:
    """State of a stream that begins."""
    return {name: np.zeros(shape, np.float32) for name in codec.state_planes}


def sent(
    codec: Push, gradient: Plane, state: dict[str, Plane], blocks: Blocks = ALL, *, unit: int = 0
) -> bytes:
    """The whole frame."""
    return b"".join(codec.encode(gradient, state, blocks, unit=unit))


def received(codec: Push, frame: bytes, blocks: Blocks = ALL) -> Plane:
    """What a frame adds to nothing, in planes of as many rows as `ALL` has."""
    into = np.zeros(REAL.shape, np.float32)
    codec.add(frame, into, blocks)
    return into


def bits(plane: Plane) -> NDArray[np.uint32]:
    """As they stand in memory: -0.0 is not 0.0."""
    return plane.view(np.uint32)
