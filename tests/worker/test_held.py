"""What a segment holds back for later pushes goes with the worker into the next one, where that has a place for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wire.codec.base import Blocks, PushCodec
from wire.codec.chain import push_codec
from wire.layout import BLOCK
from worker.elastic import ElasticSegment
from worker.exact import ExactSegment
from worker.streams import Kind, Task

ROWS = 3
BLOCKS = Blocks(np.arange(ROWS), np.full(ROWS, BLOCK, np.int32), np.arange(ROWS))


def segment(codec: PushCodec, *, elastic: bool, held: Any) -> Any:
    shared: dict[str, Any] = {
        "transfer": None,
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
    assert np.array_equal(made.held, held), "before any stream is taken over"
    for stream in (2, 3):
        made.manage(Task(Kind.LOAD, stream, 8))
    assert [float(made._states[s].planes["residual"][0, 0]) for s in (2, 3)] == [2.0, 0.0]
    assert np.array_equal(made.held, held)


@pytest.mark.parametrize(
    ("made", "elastic"),
    [(codec("topk", "ef21"), False), (codec("dense", "none"), False), (codec("topk", "ef21"), True)],
)
def test_a_codec_that_holds_nothing_back_has_no_place_for_it(made: PushCodec, elastic: bool) -> None:
    assert segment(made, elastic=elastic, held=np.ones((ROWS, BLOCK), np.float32)).held is None
