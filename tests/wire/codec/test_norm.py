"""The norm of a push is that of what its frames decode to, however blocks are spread over servers."""

from __future__ import annotations

import numpy as np
import pytest

from wire.codec.base import Blocks, Plane
from wire.codec.chain import push_codec
from wire.codec.cut import Classes
from wire.layout import BLOCK, BlockRange, Layout, Parameter

LAYOUT = Layout(
    (Parameter("w", (70, BLOCK), "float32", 0), Parameter("odd", (3, 1777), "float32", 0),
     Parameter("b", (100,), "float32", 0))
)  # fmt: skip
CODECS = {
    "dense": {"codec": "dense"},
    "int8": {"codec": "dense", "values": "int8"},
    "topk": {"codec": "topk", "density": 0.1, "feedback": "ef", "classes": Classes.by_policy(LAYOUT, ["1d=fp16"])},
    "ef21": {"codec": "topk", "density": 0.1, "feedback": "ef21", "values": "int4"},
}  # fmt: skip


def gaussian(seed: int) -> Plane:
    made = np.random.default_rng(seed).standard_normal((LAYOUT.blocks, BLOCK)).astype(np.float32)
    return np.where(np.arange(BLOCK) < np.array(LAYOUT.lengths)[:, None], made, np.float32(0))


@pytest.mark.parametrize("name", CODECS)
def test_it_is_that_of_what_is_decoded_on_one_server_or_four(name: str) -> None:
    codec, found = push_codec(**CODECS[name]), []  # type: ignore[arg-type]
    for cuts in ([0], [0, 1, 40, 71]):
        ends = [*cuts[1:], LAYOUT.blocks]
        shards = [Blocks.of(LAYOUT, [BlockRange(a, b)]) for a, b in zip(cuts, ends, strict=True)]
        state = {plane: np.zeros((LAYOUT.blocks, BLOCK), np.float32) for plane in codec.state_planes}
        frames = [(b"".join(codec.encode(gaussian(0), state, blocks)), blocks) for blocks in shards]
        into = np.zeros((LAYOUT.blocks, BLOCK), np.float32)
        for frame, blocks in frames:
            codec.add(frame, into, blocks)
        assert codec.norm(frames) == pytest.approx(float(np.linalg.norm(into.astype(np.float64))), rel=1e-12)
        assert codec.norm(reversed(frames)) == codec.norm(frames)
        found.append(codec.norm(frames))
    assert found[0] == found[1], "to the last bit"


def test_a_push_of_nothing_has_the_norm_zero() -> None:
    codec = push_codec(codec="topk", density=0.1, feedback="ef")
    blocks, zeros = (
        Blocks.of(LAYOUT, [BlockRange(0, LAYOUT.blocks)]),
        np.zeros((LAYOUT.blocks, BLOCK), np.float32),
    )
    frame = b"".join(codec.encode(zeros, {"residual": zeros.copy()}, blocks))
    assert codec.norm([(frame, blocks)]) == 0.0
    assert codec.norm([]) == 0.0
