"""What a segment holds back for later pushes goes with the worker into the next one, where that has a place for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wire.codec.base import Blocks, PushCodec
from wire.codec.chain import push_codec
from wire.codec.dense import pack
from wire.layout import BLOCK
from worker.elastic import ElasticSegment
from worker.exact import ExactSegment
from worker.streams import Kind, Task

ROWS = 3
BLOCKS = Blocks(np.arange(ROWS), np.full(ROWS, BLOCK, np.int32), np.arange(ROWS))


def segment(codec: PushCodec, *, elastic: bool, held: Any, transfer: Any = None) -> Any:
    shared: dict[str, Any] = {
        "transfer": transfer,
        "parameters": SimpleNamespace(gradient=np.zeros((ROWS, BLOCK), np.float32)),
        "replica": SimpleNamespace(held=False, trainable=[BLOCKS]),
        "codec": codec,
        "streams": 4,
        "extras": None,
        "held": held,
    }
    return (
        ElasticSegment(1, **shared) if elastic else ExactSegment(1, begins=0, lag=0, **shared, origin=bytes)
    )


def codec(kind: str, feedback: str = "ef", *, carries: bool = False) -> PushCodec:
    return push_codec(codec=kind, density=0.25, feedback=feedback, carries=carries)


@pytest.mark.parametrize("made", [codec("topk"), codec("dense", "none", carries=True)], ids=["topk", "dense"])
def test_an_elastic_segment_goes_on_from_what_was_held(made: PushCodec) -> None:
    held = np.random.default_rng(1).standard_normal((ROWS, BLOCK)).astype(np.float32)
    before = segment(made, elastic=True, held=held)
    assert np.array_equal(segment(made, elastic=True, held=before.held).held, held)
    assert before.residual_norm == pytest.approx(float(np.linalg.norm(held)), rel=1e-6)


def test_the_first_stream_without_a_state_begins_with_it() -> None:
    held = np.full((ROWS, BLOCK), 2.0, np.float32)
    made = segment(codec("topk"), elastic=False, held=held)
    assert np.array_equal(made.held_by((), step=9), held), "before any stream is taken over"
    for stream in (2, 3):
        made.manage(Task(Kind.LOAD, stream, 8))
    assert [float(made._states[s].planes["residual"][0, 0]) for s in (2, 3)] == [2.0, 0.0]
    assert np.array_equal(made.held_by((2, 3), step=9), held)


class Deposited:
    """What a shard keeps: of each stream a residual of one number everywhere."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def do_withdraw(self, stream: int, step: int, expected: Any) -> list[dict[str, bytes]]:
        self.asked.append((stream, step))
        assert expected(0, "residual") == 4 * ROWS * BLOCK
        return [{"residual": pack(np.full((ROWS, BLOCK), 10.0 * stream, np.float32), BLOCKS), "extra": b"x"}]


def test_streams_leave_what_they_held_back_to_whoever_is_named() -> None:
    """Of those that are here but not named nothing is taken; those that are elsewhere are taken from their deposits."""
    shards = Deposited()
    made = segment(codec("topk"), elastic=False, held=None, transfer=shards)
    for stream in (2, 3):
        made.manage(Task(Kind.LOAD, stream, 8))
        made._states[stream].planes["residual"] += float(stream)
    held = made.held_by((3, 7), step=9)
    assert np.array_equal(held, np.full((ROWS, BLOCK), 73.0, np.float32))
    assert shards.asked == [(7, 9)]
    assert not made.held_by((), step=9).any()


@pytest.mark.parametrize(
    ("made", "elastic"),
    [(codec("topk", "ef21"), False), (codec("dense", "none"), False), (codec("topk", "ef21"), True)],
)
def test_a_codec_that_holds_nothing_back_has_no_place_for_it(made: PushCodec, elastic: bool) -> None:
    before = segment(made, elastic=elastic, held=np.ones((ROWS, BLOCK), np.float32))
    assert not before.holds_back
    assert (before.held if elastic else before.held_by((1,), step=9)) is None
