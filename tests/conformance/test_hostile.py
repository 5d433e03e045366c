"""Hostile frames: every decoder refuses with DamagedFrame, or decodes to finite numbers; a refusal changes nothing."""

from __future__ import annotations

import copy
import random
import struct
from itertools import accumulate

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.combinations import (
    BY_POLICY,
    LAYOUT,
    REAL,
    delta,
    describe,
    fresh,
    noise,
    parametrized,
    push,
    sent,
    some_deltas,
    some_pushes,
)
from tests.conformance.envelope import SECTIONS, join, split
from wire.codec.base import Blocks, DamagedFrame, Frame
from wire.codec.delta import Delta
from wire.codec.push import Push
from wire.layout import BlockRange

SMALL = Blocks.of(LAYOUT, [BlockRange(0, 3)])
"""Blocks of 1, 2 and 255 elements."""

each_codec = parametrized([*some_pushes(), *some_deltas()])
CLASSED = push("topk", 0.25, "sign2", "ef", classes=BY_POLICY)
"""Three parts."""


def small_frame(codec: Push | Delta) -> bytes:
    """A frame of `SMALL`."""
    if isinstance(codec, Delta):
        return b"".join(codec.publish(noise(0), np.zeros(REAL.shape, np.float32), SMALL))
    return sent(codec, noise(0), fresh(codec), SMALL)


def refused(codec: Push | Delta, frame: Frame, blocks: Blocks = SMALL) -> bool:
    """Whether the decoder refuses; asserts that it raises nothing else and that a refusal changes nothing."""
    into = np.ones(REAL.shape, np.float32)
    try:
        codec.apply(frame, into, blocks) if isinstance(codec, Delta) else codec.add(frame, into, blocks)
    except DamagedFrame:
        assert (into == 1).all()
        return True
    assert np.isfinite(into).all()
    assert (into[~REAL] == 1).all()
    return False


@each_codec
def test_truncated_at_any_byte_or_with_one_more_is_refused(codec: Push | Delta) -> None:
    frame = small_frame(codec)
    assert not refused(codec, frame)
    assert all(refused(codec, frame[:end]) for end in range(len(frame)))
    assert refused(codec, frame + b"\0")
    assert refused(codec, frame + frame)


@each_codec
def test_each_changed_byte_is_refused(codec: Push | Delta) -> None:
    frame = small_frame(codec)
    for at in range(len(frame)):
        changed = bytearray(frame)
        changed[at] ^= 1 << (at % 8)
        assert refused(codec, bytes(changed))


@each_codec
def test_sealed_mutations_are_refused_or_harmless(codec: Push | Delta) -> None:
    """With a right checksum every decoder check is on its own: DamagedFrame or finite values, nothing else."""
    rng = random.Random(describe(codec))
    head, parts = split(small_frame(codec))
    for _ in range(100):
        changed = copy.deepcopy(parts)
        for _ in range(rng.randint(1, 3)):
            part, section = rng.choice(changed), rng.randrange(SECTIONS)
            data = bytearray(part.stored[section])
            if data:
                data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))
            part.stored[section] = bytes(data)
        refused(codec, join(head, changed))


@each_codec
def test_a_frame_of_other_blocks_is_refused(codec: Push | Delta) -> None:
    frame = small_frame(codec)
    assert refused(codec, frame, Blocks.of(LAYOUT, [BlockRange(0, 4)]))
    assert refused(codec, frame, Blocks.of(LAYOUT, [BlockRange(0, 2)]))
    shorter = Blocks(SMALL.rows, np.array([1, 2, 3], np.int32), SMALL.numbers)
    assert refused(codec, frame, shorter)


def test_a_frame_of_another_codec_is_refused() -> None:
    """Of those below each differs from each in kind, selection or values; frames say nothing of feedback."""
    pushes = {(c.chain.whole, c.chain.values): c for c in some_pushes() if c.classes is None}
    deltas = {(c.chain.whole, c.chain.values): c for c in some_deltas() if c.classes is None}
    codecs: list[Push | Delta] = [*pushes.values(), *deltas.values(), CLASSED]
    frames = [small_frame(codec) for codec in codecs]
    for codec in codecs:
        assert [refused(codec, frame) for frame in frames] == [other is not codec for other in codecs]


def test_parts_in_another_order_twice_or_left_out_are_refused() -> None:
    head, parts = split(small_frame(CLASSED))
    assert len(parts) == 3
    assert not refused(CLASSED, join(head, parts))
    for wrong in ([0, 2, 1], [0, 1], [0, 1, 1], [0, 0, 1], [0, 1, 2, 2], []):
        assert refused(CLASSED, join(head, [parts[n] for n in wrong]))
        told = head[:8] + struct.pack("<I", len(wrong)) + head[12:]
        assert refused(CLASSED, join(told, [parts[n] for n in wrong]))


def test_a_part_of_another_frame_fits_where_both_could_have_made_it() -> None:
    """Parts stand on their own: splicing yields another good frame, which is what its sender then said."""
    head, parts = split(small_frame(CLASSED))
    _, others = split(sent(CLASSED, noise(1), fresh(CLASSED), SMALL))
    assert not refused(CLASSED, join(head, [parts[0], others[1], parts[2]]))


@each_codec
def test_a_frame_in_buffers_is_the_frame(codec: Push | Delta) -> None:
    """Each begins where a part begins; the header comes alone or with the first part."""
    if isinstance(codec, Delta):
        pieces = list(codec.publish(noise(0), np.zeros(REAL.shape, np.float32), SMALL))
    else:
        pieces = list(codec.encode(noise(0), fresh(codec), SMALL))
    assert b"".join(pieces) == small_frame(codec)
    for buffers in (pieces, [pieces[0] + pieces[1], *pieces[2:]], [b"".join(pieces)], [*pieces, b""]):
        assert not refused(codec, buffers)
    for wrong in (pieces[:-1], pieces[::-1], [*pieces, b"x"], [*pieces, pieces[-1]], [], [b""]):
        assert refused(codec, wrong)


@each_codec
def test_a_buffer_that_ends_inside_a_part_is_refused(codec: Push | Delta) -> None:
    frame = small_frame(codec)
    begins = {24, *accumulate((len(part.pack()) for part in split(frame)[1]), initial=24)}
    for at in range(len(frame)):
        assert refused(codec, [frame[:at], frame[at:]]) == (at not in begins), at


@each_codec
@pytest.mark.parametrize("section", range(SECTIONS))
def test_a_zstd_bomb_or_a_false_length_is_refused(codec: Push | Delta, section: int) -> None:
    """16 MiB behind a table that tells the truth, that tells what is allowed, or that tells the stored length."""
    bomb = zstandard.compress(bytes(1 << 24))
    head, parts = split(small_frame(codec))
    allowed = parts[0].raw[section]
    for raw in (1 << 24, 0xFFFFFFFF, allowed, len(bomb), len(bomb) + 1):
        part = copy.deepcopy(parts[0])
        part.raw[section], part.stored[section] = raw, bomb
        assert refused(codec, join(head, [part, *parts[1:]]))
    for stored in (0, allowed + 1, 0xFFFFFFFF):
        part = copy.deepcopy(parts[0])
        part.told[section] = stored
        if stored != allowed:
            assert refused(codec, join(head, [part, *parts[1:]]))


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    for codec in (push("dense", 1.0, "fp32", "none"), CLASSED):
        with pytest.raises(DamagedFrame):
            codec.validate(data, SMALL)
    with pytest.raises(DamagedFrame):
        delta("topk", 0.25, "int4").decode(data, SMALL)
