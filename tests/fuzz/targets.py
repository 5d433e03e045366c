"""What is fuzzed: each decoder with good inputs, mutations of them, and what must hold for all that it accepts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard

from tests.conformance import reader
from tests.conformance.combinations import (
    BY_POLICY,
    LAYOUT,
    REAL,
    delta,
    describe,
    fresh,
    hostile_planes,
    noise,
    push,
    sent,
)
from tests.fuzz.mutations import Message, in_buffers, mutated_frame, mutated_messages
from wire.codec.base import Blocks, DamagedFrame, Frame, buffers_of
from wire.codec.delta import Delta
from wire.codec.dense import unpack
from wire.codec.push import Push
from wire.errors import ProtocolMismatch
from wire.layout import BlockRange
from wire.rpc.planes import PlaneReader, plane_chunks
from wire.v1.common_pb2 import PlaneChunk, PlaneHeader

FEW = Blocks.of(LAYOUT, [BlockRange(0, 3)])
"""Blocks of 1, 2 and 255 elements, of which a policy makes three parts."""
FOUR = Blocks.of(LAYOUT, [BlockRange(0, 1), BlockRange(2, 5)])
"""Of 1, 255, 4,095 and 4,096 elements."""
CUT = 0.2
"""Share of the frames that come in several buffers."""
AGREED_REFUSALS, AGREED_READINGS = 0.02, 0.25
"""Shares of what is refused and accepted that the second decoder, which is slow, must refuse and read as well."""


@dataclass(frozen=True)
class Target:
    """A decoder. call: what it makes of an input; raises ProtocolMismatch where it refuses."""

    name: str
    seeds: Sequence[Any]
    mutate: Callable[[random.Random, Any], Any]
    call: Callable[[Any], object]
    check: Callable[[random.Random, Any, object], None]
    """Of what was accepted (the result), or refused (None)."""


def targets() -> Iterator[Target]:
    """All decoders; frames of each are spliced into those of the others."""
    codecs = [*_pushes(), *_deltas()]
    seeds = [list(_frames(codec, blocks)) for codec, blocks in codecs]
    others = [frame for frames in seeds for frame in frames]
    for (codec, blocks), frames in zip(codecs, seeds, strict=True):
        yield _frame_target(codec, blocks, frames, others)
    yield _planes_target()
    yield _packed_target()


def _pushes() -> Iterator[tuple[Push, Blocks]]:
    for values in ("fp32", "fp16", "bf16", "int8", "int4", "sign", "sign1", "sign2", "mxint4"):
        yield push("dense", 1.0, values, "ef"), FEW
        yield push("topk", 0.25, values, "ef"), FEW
    yield push("topk", 1.0, "int8", "ef"), FEW
    yield push("topk", 1 / 64, "sign1", "ef"), FOUR
    yield push("topk", 0.25, "sign2", "ef", classes=BY_POLICY), FEW


def _deltas() -> Iterator[tuple[Delta, Blocks]]:
    yield delta("dense", 1.0, "fp32"), FEW
    yield delta("dense", 1.0, "int8"), FEW
    yield delta("topk", 1 / 64, "sign1"), FOUR
    yield delta("topk", 0.25, "int4", classes=BY_POLICY), FEW


def _frames(codec: Push | Delta, blocks: Blocks) -> Iterator[bytes]:
    """Of noise, of planes at the edges, and of nothing but zeros."""
    planes = {"noise": noise(0), **hostile_planes()}
    for name in ("noise", "zero", "one", "equal", "wide", "largest"):
        if isinstance(codec, Delta):
            yield b"".join(codec.publish(planes[name], np.zeros(REAL.shape, np.float32), blocks))
        else:
            yield sent(codec, planes[name], fresh(codec), blocks)


def _frame_target(
    codec: Push | Delta, blocks: Blocks, frames: Sequence[bytes], others: Sequence[bytes]
) -> Target:
    chains = [codec.chain, *(codec.classes.chains if codec.classes else ())]
    known = {
        "kind": 2 if isinstance(codec, Delta) else 1,
        "chains": [reader.Chain(c.density, int(c.values)) for c in chains],
        "blocks": [
            reader.Block(int(n), int(length), int(codec.classes.of_block[n]) if codec.classes else 0)
            for n, length in zip(blocks.numbers, blocks.lengths, strict=True)
        ],
    }

    def mutate(rng: random.Random, good: bytes) -> Frame:
        """As it comes off the wire: in one buffer or in several, cut where a part begins or anywhere."""
        frame = mutated_frame(rng, good, others)
        return in_buffers(rng, frame) if rng.random() < CUT else frame

    def check(rng: random.Random, came: Frame, decoded: Any) -> None:
        frame = b"".join(buffers_of(came))
        if decoded is not None:
            into = np.zeros(REAL.shape, np.float32)
            decoded.apply_to(into) if isinstance(codec, Delta) else decoded.add_to(into)
            assert np.isfinite(into).all(), "infinite"
            assert not into[~REAL].any(), "padding"
            if rng.random() < AGREED_READINGS:
                _agrees(into, blocks, reader.read(frame, **known))
        elif came is frame and rng.random() < AGREED_REFUSALS:
            try:
                reader.read(frame, **known)
            except (reader.Refused, zstandard.ZstdError):
                return
            raise AssertionError("refused, but the document knows no reason")

    return Target(
        f"{describe(codec)}-{blocks.count}",
        frames,
        mutate,
        lambda frame: codec.decode(frame, blocks),
        check,
    )


def _agrees(into: np.ndarray, blocks: Blocks, read: list[reader.Decoded]) -> None:
    """`into` is what the second decoder reads, and zero outside of the blocks."""
    expected = np.zeros_like(into)
    for block, row in zip(sorted(read), sorted(blocks.rows), strict=True):
        expected[row, list(block.values)] = list(block.values.values())
    assert np.array_equal(into, expected), "the two decoders differ"


def _planes_target() -> Target:
    data = noise(3)[:2].tobytes()
    planes = {"x": data, "published": data[:1000], "empty": b""}
    stream = [chunk for name, content in planes.items() for chunk in plane_chunks(name, content)]
    messages: list[Message] = [
        (c.header.plane, c.header.bytes, c.header.crc32) if c.HasField("header") else c.data for c in stream
    ]

    def call(changed: Sequence[Message]) -> object:
        at_hand = PlaneReader(lambda name: len(planes[name]) if name in planes else None)
        found = [plane for plane in map(at_hand.feed, map(_chunk, changed)) if plane is not None]
        at_hand.finish()
        return found

    def check(_: random.Random, changed: Sequence[Message], found: Any) -> None:
        sealed = all(crc for m in changed if isinstance(m, tuple) for name, _, crc in [m] if planes.get(name))
        for name, content in found or ():
            assert len(content) == len(planes[name]), "another length"
            assert (
                not sealed or content == planes[name] or _crc_told(changed, name) != _crc_told(messages, name)
            )

    return Target("planes", [messages], mutated_messages, call, check)


def _crc_told(messages: Sequence[Message], name: str) -> set[int]:
    return {m[2] for m in messages if isinstance(m, tuple) and m[0] == name}


def _chunk(message: Message) -> PlaneChunk:
    if message is None:
        return PlaneChunk()
    if isinstance(message, bytes):
        return PlaneChunk(data=message)
    name, size, crc = message
    return PlaneChunk(header=PlaneHeader(plane=name, bytes=size, crc32=crc))


def _packed_target() -> Target:
    real = int(FEW.elements) * 4

    def mutate(rng: random.Random, _: bytes) -> bytes:
        return rng.randbytes(rng.choice((real, max(real + rng.randint(-5, 5), 0), rng.randrange(2 * real))))

    def call(data: bytes) -> object:
        into = np.zeros(REAL.shape, np.float32)
        unpack(data, into, FEW)
        return into

    def check(_: random.Random, data: bytes, into: Any) -> None:
        assert (into is not None) == (len(data) == real), "length"
        assert into is None or not into[~REAL].any()

    return Target("packed", [bytes(real)], mutate, call, check)


REFUSALS = (DamagedFrame, ProtocolMismatch)
