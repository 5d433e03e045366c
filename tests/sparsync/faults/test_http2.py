"""Frames are found however their bytes come; a call counts as answered once it was sent whole."""

from __future__ import annotations

import random

from sparsync.faults.http2 import DATA, END_OF_STREAM, HEADERS, PREFACE, RST_STREAM, Calls
from sparsync.faults.rules import Direction

UP, DOWN = Direction


def frame(kind: int, stream: int, payload: bytes = b"", flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def test_calls_are_found_in_pieces_of_any_size() -> None:
    draw = random.Random(1)
    sent = PREFACE + frame(HEADERS, 1) + frame(DATA, 1, b"x" * 700) + frame(HEADERS, 3) + frame(DATA, 3, b"y")
    sent += frame(DATA, 1, b"x" * 324, END_OF_STREAM)
    for _ in range(50):
        calls = Calls()
        assert not calls.feed(DOWN, frame(4, 0, b"settings"))
        at = 0
        while at < len(sent):
            size = draw.randint(1, 200)
            assert not calls.feed(UP, sent[at : at + size])
            at += size
        assert not calls.feed(DOWN, frame(HEADERS, 3)), "that call is still being sent"
        assert calls.feed(DOWN, frame(HEADERS, 1) + frame(DATA, 1, b"answer")) == {1: 1024}
        assert not calls.feed(DOWN, frame(HEADERS, 1)), "the answer has begun before"


def test_a_call_that_was_given_up_is_not_answered() -> None:
    calls = Calls()
    calls.feed(UP, PREFACE + frame(HEADERS, 1) + frame(DATA, 1, b"x", END_OF_STREAM) + frame(RST_STREAM, 1))
    assert not calls.feed(DOWN, frame(HEADERS, 1))
